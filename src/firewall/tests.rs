//! Laws that hold the decision, its explanation and its preview together.

mod laws;
mod worlds;
