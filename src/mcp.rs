//! MCP messages: JSON-RPC, method classes, headers, list filtering.
//!
//! Going up, bytes become a [`Doc`](crate::json::Doc), a document becomes a [`message::Message`], and
//! [`headers::agree`] holds the mirrored headers against it. Coming down, [`filter`] and
//! [`sse_filter`] take from a list what its reader may not use, and [`outcome`] reads
//! how tool calls ended. All of it is pure.

pub mod capabilities;
pub mod class;
pub mod continued;
pub mod elicitation;
pub mod filter;
pub mod headers;
pub mod list_changes;
pub mod message;
pub mod outcome;
mod plain;
pub mod sentinel;
pub mod sse;
pub mod sse_filter;
pub mod trace;
pub mod version;
