//! Everything in force at one moment: immutable, shared, and replaced whole.

use super::policy::PolicySet;
use super::terms::Terms;

/// Rules by which a request is judged. A request in flight keeps the rules it started with.
#[derive(Debug)]
pub struct Rules {
    pub policies: PolicySet,
    pub terms: Terms,
}
