//! The checks, one file each; `admit` puts them in order.

pub mod budget;
pub mod drift;
pub mod rate;
pub mod sensitivity;
pub mod whitelist;
