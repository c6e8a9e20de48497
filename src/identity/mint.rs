//! Tokens of Arbiter's own, for agents that have no identity provider.
