//! The real program over real sockets, as a client, an operator and an upstream see it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    clippy::needless_pass_by_value,
    clippy::unchecked_time_subtraction,
    reason = "a test that cannot go on should stop where it is, and watches a clock of its own; `json!` gives values"
)]

mod support;
#[expect(dead_code, reason = "each target takes what it needs")]
#[path = "../../src/testkit.rs"]
mod testkit;

mod audit;
mod calls;
mod fleet;
mod house;
mod identity;
