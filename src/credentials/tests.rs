//! Laws of the scrubber.

mod laws;
mod mixtures;
