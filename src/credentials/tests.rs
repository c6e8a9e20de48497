//! Laws of the scrubber.

mod laws;
