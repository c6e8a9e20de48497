//! The audit log as an auditor reads it.

mod log;
mod operators;
