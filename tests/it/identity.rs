//! Tokens, identity providers and delegation.

mod bad_tokens;
mod console;
mod delegation;
mod keys;
mod provider_tls;
mod providers;
mod rotation;
mod signing;
mod tokens;
