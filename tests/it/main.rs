//! What a client, an operator and an upstream see: the real program over real sockets.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop where it is"
)]

mod golden;
mod harness;
mod raw;

mod bodies;
mod legacy;
mod limits;
mod refusals;
mod streams;
mod tls;
mod upstreams;
