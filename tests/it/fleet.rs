//! State that outlives a process: restarts, Redis, and fleets of nodes.

mod approvals;
mod backup;
mod clocks;
mod drain;
mod frozen;
mod nodes;
mod redis;
mod restart;
mod rolling;
mod taken;
mod takeover;
mod tasks;
