//! The checks, one file each.

pub mod drift;
