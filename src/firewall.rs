//! The decision: pure, synchronous, and the whole of it.
//!
//! Nothing below this module waits, logs, locks, or reads a clock, a file or a socket. Rules,
//! caller, session, calls and time are arguments; a verdict and the changed usage are the result.

pub mod admit;
pub mod agent;
pub mod approvals;
pub mod ask;
pub mod call;
pub mod checks;
pub mod continuation;
pub mod delegation;
pub mod denial;
pub mod elicitation;
pub mod explain;
pub mod freeze;
pub mod granted;
mod members;
pub mod node_share;
pub mod operation;
pub mod policy;
pub mod preview;
pub mod recent;
pub mod rules;
pub mod session;
pub mod terms;
pub mod time;
pub mod uri;
pub mod verdict;

#[cfg(test)]
mod tests;
