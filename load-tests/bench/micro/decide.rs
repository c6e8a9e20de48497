//! Cost of judging one allowed tool call, step by step, with everything real but the network.
//!
//! `judge` goes through [`Gate::judge`] itself: parse, read, agreement of headers and body, session
//! look-up, the decision, credentials, redaction. Divan also counts the
//! allocations of each step, on the allocator that the gateway runs on.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that measures another path is wrong"
)]

use std::fmt::Write as _;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use arbiter::audit::Redactor;
use arbiter::clock::Clock;
use arbiter::credentials::{self, Patterns};
use arbiter::firewall::admit;
use arbiter::firewall::agent::{Agent, Caller};
use arbiter::firewall::ask::Ask;
use arbiter::firewall::call::{UpstreamRef, price};
use arbiter::firewall::checks::continuation::RequestState;
use arbiter::firewall::checks::drift::UnknownIntent;
use arbiter::firewall::checks::session::{AgentHeader, Claimed, Found, Seen};
use arbiter::firewall::checks::whitelist::Wildcard;
use arbiter::firewall::freeze::{Freezes, Frozen};
use arbiter::firewall::rules::Rules;
use arbiter::firewall::session::WorkOrder;
use arbiter::firewall::terms::Terms;
use arbiter::gate::{Claims, Cleared, Destination, Ended, Gate, Identified, Kind, ProcessState};
use arbiter::json::Doc;
use arbiter::mcp::{headers, message};
use arbiter::registry::Registry;
use arbiter::sessions::{self, Live, Sessions};
use arbiter::store::Store;
use bytes::Bytes;
use divan::{AllocProfiler, Bencher, black_box};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use support::{Prepared, identify, mirrors, new_agent, tokens};

mod support;
#[expect(dead_code, reason = "each target takes what it needs")]
#[path = "../../../src/testkit.rs"]
mod testkit;

#[global_allocator]
static ALLOCATOR: AllocProfiler<mimalloc::MiMalloc> = AllocProfiler::new(mimalloc::MiMalloc);

fn main() {
    divan::Divan::default().sample_count(100).sample_size(100).config_with_args().main();
}

/// 318 bytes, as agents send them.
const CALL: &str = concat!(
    r#"{"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"search_documents","arguments":"#,
    r#"{"query":"quarterly report","limit":25,"recursive":true,"path":"/srv/projects/alpha","note":""#,
    "Find what the finance team wrote about the third quarter, newest first, and sum it up for me.",
    r#""},"_meta":{"progressToken":"a7f3"}}}"#,
);
const _: () = assert!(CALL.len() == 318, "the length that all benches of a call share");

const BUDGET: u64 = 1 << 53;

/// `count` policies, of which one allows the call; the others speak of other tools.
fn policies(count: usize) -> String {
    let mut text = String::from(
        r#"
        [[policies]]
        id = "search"
        effect = "allow"
        allowed_tools = ["search_documents", "list_*"]
        [policies.agent_match]
        trust_level = "basic"
        [policies.intent_match]
        keywords = ["quarterly"]
        [[policies.parameter_constraints]]
        key = "limit"
        min_value = 1
        max_value = 100
        "#,
    );
    for n in 1..count {
        let policy = format_args!(
            "[[policies]]\nid = \"other-{n}\"\neffect = \"allow\"\nallowed_tools = [\"tool_{n}\"]\n"
        );
        text.write_fmt(policy).expect("a text takes what is written to it");
    }
    text
}

fn terms() -> Terms {
    Terms {
        require_session: true,
        rate_window_secs: 60,
        wildcard: Wildcard::Literal,
        escalate_anomalies: true,
        unknown_intent: UnknownIntent::Flag,
        warning_threshold_pct: 20.0,
        ..Terms::default()
    }
}

/// A gate with one agent that has one session.
struct World {
    runtime: Runtime,
    gate: Gate,
    state: ProcessState,
    token: String,
    session: String,
    agent: String,
    live: Arc<Live>,
    caller: Caller,
    to: Arc<Destination>,
    _folder: TempDir,
}

impl World {
    /// The log lies in memory where the system has such a place, so that no disk is measured.
    fn new(audited: bool) -> Self {
        Self::below(0, audited)
    }

    /// The agent stands below `above` others.
    fn below(above: usize, audited: bool) -> Self {
        let shared = Path::new("/dev/shm");
        let folder = if shared.is_dir() { TempDir::new_in(shared) } else { TempDir::new() };
        let folder = folder.expect("a folder can be made");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be built");
        let (gate, state, live, agent) = runtime.block_on(gate(folder.path(), above, audited));
        let token = tokens(std::slice::from_ref(&agent), &state.clock).remove(0);
        let caller = identify(&gate, &token).caller().clone();
        runtime
            .block_on(state.sessions.lease(&live, 1, state.clock.mono(), &state.clock))
            .expect("the store books");
        Self {
            runtime,
            token,
            session: live.order.id.to_string(),
            agent: agent.id.to_string(),
            gate,
            state,
            live,
            caller,
            to: Arc::default(),
            _folder: folder,
        }
    }

    fn claims(&self) -> Claims<'_> {
        Claims { session: Some(&self.session), agent: Some(&self.agent), protocol: mirrors() }
    }

    fn identify(&self) -> Identified {
        identify(&self.gate, &self.token)
    }

    /// Judges the call; a refusal would be another path than the one that is measured.
    fn judge(&self, identified: Identified, body: Bytes) -> Box<Cleared> {
        let claims = self.claims();
        let read = identified.read(Kind::Message, body, Arc::clone(&self.to));
        let mut judged = pin!(self.gate.judge(read, &claims));
        let judged = match judged.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(judged) => judged,
            // A lease that has run out is the one thing that really waits.
            Poll::Pending => self.runtime.block_on(judged),
        };
        judged.unwrap_or_else(|refused| panic!("refused: {:?}", refused.denial))
    }
}

async fn gate(
    folder: &Path,
    above: usize,
    audited: bool,
) -> (Gate, ProcessState, Arc<Live>, Arc<Agent>) {
    let clock = Clock::system();
    let now = clock.now();
    let store = Arc::new(Store::memory());
    let registry =
        Arc::new(Registry::load(store.clone(), clock.clone()).await.expect("the store answers"));
    let new = new_agent();
    let mut agent = registry.register(new.clone(), now.wall).await.expect("the store answers");
    for _ in 0..above {
        let next = registry.register(new.clone(), now.wall).await.expect("the store answers");
        let made = registry.delegate(agent.id, next.id, new.capabilities.clone(), None, now.wall);
        made.await.expect("the delegation narrows");
        agent = next;
    }
    let acting = registry.acting(agent.id, now.wall).expect("the agent is registered");
    let limits = sessions::Settings { max_per_agent: 10, rate_window_secs: 60 };
    let sessions = Sessions::load(store.clone(), limits, now).await.expect("the store answers");
    let tools = ["list_documents", "read_document", "search_documents"];
    let order = WorkOrder {
        declared_intent: "search documents for the quarterly report".into(),
        call_budget: BUDGET,
        delegation_chain: acting.chain,
        ..testkit::order_for(agent.id, now.wall, 86_400, &tools)
    };
    let live = sessions.create(order, now).await.expect("the store answers");
    let prepared = Prepared {
        clock,
        store,
        registry,
        sessions: Arc::new(sessions),
        terms: terms(),
        policies: &policies(10),
        folder,
        audited,
    };
    let (gate, state) = prepared.gate().await;
    (gate, state, live, agent)
}

fn done() -> Ended {
    Ended {
        elicited: Vec::new(),
        server: None,
        upstream_status: Some(200),
        scrubbed: 0,
        bytes_out: 0,
        failed: None,
        whole: true,
        task: None,
    }
}

#[divan::bench]
fn a_parse_and_read(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| {
        let doc = Doc::parse(black_box(CALL.as_bytes())).map_err(drop);
        doc.is_ok_and(|doc| black_box(message::read(&doc)).is_ok_and(|m| m.calls.len() == 1))
    });
}

/// The decision, with its two short looks under the session's lock.
#[divan::bench(args = [10, 1_000, 10_000])]
fn b_admit(bencher: Bencher<'_, '_>, policies_in_force: usize) {
    let world = World::new(false);
    let text = policies(policies_in_force);
    let rules = Rules { policies: testkit::policies(&text), terms: terms() };
    let doc = Doc::parse(CALL.as_bytes()).expect("the call is JSON");
    let message = message::read(&doc).expect("the call is MCP");
    let now = world.state.clock.now();
    let (order, live) = (&*world.live.order, &world.live);
    let freezes = Freezes::default();
    bencher.bench_local(|| {
        let calls = black_box(&message.calls);
        let price = price(calls);
        let found = Found {
            order,
            deadline: live.ends(now),
            seen: live.with(|usage| Seen::of(&rules.terms, order, usage, price, now)),
            chain: Ok(()),
        };
        let ask = Ask {
            policies: black_box(&rules.policies),
            terms: &rules.terms,
            caller: &world.caller,
            header: AgentHeader::Is(order.agent),
            claimed: Claimed::Found(found),
            frozen: Frozen::alone(&freezes),
            calls,
            tasks: &[],
            state: RequestState::Absent,
            upstream: UpstreamRef::default(),
            now,
        };
        let examined = admit::examine(ask, &mut ()).unwrap_or_else(|_| panic!("it is allowed"));
        let spent = live.with(|usage| examined.spend(Some(usage), now, &mut ()));
        let spent = spent.unwrap_or_else(|_| panic!("the lease covers all calls"));
        assert!(examined.conclude(spent, &mut ()).outcome.is_ok());
    });
}

/// Compares headers with the body.
#[divan::bench]
fn c_headers_agree(bencher: Bencher<'_, '_>) {
    let doc = Doc::parse(CALL.as_bytes()).expect("the call is JSON");
    let message = message::read(&doc).expect("the call is MCP");
    let mirrors = mirrors();
    bencher.bench_local(|| headers::agree(black_box(&mirrors), black_box(&message)).is_ok());
}

/// Looks for references to credentials.
#[divan::bench]
fn d_credentials(bencher: Bencher<'_, '_>) {
    let doc = Doc::parse(CALL.as_bytes()).expect("the call is JSON");
    bencher
        .bench_local(|| credentials::references(black_box(&doc), &[]).is_ok_and(|r| r.is_empty()));
}

/// The arguments as the record has them.
#[divan::bench]
fn e_redact(bencher: Bencher<'_, '_>) {
    let redactor = Redactor::new(&[], false).expect("the built-in patterns are right");
    let doc = Doc::parse(CALL.as_bytes()).expect("the call is JSON");
    let arguments = doc.root().get("params").and_then(|params| params.get("arguments"));
    let arguments = arguments.expect("the call has arguments");
    let none = Arc::new(Patterns::new([]));
    bencher.bench_local(|| redactor.redact(black_box(arguments), 8_192, &none));
}

/// A request's record is opened and its token is known.
#[divan::bench]
fn f_open_and_identify(bencher: Bencher<'_, '_>) {
    let world = World::new(false);
    bencher.bench_local(|| world.identify());
}

/// Parse and decision together, through the gate itself; no record is written.
#[divan::bench]
fn g_judge(bencher: Bencher<'_, '_>) {
    let world = World::new(false);
    let body = Bytes::from_static(CALL.as_bytes());
    bencher
        .with_inputs(|| (world.identify(), body.clone()))
        .bench_local_values(|(identified, body)| world.judge(identified, black_box(body)));
}

/// Everything between the proxy's callbacks: opened, identified, judged, completed; no record.
#[divan::bench]
fn h_whole_call(bencher: Bencher<'_, '_>) {
    whole_call(bencher, &World::new(false));
}

/// Measures the call with its record: written to the journal at once, to the log by the writer's
/// thread. Makes no more calls than the journal has room for, should the writer not get a processor
/// meanwhile.
#[divan::bench(sample_count = 100, sample_size = 50)]
fn i_whole_call_on_record(bencher: Bencher<'_, '_>) {
    whole_call(bencher, &World::new(true));
}

fn whole_call(bencher: Bencher<'_, '_>, world: &World) {
    let body = Bytes::from_static(CALL.as_bytes());
    bencher.bench_local(|| {
        let cleared = world.judge(world.identify(), black_box(body.clone()));
        world.gate.finish(cleared, &done());
    });
}

/// Looks up the caller's current rights: of an agent alone, and of a delegate at the end of the
/// longest chain.
#[divan::bench(args = [0, 8])]
fn j_authorization(bencher: Bencher<'_, '_>, above: usize) {
    let world = World::below(above, false);
    let (id, now) = (world.caller.agent.id, world.state.clock.now().wall);
    bencher.bench_local(|| {
        let acting = world.state.registry.acting(black_box(id), now);
        assert!(acting.is_some_and(|acting| acting.agent.is_ok()));
    });
}

/// A whole call of a delegate, to be held against `h_whole_call`.
#[divan::bench(args = [1, 8])]
fn l_whole_call_of_a_delegate(bencher: Bencher<'_, '_>, above: usize) {
    whole_call(bencher, &World::below(above, false));
}
