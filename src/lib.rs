//! Arbiter: a tool-call firewall for AI agents.

pub mod firewall;
pub mod mcp;
