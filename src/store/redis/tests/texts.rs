//! The texts that nodes of one fleet write for each other and for their successors, held against golden files.
//!
//! `tests/golden/stored-2.txt` is what this version writes. A change that alters a text gets a file with the next number; the
//! older files stay, and each of their lines is read as what it was.

use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use super::super::wire;
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::approvals::{Approval, Digest, Status};
use crate::firewall::continuation::Continuation;
use crate::firewall::freeze::{Freeze, Scope};
use crate::firewall::granted::Grants;
use crate::firewall::session::{RefusalStyle, SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
use crate::store::{Change, Lowered, TakenAway};
use crate::testkit::{full_agent as agent, full_order as order};

/// The file of what this version writes, and all that a node may meet.
const WRITTEN: &str = "stored-2.txt";
const READ: [&str; 2] = [FIRST, WRITTEN];
/// Written before agents, sessions and approvals kept who made them.
const FIRST: &str = "stored-1.txt";

const ID: Uuid = Uuid::from_u128(0x0001_0203_0405_4607_8809_0a0b_0c0d_0e0f);
const OTHER: Uuid = Uuid::from_u128(0x1001_0203_0405_4607_8809_0a0b_0c0d_0e0f);

/// One of each change, with every field filled in.
fn changes() -> Vec<(&'static str, Change)> {
    let (me, other, session) = (AgentId(ID), AgentId(OTHER), SessionId(OTHER));
    let registered = Agent { id: me, ..(*agent(TrustLevel::Verified)).clone() };
    let delegation = Delegation {
        id: OTHER,
        from: me,
        to: other,
        scopes: vec!["read".to_owned()],
        created_at: Timestamp(6),
        expires_at: Some(Timestamp(9)),
    };
    let plain = order(me, 40);
    let grants = Grants {
        resources: ["file:///a/*".to_owned()].into(),
        prompts: ["p".to_owned()].into(),
        methods: ["ping".to_owned()].into(),
        ..Grants::clone(&plain.grants)
    };
    let opened = WorkOrder {
        id: session,
        grants: Arc::new(grants),
        refusal_style: Some(RefusalStyle::Result),
        delegation_chain: [other, me].into(),
        ..plain
    };
    let freeze = |scope| Freeze {
        id: ID,
        scope,
        reason: "an \"incident\"".into(),
        by: "night".into(),
        frozen_at: Timestamp(7),
        until: Some(Timestamp(8)),
    };
    let frozen = |scope| Change::Frozen(Arc::new(freeze(scope)));
    vec![
        ("registered", Change::Registered(Arc::new(registered))),
        ("trust", Change::Trust { id: me, level: TrustLevel::Trusted, number: 3 }),
        (
            "taken-away",
            Change::TakenAway(TakenAway {
                id: me,
                inactive: true,
                lowered: Some(Lowered { level: TrustLevel::Untrusted, number: 4 }),
            }),
        ),
        ("purged", Change::Purged { id: me, tombstone: true }),
        ("delegated", Change::Delegation { delegation, version: 5 }),
        ("delegation-ended", Change::DelegationEnded { id: OTHER, version: 6 }),
        (
            "token-revoked",
            Change::TokenRevoked { token_id: "jti \u{e9}".to_owned(), until: Timestamp(77) },
        ),
        ("flagged", Change::Flagged { agent: me, flags: 2 }),
        ("session-opened", Change::SessionOpened(Arc::new(opened))),
        ("session-closed", Change::SessionClosed { id: session, at: Timestamp(8) }),
        ("wanted", Change::Wanted(session)),
        ("frozen-all", frozen(Scope::All)),
        ("frozen-agent", frozen(Scope::Agent(me))),
        ("frozen-owner", frozen(Scope::Owner("o".into()))),
        ("frozen-tool", frozen(Scope::Tool("a:b*".into()))),
        ("frozen-upstream", frozen(Scope::Upstream("u".into()))),
        ("unfrozen", Change::Unfrozen(ID)),
        ("approval", Change::Approval { id: ID, state: approval().state() }),
    ]
}

fn approval() -> Approval {
    Approval {
        id: ID,
        version: 2,
        status: Status::Approved,
        digest: Digest([0xab; 32]),
        agent: AgentId(ID),
        owner: "o".into(),
        principal: "p".into(),
        session: SessionId(OTHER),
        declared_intent: "read".into(),
        upstream: Some("u".into()),
        method: "tools/call".into(),
        target: "read_file".into(),
        arguments: r#"{"a":1}"#.into(),
        clipped: true,
        policy: "ask".into(),
        policy_text: Digest([0xcd; 32]),
        requested_at: Timestamp(1),
        expires_at: Timestamp(900),
        opened_by: Some("corporate:alice".into()),
        registered_by: Some("orchestrator".into()),
        decided_at: Some(Timestamp(2)),
        decided_by: Some("night".into()),
        reason: Some("seen".into()),
        uses_left: 3,
        paid: true,
    }
}

/// Returns a change as the file had it.
fn as_of(file: &str, change: &Change) -> Change {
    match change {
        Change::Registered(agent) if file == FIRST => {
            Change::Registered(Arc::new(Agent { registered_by: None, ..Agent::clone(agent) }))
        }
        Change::SessionOpened(order) if file == FIRST => {
            let grants = Grants { opened_by: None, ..Grants::clone(&order.grants) };
            let grants = Arc::new(grants);
            Change::SessionOpened(Arc::new(WorkOrder { grants, ..WorkOrder::clone(order) }))
        }
        other => other.clone(),
    }
}

fn approval_of(file: &str) -> Approval {
    if file == FIRST {
        return Approval { opened_by: None, registered_by: None, ..approval() };
    }
    approval()
}

fn continuation() -> Continuation {
    Continuation {
        mark: Digest([0xef; 32]),
        session: SessionId(OTHER),
        begun_by: ID,
        tool: Some("read_file".into()),
        approved: None,
        ends: Timestamp(99),
    }
}

fn approved() -> Continuation {
    Continuation { approved: Some(Digest([0xab; 32])), ..continuation() }
}

fn golden(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

#[test]
fn what_is_written_is_what_the_newest_file_says() {
    let mut lines = String::new();
    let mut add = |name: &str, text: &str| lines.extend([name, " ", text, "\n"]);
    for (name, change) in changes() {
        add(name, &wire::change(&change).unwrap());
    }
    add("whole-approval", &wire::write("approval", &approval()).unwrap());
    add("continuation", &wire::write("continuation", &continuation()).unwrap());
    add("approved-continuation", &wire::write("continuation", &approved()).unwrap());
    let path = golden(WRITTEN);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &lines).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        lines, known,
        "older nodes read other texts: write tests/golden/stored-N.txt with the next number, keep {WRITTEN}, and read both"
    );
}

#[test]
fn what_older_versions_wrote_is_read_as_what_it_was() {
    let changes = changes();
    for file in READ {
        let text = std::fs::read_to_string(golden(file)).unwrap();
        let mut count = 0;
        for line in text.lines() {
            let (name, text) = line.split_once(' ').unwrap();
            count += 1;
            match name {
                "whole-approval" => {
                    let read: Approval = wire::read("approval", text).unwrap();
                    assert_eq!(read, approval_of(file));
                }
                "continuation" => {
                    let read: Continuation = wire::read("continuation", text).unwrap();
                    assert_eq!(read, continuation());
                }
                "approved-continuation" => {
                    let read: Continuation = wire::read("continuation", text).unwrap();
                    assert_eq!(read, approved());
                }
                name => {
                    let (_, change) = changes.iter().find(|(known, _)| *known == name).unwrap();
                    let read = wire::read_change(text);
                    assert_eq!(read, Some(as_of(file, change)), "{file} {name}");
                }
            }
        }
        assert!(count >= changes.len(), "{file} is short");
    }
}
