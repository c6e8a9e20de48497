//! Calls of agents: heads, bodies, refusals, answers, streams and upstreams.

mod approvals;
mod approvers;
mod between;
mod bodies;
mod connections;
mod credentials;
mod explained;
mod floods;
mod frozen;
mod late;
mod legacy;
mod limits;
mod listening;
mod lists;
mod malformed;
mod outcomes;
mod questions;
mod refusals;
mod respelt;
mod retries;
pub(crate) mod rounds;
mod streaming;
mod streams;
pub(crate) mod tasks;
mod tls;
mod upstreams;
