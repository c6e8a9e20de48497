#![doc = include_str!("README.md")]
//!
//! # Rooms
//!
//! | room | contents |
//! |---|---|
//! | [`json`] | strict JSON, exact numbers, escapes: the ground of all others |
//! | [`firewall`] | the decision, pure: [`firewall::admit`], the checks, policies, the refusal table |
//! | [`mcp`] | MCP messages: JSON-RPC, method classes, headers, list filtering |
//! | [`credentials`], [`decode`] | references in a body; the scrubber; content codings: plain state machines |
//! | [`audit`] | contents of a record and the chain (pure); the log, its journal and its one writer |
//! | [`clock`], [`config`], [`metrics`], [`telemetry`], [`traces`] | the ground of the rooms that act |
//! | [`identity`] | tokens become principals |
//! | [`rulebook`] | policy files become the rules in force |
//! | [`store`], [`registry`], [`sessions`], [`freezer`] | state that outlives a run; live agents; live sessions and their leases; freezes |
//! | [`reload`] | policies read again: on record, then in force |
//! | [`secrets`] | sources of credential values |
//! | [`recent`] | the last decisions of this node, for operators who look |
//! | [`gate`] | one call, end to end: look up, decide, remember, record |
//! | [`proxy`] | Pingora's callbacks, translated |
//! | [`admin`], [`console`], [`cli`] | the operators' side: API, pages, commands |
//! | [`app`], [`demo`] | wiring; the guided tour |

// The kit of tests is a part of other crates too, and names this one as they do.
#[cfg(test)]
extern crate self as arbiter;

pub mod admin;
pub mod app;
pub mod approvals;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod continuations;
pub mod credentials;
pub mod decode;
pub mod demo;
pub mod firewall;
pub mod freezer;
pub mod gate;
pub mod holder;
pub mod http_client;
pub mod identity;
pub mod json;
pub mod mcp;
pub mod metrics;
pub mod proxy;
pub mod recent;
pub mod registry;
pub mod reload;
pub mod rulebook;
mod saturate;
pub mod secrets;
pub mod sessions;
pub mod store;
pub mod telemetry;
#[cfg(test)]
mod testkit;
pub mod traces;
