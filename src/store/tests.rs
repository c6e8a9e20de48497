//! Test-only parts of the store: the suite that every backend passes, and the model of a shared
//! ledger.

pub(crate) mod contract;
pub(crate) mod fleet;
