//! What a client, an operator and an upstream see: the real program over real sockets.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop where it is"
)]

mod harness;
mod golden;
mod raw;

mod bodies;
mod limits;
mod refusals;
