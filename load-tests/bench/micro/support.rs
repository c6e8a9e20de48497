//! A gate with everything real but the network, and the way of a request to its judgement.

use std::hint::black_box;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use arbiter::approvals::{self, Approvals};
use arbiter::audit::{self, Audit, Redactor, RequestHead};
use arbiter::clock::Clock;
use arbiter::continuations::Continuations;
use arbiter::firewall::agent::{Agent, TrustLevel};
use arbiter::firewall::elicitation::Elicitation;
use arbiter::firewall::session::RefusalStyle;
use arbiter::firewall::terms::Terms;
use arbiter::freezer::Freezer;
use arbiter::gate::asking::Asking;
use arbiter::gate::enrol::Enrolment;
use arbiter::gate::in_flight::InFlight;
use arbiter::gate::shares::Limits;
use arbiter::gate::{Carried, Gate, HeadParts, Identified, ProcessState, Settings};
use arbiter::identity::Identity;
use arbiter::mcp::headers::ProtocolHeaders;
use arbiter::metrics::Metrics;
use arbiter::registry::{NewAgent, Registry};
use arbiter::rulebook::Rulebook;
use arbiter::secrets::{self, ScrubSets, Secrets};
use arbiter::sessions::Sessions;
use arbiter::store::{Freshness, Store};

use super::testkit;

const SIGNING_SECRET: &str = "a-signing-secret-of-a-benchmark-0123456789";

/// Parts that a bench prepares before the gate is made.
pub(super) struct Prepared<'a> {
    pub(super) clock: Clock,
    pub(super) store: Arc<Store>,
    pub(super) registry: Arc<Registry>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) terms: Terms,
    /// Text of the policies in force.
    pub(super) policies: &'a str,
    /// Folder of the policies' file and of the audit log.
    pub(super) folder: &'a Path,
    pub(super) audited: bool,
}

impl Prepared<'_> {
    /// Makes the gate, and returns what it decides from too.
    pub(super) async fn gate(self) -> (Gate, ProcessState) {
        let Self { clock, store, registry, sessions, terms, policies, folder, audited } = self;
        let now = clock.now();
        let file = folder.join("policies.toml");
        std::fs::write(&file, policies).expect("the folder is there");
        let rulebook = Rulebook::load(Some(&file), terms).expect("the policies are right");
        let audit = audit::Settings {
            enabled: audited,
            ..audit::Settings::at(folder.join("audit.jsonl"), "bench")
        };
        let audit = Audit::open(audit, clock.clone()).expect("the log can be opened");
        let metrics = Metrics::new();
        metrics.name_tools(rulebook.rules().policies.named_tools());
        let continuations = Continuations::new(store.clone(), [SIGNING_SECRET]);
        let freezer = Freezer::load(store, now).await.expect("the store answers");
        let secrets = Secrets::load(secrets::Source::None, now.mono);
        let secrets = Arc::new(secrets.expect("there is nothing to load"));
        let approvals = Approvals::new(
            approvals::Settings::default(),
            b"bench",
            Arc::new(Store::memory()),
            clock.now(),
        );
        let limits = Limits { refusals_per_sec: u32::MAX, ..Limits::default() };
        // Rules that let a server ask anything.
        let asking = Asking {
            elicitation: Elicitation::default(),
            secrets: Arc::clone(&secrets),
            secret_names: None,
        };
        let state = ProcessState {
            identity: Arc::new(Identity::new(SIGNING_SECRET.as_bytes())),
            enrolment: Arc::new(Enrolment::new(&[], &registry)),
            rulebook: Arc::new(rulebook),
            approvals: Arc::new(approvals),
            continuations: Arc::new(continuations),
            registry,
            sessions,
            freezer: Arc::new(freezer),
            freshness: Arc::new(Freshness::alone()),
            audit: Arc::new(audit),
            recent: Arc::default(),
            secrets,
            scrub_sets: Arc::new(ScrubSets::new(Vec::new(), now.wall)),
            metrics: Arc::new(metrics),
            in_flight: Arc::new(InFlight::new(limits)),
            drain: Arc::default(),
            traces: None,
            clock,
        };
        let redactor = Redactor::new(&[], false).expect("the built-in patterns are right");
        (Gate::new(state.clone(), asking, redactor, settings()), state)
    }
}

fn settings() -> Settings {
    Settings {
        strict_mcp: true,
        require_healthy_audit: true,
        refusal_style: RefusalStyle::Http,
        max_argument_bytes: 8_192,
        max_request_body_bytes: 10 * 1024 * 1024,
        max_list_ttl_ms: 60_000,
    }
}

/// An agent as the benches register it.
pub(super) fn new_agent() -> NewAgent {
    NewAgent {
        owner: "finance".to_owned(),
        trust: TrustLevel::Verified,
        ..testkit::new_agent(&["search"])
    }
}

/// Returns a token of each agent.
pub(super) fn tokens(agents: &[Arc<Agent>], clock: &Clock) -> Vec<String> {
    let now = clock.now().wall;
    agents.iter().map(|agent| testkit::token(SIGNING_SECRET, agent, now)).collect()
}

/// Opens a request and proves its sender.
pub(super) fn identify(gate: &Gate, token: &str) -> Identified {
    let arrived = ready(gate.receive(head(gate), &Carried::default())).expect("the gate is open");
    let identified = ready(gate.identify(arrived, Some(black_box(token))));
    identified.unwrap_or_else(|_denied| panic!("the token is good"))
}

/// A head like those that clients send.
fn head(gate: &Gate) -> RequestHead {
    gate.head(&HeadParts {
        client_addr: Some(std::net::Ipv4Addr::LOCALHOST.into()),
        user_agent: Some("python-httpx/0.28.1"),
        http_method: Some("POST"),
        path: Some("/mcp"),
        trace_id: Some("0af7651916cd43dd8448eb211c80319c"),
    })
}

/// Headers that a client of 2025-11-25 sends.
pub(super) fn mirrors<'h>() -> ProtocolHeaders<'h> {
    ProtocolHeaders { version: Some("2025-11-25"), ..ProtocolHeaders::default() }
}

/// Runs a future that has nothing to wait for, as a poll from the proxy does.
pub(super) fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("the future waits"),
    }
}
