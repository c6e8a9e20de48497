//! Tokens, identity providers, delegation, and the operators' port.

mod admin_port;
mod bad_tokens;
mod console;
mod delegation;
mod keys;
mod provider_tls;
mod providers;
mod rotation;
mod signing;
mod tokens;
