//! Arbiter: a tool-call firewall for AI agents.

pub mod admin;
pub mod app;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod decode;
pub mod firewall;
pub mod gate;
pub mod identity;
pub mod mcp;
pub mod metrics;
pub mod proxy;
pub mod registry;
pub mod rulebook;
pub mod secrets;
pub mod sessions;
pub mod store;
pub mod telemetry;
