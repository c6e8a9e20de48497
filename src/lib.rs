//! Arbiter: a tool-call firewall for AI agents.

pub mod admin;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod firewall;
pub mod identity;
pub mod mcp;
pub mod metrics;
pub mod registry;
pub mod rulebook;
pub mod sessions;
pub mod store;
pub mod telemetry;
