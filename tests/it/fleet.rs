//! State that outlives a process: restarts, Redis, and fleets of nodes.

mod nodes;
mod redis;
mod restart;
