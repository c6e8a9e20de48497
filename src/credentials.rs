//! Secrets the agent never sees: put into a call on its way out, taken out of whatever comes back.
//!
//! Pure: what a reference is and how it is replaced ([`reference`], [`edit`]), in which forms a
//! secret may return ([`encodings`]), and the state machines that remove it from a body or an event
//! stream ([`scrubber`], [`sse`]). Where values come from is the business of [`crate::secrets`].

mod bare;
mod decoded;
mod encodings;
mod filter;
mod patterns;
mod scrubber;
#[cfg(test)]
mod laws;

pub use patterns::Patterns;
pub use scrubber::{Content, REPLACEMENT, Scrubber, scrub_header_value};
