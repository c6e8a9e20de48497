//! The freeze: nothing that an operator has stopped goes on.

use crate::firewall::agent::Agent;
use crate::firewall::call::{CallKind, UpstreamRef};
use crate::firewall::denial::{Code, Denial};
use crate::firewall::freeze::{Freeze, Frozen};
use crate::firewall::time::Now;

/// Refuses calls of a frozen agent, owner, tool or upstream.
pub fn check<'k>(
    frozen: Frozen<'_>,
    agent: &Agent,
    kinds: impl IntoIterator<Item = &'k CallKind<'k>>,
    upstream: UpstreamRef<'_>,
    now: Now,
) -> Result<(), Denial> {
    let Frozen { freezes, above } = frozen;
    let of_tool = |kind: &CallKind<'_>| match kind {
        CallKind::Tool { name, .. } => freezes.of_tool(name, upstream, now),
        CallKind::Data { .. } | CallKind::Protocol => None,
    };
    let found = freezes
        .of_caller(agent, above, upstream, now)
        .or_else(|| kinds.into_iter().find_map(of_tool));
    found.map_or(Ok(()), |freeze| Err(refusal(freeze)))
}

fn refusal(freeze: &Freeze) -> Denial {
    let Freeze { scope, reason, until, .. } = freeze;
    let message = match until {
        Some(until) => format!("an operator has stopped {scope} until {until} ({reason}): wait"),
        None => format!("an operator has stopped {scope} ({reason}): do not try again by yourself"),
    };
    let denial =
        Denial::new(Code::Frozen, message).with("scope", scope.as_str()).with("reason", &**reason);
    match until {
        Some(until) => denial.with("until", until.to_string()),
        None => denial,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::firewall::agent::AgentId;
    use crate::firewall::freeze::{Freezes, Held, Scope};
    use crate::firewall::time::{Mono, Timestamp};
    use crate::testkit;

    const NOW: Now = Now { wall: Timestamp(1_000_000), mono: Mono(5) };

    fn agent(owner: &str) -> Arc<Agent> {
        Arc::new(Agent { owner: owner.to_owned(), ..testkit::agent(AgentId::random()) })
    }

    fn held(scope: Scope, until: Option<Timestamp>) -> Held {
        let freeze = Freeze {
            id: Uuid::new_v4(),
            scope,
            reason: "an incident".into(),
            by: "ops".into(),
            frozen_at: NOW.wall,
            until,
        };
        Held::new(Arc::new(freeze), NOW)
    }

    fn tool(name: &'static str) -> CallKind<'static> {
        CallKind::Tool { name: name.into(), arguments: None }
    }

    #[test]
    fn each_scope_stops_what_it_names_and_nothing_else() {
        let (mine, boss) = (agent("user:me"), agent("user:boss"));
        let check = |scope: Scope, kind: &CallKind<'_>, upstream, above: &[Arc<Agent>]| {
            let freezes = Freezes::of([held(scope, None)]);
            let frozen = Frozen { freezes: &freezes, above };
            check(frozen, &mine, [kind], UpstreamRef { name: upstream }, NOW).is_err()
        };
        let read = tool("read_file");
        let list = CallKind::Protocol;
        let git = Some("git");
        let upstream = |name: &str| Scope::Upstream(name.into());
        for (scope, stops_read, stops_list) in [
            (Scope::All, true, true),
            (Scope::Agent(mine.id), true, true),
            (Scope::Agent(AgentId::random()), false, false),
            (Scope::Owner("user:me".into()), true, true),
            (Scope::Owner("user:m".into()), false, false),
            (upstream("git"), true, true),
            (upstream("files"), false, false),
            (Scope::Tool("read_file".into()), true, false),
            (Scope::Tool("*:read_file".into()), true, false),
            (Scope::Tool("git:read_file".into()), true, false),
            (Scope::Tool("files:read_file".into()), false, false),
            (Scope::Tool("read_*".into()), true, false),
            (Scope::Tool("git:*".into()), true, false),
            (Scope::Tool("files:read_*".into()), false, false),
            (Scope::Tool("Read_file".into()), false, false),
            (Scope::Tool("read".into()), false, false),
        ] {
            assert_eq!(check(scope.clone(), &read, git, &[]), stops_read, "{scope:?}");
            assert_eq!(check(scope.clone(), &list, git, &[]), stops_list, "{scope:?}");
        }
        assert!(!check(upstream("git"), &read, None, &[]), "an upstream without a name");
        let above = [Arc::clone(&boss)];
        assert!(check(Scope::Agent(boss.id), &read, None, &above), "its delegates stop too");
        assert!(check(Scope::Owner("user:boss".into()), &read, None, &above));
        assert!(!check(Scope::Agent(boss.id), &read, None, &[]));
    }

    #[test]
    fn a_freeze_ends_when_both_clocks_say_so() {
        let until = Timestamp(3_000_000);
        let freezes = Freezes::of([held(Scope::All, Some(until))]);
        let stopped = |wall, mono| {
            let now = Now { wall: Timestamp(wall), mono: Mono(mono) };
            check(Frozen::alone(&freezes), &agent("o"), [&tool("t")], UpstreamRef::default(), now)
                .is_err()
        };
        assert!(stopped(2_999_999, 2_000_004));
        assert!(stopped(9_000_000, 6), "a wall clock set forward");
        assert!(stopped(2_999_999, 9_000_000), "a wall clock set back");
        assert!(!stopped(3_000_000, 2_000_005));
    }

    #[test]
    fn the_agent_learns_the_reason_and_the_end() {
        let until = Some(Timestamp(3_000_000));
        let freezes = Freezes::of([held(Scope::Tool("t".into()), until)]);
        let refused =
            check(Frozen::alone(&freezes), &agent("o"), [&tool("t")], UpstreamRef::default(), NOW);
        let denial = refused.unwrap_err();
        assert_eq!(denial.code, Code::Frozen);
        assert!(denial.message.contains("this tool until 1970-01-01T00:00:03"), "{denial:?}");
        assert_eq!(denial.details["reason"], "an incident");
        assert_eq!(denial.details["scope"], "tool");
    }
}
