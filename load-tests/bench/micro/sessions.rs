//! Cost of a million live sessions: memory, start-up, the decision, and their clean-up.
//!
//! `cargo bench --bench sessions [-- COUNT]`. Each part runs in a process of its own, so that one
//! part's memory is not counted with another's. The machine's other work is in every time; CPU times
//! and ratios within one run say more.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints, and one that measures another path is wrong"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arbiter::clock::Clock;
use arbiter::firewall::agent::AgentId;
use arbiter::firewall::granted::Grants;
use arbiter::firewall::session::WorkOrder;
use arbiter::sessions::{Sessions, Settings};
use arbiter::store::{SealKey, Store};
use tokio::runtime::Runtime;

#[path = "sessions/decide.rs"]
mod decide;
#[path = "sessions/forget.rs"]
mod forget;
mod support;
#[expect(dead_code, reason = "each target takes what it needs")]
#[path = "../../../src/testkit.rs"]
mod testkit;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SETTINGS: Settings = Settings { max_per_agent: 1_000, rate_window_secs: 60 };
/// Creations under way at the same time.
const CREATORS: usize = 64;

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => all("1000000"),
        [count] => all(count),
        ["memory", mix, count] => {
            memory(Store::memory(), Mix::named(mix), number(count), "memory");
        }
        ["fill", key, path, count] => {
            let store = runtime().block_on(sqlite(path, key));
            memory(store, Mix::Usual, number(count), key);
        }
        ["load", key, path, count] => load(path, key, number(count)),
        ["decide", count] => decide::compare(number(count)),
        ["forget", path, count] => forget::beside_calls(path, number(count)),
        other => panic!("what is {other:?}?"),
    }
}

fn all(count: &str) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (plain, sealed) = (path("plain.db"), path("sealed.db"));
    for part in [
        &["memory", "usual", count][..],
        &["memory", "all-different", count],
        &["fill", "plain", &plain, count],
        &["load", "plain", &plain, count],
        &["forget", &plain, count],
        &["fill", "sealed", &sealed, count],
        &["load", "sealed", &sealed, count],
        &["decide", count],
    ] {
        let program = std::env::current_exe().expect("a program knows its file");
        let ended = Command::new(program).args(part).status().expect("the program starts");
        assert!(ended.success(), "{part:?} failed");
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a number of sessions")
}

fn runtime() -> Runtime {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().expect("a runtime can be built")
}

async fn sqlite(path: &str, key: &str) -> Store {
    let key = (key == "sealed").then(|| SealKey::from_hex(&"5e".repeat(32)).expect("a key"));
    Store::sealed_sqlite(Path::new(path), key).await.expect("the file opens")
}

/// Shape of the sessions.
#[derive(Clone, Copy)]
enum Mix {
    /// Five sessions an agent, a hundred kinds of work.
    Usual,
    /// Each session has an agent and a list of tools that no other has.
    AllDifferent,
}

impl Mix {
    fn named(name: &str) -> Self {
        if name == "usual" { Self::Usual } else { Self::AllDifferent }
    }

    /// Two to five tools, an intent of 40 to 80 bytes, some with a rate limit.
    fn order(self, n: usize, clock: &Clock) -> WorkOrder {
        let (agent, kind) = match self {
            Self::Usual => (n / 5, n % 100),
            Self::AllDifferent => (n, n),
        };
        let agent = agent_of(agent);
        let tools = (0..2 + kind % 4).map(|tool| format!("tool_{kind}_{tool}")).collect();
        let intent = "search the quarterly reports of the finance department";
        let intent = format!("{intent}, {}", "carefully ".repeat(n % 3));
        let now = clock.now().wall;
        WorkOrder {
            declared_intent: intent.into(),
            grants: Arc::new(Grants { tools, ..Grants::default() }),
            call_budget: 1_000,
            rate_limit: n.is_multiple_of(4).then_some(60),
            delegation_chain: chain_of(self, agent),
            ..testkit::order_for(agent, now, 86_400, &[])
        }
    }
}

/// The registry gives all sessions of an agent the same chain, while nothing changes in between.
fn chain_of(mix: Mix, agent: AgentId) -> Arc<[AgentId]> {
    static CHAINS: Mutex<BTreeMap<AgentId, Arc<[AgentId]>>> = Mutex::new(BTreeMap::new());
    match mix {
        Mix::Usual => {
            let mut chains = CHAINS.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(chains.entry(agent).or_insert_with(|| [agent].into()))
        }
        Mix::AllDifferent => [agent].into(),
    }
}

fn agent_of(n: usize) -> AgentId {
    let n = u128::try_from(n).unwrap_or_default();
    // Spread as drawn ids are.
    AgentId(uuid::Uuid::from_u128((n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_0605_CEDC_8341)))
}

/// Opens sessions one by one and says what each takes.
fn memory(store: Store, mix: Mix, count: usize, name: &str) {
    let (runtime, clock) = (runtime(), Clock::system());
    let store = Arc::new(store);
    let sessions = open(&runtime, &store, &clock);
    let before = resident_bytes();
    let started = Instant::now();
    create(&runtime, &sessions, &clock, count, move |n, clock| mix.order(n, clock));
    let took = started.elapsed();
    let bytes = resident_bytes().saturating_sub(before) / count;
    let mix = match mix {
        Mix::Usual => "usual",
        Mix::AllDifferent => "all different",
    };
    println!("opened {name:<7} {mix:<13} {count}: {bytes} bytes each, {took:.1?}");
    runtime.block_on(store.close()).expect("the store closes");
}

/// Loads what an earlier run left.
fn load(path: &str, key: &str, count: usize) {
    let (runtime, clock) = (runtime(), Clock::system());
    let store = Arc::new(runtime.block_on(sqlite(path, key)));
    let (before, cpu, started) = (resident_bytes(), cpu_time(), Instant::now());
    let sessions = open(&runtime, &store, &clock);
    let (took, cpu) = (started.elapsed(), cpu_time().saturating_sub(cpu));
    let bytes = resident_bytes().saturating_sub(before) / count;
    assert_eq!(sessions.active_count(clock.now()), count, "all are loaded");
    println!("loaded {key:<7} {count}: {took:.2?}, {cpu:.2?} of CPU, {bytes} bytes each");
}

fn open(runtime: &Runtime, store: &Arc<Store>, clock: &Clock) -> Arc<Sessions> {
    let opened = Sessions::load(Arc::clone(store), SETTINGS, clock.now());
    Arc::new(runtime.block_on(opened).expect("the store answers"))
}

/// Opens sessions from many tasks, as one alone would wait for the store most of the time.
fn create(
    runtime: &Runtime,
    sessions: &Arc<Sessions>,
    clock: &Clock,
    count: usize,
    order: impl Fn(usize, &Clock) -> WorkOrder + Copy + Send + 'static,
) {
    let tasks = (0..CREATORS).map(|first| {
        let (sessions, clock) = (Arc::clone(sessions), clock.clone());
        runtime.spawn(async move {
            for n in (first..count).step_by(CREATORS) {
                let created = sessions.create(order(n, &clock), clock.now()).await;
                created.expect("the store answers");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        runtime.block_on(task).expect("no task panics");
    }
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux says");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<usize> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kib.expect("Linux says") * 1_024
}

/// CPU time of all threads of this process.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux says");
    let (_, after_name) = text.rsplit_once(')').expect("a name is in brackets");
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    // A hundred ticks a second, on every Linux that this runs on.
    Duration::from_millis(ticks * 10)
}

/// The middle one, that which one in a hundred passes, and the longest.
struct Times {
    p50: Duration,
    p99: Duration,
    longest: Duration,
}

impl Times {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let at = |part: usize| all.get(all.len() * part / 100).copied().unwrap_or_default();
        Self { p50: at(50), p99: at(99), longest: all.last().copied().unwrap_or_default() }
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:.2?}, p99 {:.2?}, longest {:.2?}", self.p50, self.p99, self.longest)
    }
}
