//! What an MCP message is: strict JSON, JSON-RPC, method classes, headers, list filtering.

pub mod json;
