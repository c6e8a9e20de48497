//! Arbiter: a tool-call firewall for AI agents.
//!
//! > The firewall decides; it does nothing else. Everything else does; it decides nothing.
//!
//! # The map, from the inside out
//!
//! | room | what it is |
//! |---|---|
//! | [`firewall`] | the decision, pure: [`firewall::admit`], the checks, policies, the refusal table |
//! | [`mcp`] | what an MCP message is: strict JSON, JSON-RPC, method classes, headers, list filtering |
//! | [`credentials`], [`decode`] | references in a body; the scrubber; content codings: plain state machines |
//! | [`audit`] | what a record says and how it is chained (pure); the log, its journal and its one writer |
//! | [`clock`], [`config`], [`metrics`], [`telemetry`] | what every room may use |
//! | [`identity`] | tokens become principals |
//! | [`rulebook`] | policy files become the rules in force |
//! | [`store`], [`registry`], [`sessions`] | what outlives a run; live agents; live sessions and their leases |
//! | [`secrets`] | where credential values come from |
//! | [`gate`] | one call, end to end: look up, decide, remember, record |
//! | [`proxy`] | Pingora's callbacks, translated |
//! | [`admin`], [`cli`] | the operator's side |
//! | [`app`], [`demo`] | wiring; the guided tour |
//!
//! # Invariants, each held by a test
//!
//! 1. Nothing goes upstream without a [`gate::Cleared`]: proof that the call was admitted and that
//!    its decision is on record.
//! 2. Nothing under [`firewall`] waits, logs, locks, or reads a clock, a file or a socket.
//! 3. Whatever breaks, the answer is no; the store may over-count a budget after a crash, never
//!    under-count it.
//! 4. What was checked is what is sent: the decision and the forwarded bytes come from one parse.
//! 5. Nothing an agent chooses grows memory, labels or log lines without a bound.
//!
//! # Glossary
//!
//! *Agent*: a registered program that calls tools. *Principal*: who stands behind its token.
//! *Session*: a work order (what was agreed, immutable) and its usage (what was done).
//! *Lease*: a block of calls that the store booked before the first of them is used.
//! *Call*: one member of an MCP message, classed as tool, data or protocol. *Denial*: a refusal, with
//! a row in the one table. *Cleared*: the only key to the upstream. *Record*: a line of the audit log.

pub mod admin;
pub mod app;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod decode;
pub mod demo;
pub mod firewall;
pub mod gate;
pub mod http_client;
pub mod identity;
pub mod json;
pub mod mcp;
pub mod metrics;
pub mod proxy;
pub mod registry;
pub mod rulebook;
pub mod secrets;
pub mod sessions;
pub mod store;
pub mod telemetry;
