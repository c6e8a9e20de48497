//! What a client, an operator and an upstream see: the real program over real sockets.
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

mod chain;
mod golden;
mod harness;
mod raw;
mod redis_server;

mod audit_log;
mod bad_tokens;
mod bodies;
mod credentials;
mod delegation;
mod fleet;
mod house;
mod identity;
mod issuer;
mod late;
mod legacy;
mod limits;
mod lists;
mod malformed;
mod provider_tls;
mod providers;
mod redis;
mod refusals;
mod restart;
mod retries;
mod rotation;
mod streaming;
mod streams;
mod tls;
mod upstreams;
