//! Redis itself: its scripts held against the model, its connections against what can go wrong. Tests
//! that all stores share are in `store/tests/contract.rs`.

use proptest::test_runner::{Config, FailurePersistence, FileFailurePersistence, TestRunner};

use super::*;
use crate::clock::Clock;

mod connection;
mod differential;
mod every_script;
mod proxy;
mod server;
mod texts;

pub(crate) use server::Server;

/// Returns a runner of random histories, each followed step by step by a server: five times the usual number at
/// most, however many cases `PROPTEST_CASES` asks for, since each takes up to half a second.
fn histories(usual: u32, file: &'static str) -> TestRunner {
    let seeds = FileFailurePersistence::WithSource("regressions");
    let failure_persistence = Some(Box::new(seeds) as Box<dyn FailurePersistence>);
    let config = Config { source_file: Some(file), failure_persistence, ..Config::default() };
    let asked = std::env::var_os("PROPTEST_CASES").map_or(usual, |_| config.cases);
    TestRunner::new(Config { cases: asked.min(5 * usual), ..config })
}

/// Test settings of one handle.
#[derive(Debug, Default)]
pub(crate) struct Switches {
    /// Instead of the server's clock.
    clock: Option<Clock>,
    refuse_writes: AtomicBool,
}

impl Switches {
    pub(super) fn may_write(&self) -> Result<(), StoreError> {
        if self.refuse_writes.load(Ordering::SeqCst) { Err(StoreError::Stopped) } else { Ok(()) }
    }

    pub(super) fn now(&self) -> String {
        self.clock.as_ref().map_or_else(String::new, |clock| clock.now().wall.0.to_string())
    }
}

impl Redis {
    pub(in crate::store) fn refuse_writes(&self, refuse: bool) {
        self.test.refuse_writes.store(refuse, Ordering::SeqCst);
    }

    /// Returns the handle with the test's clock.
    pub(crate) fn timed_by(mut self, clock: Clock) -> Self {
        self.test.clock = Some(clock);
        self
    }
}
