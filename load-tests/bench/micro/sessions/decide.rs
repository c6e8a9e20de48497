//! One decision at a session drawn at random: among a thousand and among many more, in turns.

use std::sync::Arc;
use std::time::Instant;

use arbiter::clock::Clock;
use arbiter::firewall::agent::{Agent, AgentId};
use arbiter::firewall::checks::drift::UnknownIntent;
use arbiter::firewall::checks::whitelist::Wildcard;
use arbiter::firewall::session::{SessionId, WorkOrder};
use arbiter::firewall::terms::Terms;
use arbiter::gate::{Claims, Destination, Gate, Kind, ProcessState};
use arbiter::registry::Registry;
use arbiter::store::Store;
use bytes::Bytes;

use super::support::{Prepared, identify, mirrors, new_agent, ready, tokens};
use super::{Mix, SETTINGS, Times, create, open, runtime, testkit};

const FEW: usize = 1_000;
const ROUNDS: usize = 20;
const CALLS_A_ROUND: usize = 10_000;
const SESSIONS_OF_AN_AGENT: usize = 10;
const POLICY: &str =
    "[[policies]]\nid = \"all\"\neffect = \"allow\"\nallowed_tools = [\"tool_*\"]\n";
const CALL: &str = concat!(
    r#"{"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"tool_7_1","arguments":"#,
    r#"{"query":"quarterly report","limit":25,"path":"/srv/projects/alpha"}}}"#,
);

/// Prints both, and how they compare.
pub(super) fn compare(count: usize) {
    let runtime = runtime();
    let _inside = runtime.enter();
    let (few, many) = (World::new(&runtime, FEW), World::new(&runtime, count));
    let mut draw = Draw(0x9E37_79B9_7F4A_7C15);
    let mut times = [Vec::new(), Vec::new()];
    let mut look_ups = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (world, (times, look_ups)) in
            [&few, &many].into_iter().zip(times.iter_mut().zip(look_ups.iter_mut()))
        {
            for _ in 0..CALLS_A_ROUND {
                let at = draw.below(world.sessions.len());
                look_ups.push(world.look_up(at));
                times.push(world.judge(draw.below(world.sessions.len())));
            }
        }
    }
    let say = |what: &str, [few, many]: [Vec<_>; 2]| {
        let (few, many) = (Times::of(few), Times::of(many));
        let ratio = |many: std::time::Duration, few: std::time::Duration| {
            many.as_secs_f64() / few.as_secs_f64()
        };
        println!("{what:<8} among {FEW:>7}: {few}");
        println!("{what:<8} among {count:>7}: {many}");
        let (middle, high) = (ratio(many.p50, few.p50), ratio(many.p99, few.p99));
        println!("{what:<8} ratio: p50 {middle:.2}, p99 {high:.2}");
    };
    say("judge", times);
    say("look-up", look_ups);
}

/// Generator that draws an identical sequence in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let bound = u64::try_from(bound).unwrap_or(u64::MAX);
        usize::try_from(self.0 % bound).unwrap_or_default()
    }
}

/// A gate with many sessions, ten of each agent.
struct World {
    gate: Gate,
    state: ProcessState,
    /// Agents, with a token of each.
    callers: Vec<(AgentId, String)>,
    /// With the number of their agent, and as their callers name them.
    sessions: Vec<(SessionId, u32)>,
    to: Arc<Destination>,
    body: Bytes,
}

impl World {
    fn new(runtime: &tokio::runtime::Runtime, count: usize) -> Self {
        let clock = Clock::system();
        let store = Arc::new(Store::memory());
        let registry = runtime
            .block_on(Registry::load(store.clone(), clock.clone()))
            .expect("the store answers");
        let registry = Arc::new(registry);
        let agents: Vec<Arc<Agent>> = (0..count.div_ceil(SESSIONS_OF_AN_AGENT))
            .map(|_| {
                let registered = registry.register(new_agent(), clock.now().wall);
                runtime.block_on(registered).expect("the store answers")
            })
            .collect();
        let sessions = open(runtime, &store, &clock);
        let ids: Vec<(SessionId, u32)> = (0..count)
            .map(|n| (SessionId::random(), u32::try_from(n / SESSIONS_OF_AN_AGENT).unwrap_or(0)))
            .collect();
        let planned = ids.iter().map(|&(id, agent)| {
            let agent = usize::try_from(agent).ok().and_then(|agent| agents.get(agent));
            let agent = agent.expect("each session has an agent").id;
            // The chain that the admin API gives a session.
            let acting = registry.acting(agent, clock.now().wall);
            (id, agent, acting.expect("it is registered").chain)
        });
        // As long as the process, so that all tasks may look.
        let planned: &'static [_] = Vec::leak(planned.collect());
        create(runtime, &sessions, &clock, count, move |n, clock| {
            let (id, agent, chain) = planned.get(n).cloned().expect("each has a place");
            WorkOrder {
                id,
                agent,
                delegation_chain: chain,
                grants: testkit::granted(&["tool_7_0", "tool_7_1", "tool_7_2"]),
                rate_limit: None,
                call_budget: 1 << 40,
                ..Mix::Usual.order(n, clock)
            }
        });
        for &(id, _) in &ids {
            let live = sessions.get(id).expect("it was created");
            runtime
                .block_on(sessions.lease(&live, 1, clock.mono(), &clock))
                .expect("the store books");
        }
        let folder = tempfile::tempdir().expect("a folder can be made");
        let terms = Terms {
            require_session: true,
            rate_window_secs: SETTINGS.rate_window_secs,
            wildcard: Wildcard::Literal,
            escalate_anomalies: false,
            unknown_intent: UnknownIntent::Flag,
            warning_threshold_pct: 20.0,
            ..Terms::default()
        };
        let prepared = Prepared {
            clock,
            store,
            registry,
            sessions,
            terms,
            policies: POLICY,
            folder: folder.path(),
            audited: false,
        };
        let (gate, state) = runtime.block_on(prepared.gate());
        let ids_of_agents = agents.iter().map(|agent| agent.id);
        let callers = ids_of_agents.zip(tokens(&agents, &state.clock)).collect();
        let body = Bytes::from_static(CALL.as_bytes());
        let world = Self { gate, state, callers, sessions: ids, to: Arc::default(), body };
        // An agent's first call works out where it stands, which is not what is measured.
        for at in 0..count {
            world.judge(at);
        }
        world
    }

    /// Parse and decision, through the gate itself.
    fn judge(&self, at: usize) -> std::time::Duration {
        let &(id, agent) = self.sessions.get(at).expect("it is below the bound");
        let caller = usize::try_from(agent).ok().and_then(|agent| self.callers.get(agent));
        let (agent, token) = caller.expect("each session has an agent");
        let (session, agent) = (id.to_string(), agent.to_string());
        let claims = Claims { session: Some(&session), agent: Some(&agent), protocol: mirrors() };
        let identified = identify(&self.gate, token);
        let read = identified.read(Kind::Message, self.body.clone(), Arc::clone(&self.to));
        let started = Instant::now();
        let judged = ready(self.gate.judge(read, &claims));
        let took = started.elapsed();
        assert!(judged.is_ok(), "the call is allowed");
        took
    }

    /// Only what depends on how many sessions there are: one is found, and its usage locked.
    fn look_up(&self, at: usize) -> std::time::Duration {
        let &(id, _) = self.sessions.get(at).expect("it is below the bound");
        let started = Instant::now();
        let found = self.state.sessions.get(id);
        let closed = found.is_none_or(|live| live.with(|usage| usage.closed));
        let took = started.elapsed();
        assert!(!closed);
        took
    }
}
