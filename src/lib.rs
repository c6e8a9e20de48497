//! Arbiter: a tool-call firewall for AI agents.

pub mod clock;
pub mod firewall;
pub mod mcp;
pub mod registry;
pub mod sessions;
pub mod store;
