//! Reloading of policies: on record first, then in force.
//!
//! A person, a signal and the watch of the files go one way: read all files, put on record from
//! which set to which, then replace the set. Files with a mistake are on record, too, and keep the
//! old set. A set that could not be put on record is not in force, and the watch reads it again
//! until it can be.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::audit::{Audit, AuditUnavailable, By, Change};
use crate::clock::Clock;
use crate::firewall::rules::Rules;
use crate::metrics::{Metrics, Reload};
use crate::rulebook::{Draft, ReloadError, Rulebook};
use crate::saturate::SaturatingFrom as _;
use crate::telemetry::Causes;

/// Event of a reload of policies.
pub const POLICY_RELOAD: &str = "policy.reload";

/// Cause of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    Api,
    Sighup,
    /// The files changed.
    Watch,
    /// The values have outlived their time.
    Age,
    Start,
}

impl Trigger {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Sighup => "sighup",
            Self::Watch => "watch",
            Self::Age => "age",
            Self::Start => "start",
        }
    }
}

/// Reason why the old policies stay in force.
#[derive(Debug, thiserror::Error)]
pub enum NotReloaded {
    #[error(transparent)]
    Mistakes(#[from] ReloadError),
    #[error(transparent)]
    Unrecorded(#[from] AuditUnavailable),
    #[error("reading the policy files was broken off")]
    BrokenOff,
}

/// Reads policies again.
#[derive(Clone)]
pub struct Reloader {
    pub rulebook: Arc<Rulebook>,
    pub audit: Arc<Audit>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
}

impl Reloader {
    /// Reads the files and puts what they say in force.
    pub async fn policies(&self, trigger: Trigger, by: By<'_>) -> Result<Arc<Rules>, NotReloaded> {
        let _turn = self.rulebook.turn().await;
        let book = Arc::clone(&self.rulebook);
        let read = tokio::task::spawn_blocking(move || book.read());
        let read = read.await.map_err(|_panicked| NotReloaded::BrokenOff)?;
        self.put(read, trigger, by).await
    }

    /// Checks the files every `period` without end, and puts changed policies in force.
    pub async fn watch(self, period: Duration) {
        let book = Arc::clone(&self.rulebook);
        let mut could_record = true;
        let mut watch = book.watch(period);
        loop {
            let (read, _turn) = watch.changed().await;
            match self.put(read, Trigger::Watch, By::default()).await {
                Ok(rules) => {
                    could_record = true;
                    let (count, version) = (rules.policies.len(), rules.policies.version());
                    info!(count, version, "policies reloaded");
                }
                Err(NotReloaded::Unrecorded(error)) => {
                    watch.look_again();
                    if could_record {
                        let error = Causes(&error);
                        warn!(%error, "changed policies wait until they can be put on record");
                    }
                    could_record = false;
                }
                Err(error) => {
                    could_record = true;
                    let error = Causes(&error);
                    warn!(%error, "policies not reloaded; the old ones stay in force");
                }
            }
        }
    }

    /// Puts policies on record that were read just now, and then in force.
    async fn put(
        &self,
        read: Result<Draft, ReloadError>,
        trigger: Trigger,
        by: By<'_>,
    ) -> Result<Arc<Rules>, NotReloaded> {
        let in_force = self.rulebook.rules();
        let from = in_force.policies.version();
        let change =
            Change::new(POLICY_RELOAD).with("trigger", trigger.as_str()).with("from", from);
        let (change, refused) = match &read {
            Ok(draft) => {
                let count = u64::saturating_from(draft.policies().len());
                let to = draft.policies().version();
                (change.with("to", to).with("outcome", "completed").count("policies", count), None)
            }
            Err(error) => {
                let change =
                    change.with("to", from).with("outcome", "refused").with("error", error);
                (change, Some("PolicyInvalid"))
            }
        };
        let recorded = self.audit.record_change(change, by, &self.clock, refused).await;
        let good = read.is_ok() && recorded.is_ok();
        self.metrics.operation.reloaded(Reload::Policies, good, self.clock.now().wall);
        if let Err(error) = recorded {
            // The watch, if there is one, takes it up again.
            self.rulebook.forget_read();
            return Err(error.into());
        }
        let rules = self.rulebook.put(read?);
        show(&self.metrics, &rules);
        Ok(rules)
    }

    /// Puts on record which policies the gateway starts with.
    pub async fn started(&self) -> Result<(), AuditUnavailable> {
        let rules = self.rulebook.rules();
        show(&self.metrics, &rules);
        let count = u64::saturating_from(rules.policies.len());
        let change = Change::new(POLICY_RELOAD)
            .with("trigger", Trigger::Start.as_str())
            .with("from", "none")
            .with("to", rules.policies.version())
            .with("outcome", "completed")
            .count("policies", count);
        self.audit.record_change(change, By::default(), &self.clock, None).await
    }
}

/// Shows in the metrics which policies are in force, and in the log what is odd about them.
fn show(metrics: &Metrics, rules: &Rules) {
    for warning in rules.policies.warnings() {
        warn!("policies: {warning}");
    }
    metrics.name_tools(rules.policies.named_tools());
    metrics.policy_version(rules.policies.version());
}
