//! The audit log as an auditor reads it.

mod at_once;
mod damage;
mod export;
mod log;
mod metrics;
mod operators;
mod requests;
mod traces;
mod witness;
