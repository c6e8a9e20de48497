//! Secrets the agent never sees: put into a call on its way out, taken out of whatever comes back.
//!
//! Pure: what a reference is and how it is replaced ([`mod@reference`], [`edit`]), in which forms a
//! secret may return ([`encodings`]), and the state machines that remove it from a body or an event
//! stream ([`scrubber`], [`sse`]). [`crate::secrets`] loads the values.

mod bare;
mod coarse;
mod decoded;
mod edit;
mod encodings;
mod endings;
mod escapes;
mod events;
mod filter;
mod finding;
mod heads;
mod kinds;
mod lattice;
mod matching;
mod nodes;
mod patterns;
mod reference;
mod repeats;
mod scrubber;
mod sse;
mod strings;
#[cfg(test)]
mod tests;
mod vault;

pub use bare::REPLACEMENT;
pub use edit::{CredentialDenial, Edits, Grant, expand_header, resolve};
pub use patterns::Patterns;
pub use reference::{MAX_NAME_BYTES, Misuse, Reference, is_name, references};
pub use scrubber::{Content, Scrubber, scrub_header_value};
pub use sse::{EventTooLarge, SseScrubber};
pub use vault::{LEAST_BYTES, MAX_VALUE_BYTES, SHORT_BYTES, Secret, SecretText, Vault, VaultError};
