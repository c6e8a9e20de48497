//! State that outlives a process: restarts, Redis, and fleets of nodes.

mod drain;
mod nodes;
mod redis;
mod restart;
mod takeover;
