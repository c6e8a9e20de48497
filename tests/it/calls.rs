//! Calls of agents: heads, bodies, refusals, answers, streams and upstreams.

mod between;
mod bodies;
mod credentials;
mod floods;
mod late;
mod legacy;
mod limits;
mod lists;
mod malformed;
mod refusals;
mod retries;
mod streaming;
mod streams;
mod tls;
mod upstreams;
