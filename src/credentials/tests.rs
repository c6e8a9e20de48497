//! Laws of the scrubber.

mod cost;
mod laws;
