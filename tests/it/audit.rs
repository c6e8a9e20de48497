//! The audit log as an auditor reads it.

mod log;
mod metrics;
mod requests;
