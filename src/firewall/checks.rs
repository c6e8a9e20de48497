//! The checks, one file each with its text and its tests; [`admit`](super::admit) puts them in order.

pub mod agent;
pub mod budget;
pub mod continuation;
pub mod delegation;
pub mod drift;
pub mod escalation;
pub mod freeze;
pub mod owner;
pub mod policy;
pub mod rate;
pub mod sensitivity;
pub mod session;
pub mod spend;
pub mod task;
pub mod token;
pub mod whitelist;

/// The reason why something cannot be counted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack<S> {
    /// The ledger may have more than is leased of it: lease, then ask again.
    NotLeased,
    /// There is no more.
    Over(S),
}
