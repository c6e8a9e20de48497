//! The harness: the program under test, its peers, and golden files.

pub(crate) mod certificate;
pub(crate) mod chain;
pub(crate) mod golden;
pub(crate) mod harness;
pub(crate) mod issuer;
pub(crate) mod otlp;
pub(crate) mod raw;
pub(crate) mod redis_server;
