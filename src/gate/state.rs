//! State of the process, shared by requests, upkeep and operators.

use std::sync::Arc;

use super::approval::Clerk;
use super::drain::Drain;
use super::enrol::Enrolment;
use super::in_flight::InFlight;
use crate::approvals::Approvals;
use crate::audit::Audit;
use crate::clock::Clock;
use crate::continuations::Continuations;
use crate::freezer::Freezer;
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::recent::Recent;
use crate::registry::Registry;
use crate::rulebook::Rulebook;
use crate::secrets::{ScrubSets, Secrets};
use crate::sessions::Sessions;
use crate::store::Freshness;
use crate::traces::Traces;

/// Handles to everything that decisions read and write. Clones share it.
#[derive(Clone)]
pub struct ProcessState {
    pub clock: Clock,
    pub identity: Arc<Identity>,
    pub enrolment: Arc<Enrolment>,
    pub rulebook: Arc<Rulebook>,
    pub approvals: Arc<Approvals>,
    pub continuations: Arc<Continuations>,
    pub registry: Arc<Registry>,
    pub sessions: Arc<Sessions>,
    pub freezer: Arc<Freezer>,
    pub freshness: Arc<Freshness>,
    pub audit: Arc<Audit>,
    pub recent: Arc<Recent>,
    pub secrets: Arc<Secrets>,
    pub scrub_sets: Arc<ScrubSets>,
    pub metrics: Arc<Metrics>,
    pub in_flight: Arc<InFlight>,
    pub drain: Arc<Drain>,
    /// None while requests are not traced.
    pub traces: Option<Arc<Traces>>,
}

impl ProcessState {
    /// Returns the keeper of approvals and of their record.
    pub fn clerk(&self) -> Clerk {
        Clerk {
            approvals: Arc::clone(&self.approvals),
            audit: Arc::clone(&self.audit),
            clock: self.clock.clone(),
        }
    }
}
