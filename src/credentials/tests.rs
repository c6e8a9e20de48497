//! Laws of the scrubber.

mod exact;
mod laws;
mod mixtures;
mod oracle;
mod readings;
