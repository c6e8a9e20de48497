//! Fuzz targets, each a function over generated inputs that runs for `FUZZ_SECS` seconds, and the law of cost.
//!
//! A target compares with something that shares no code with what it tests, or states a property; its
//! inputs are pieces that matter to its reader, in any order and with any damage. A finding is shrunk,
//! printed, and becomes a test beside the code.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that cannot go on should stop where it is, and watches a clock of its own"
)]

mod audit;
mod cost;
mod driver;
mod head;
mod mixed;
mod parser;
mod policy;
mod scrubber;
mod sse;
#[expect(dead_code, reason = "each target takes what it needs")]
#[path = "../../src/testkit.rs"]
mod testkit;
mod token;
