//! Arbiter: a tool-call firewall for AI agents.

pub mod clock;
pub mod credentials;
pub mod decode;
pub mod firewall;
pub mod mcp;
pub mod secrets;
