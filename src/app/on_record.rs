//! Records of the gateway's own beginning and end.

use tracing::error;

use super::Started;
use super::parts::Parts;
use crate::audit::{By, Change};
use crate::config::{self, Backend, Config};
use crate::telemetry::Causes;

impl Parts {
    /// Puts on record what is in force from the first request on. A log that cannot be written now
    /// refuses every request later, and counts what it could not take.
    pub(super) async fn start_on_record(&self, config: &Config, started: &Started) {
        let store = match config.storage.backend {
            Backend::Memory => "memory",
            Backend::Sqlite(_) => "sqlite",
            Backend::Redis(_) => "redis",
        };
        let audit = &config.audit;
        let durability = match audit.durability {
            config::Durability::Write => "write",
            config::Durability::Sync => "sync",
        };
        let rules = self.state.rulebook.rules();
        let change = Change::new("gateway.start")
            .with("version", env!("CARGO_PKG_VERSION"))
            .with("config", config.version())
            .with("policy_version", rules.policies.version())
            .with("keys", self.keys.version())
            .with("store", store)
            .with("proxy", started.proxy)
            .with("admin", started.admin)
            .with("audit_durability", durability)
            .with("audit_require_healthy", audit.require_healthy)
            .with("audit_hash_chain", audit.hash_chain)
            .with("audit_checkpoints", audit.checkpoint_key_file.is_some())
            .count("audit_keep_files", audit.keep_files)
            .count("pid", started.pid.into());
        let change =
            self.state.audit.record_change(change, By::default(), &self.state.clock, None).await;
        if let Err(error) = change.and(self.reloader().started().await) {
            error!(error = %Causes(&error), "the start is not on record");
        }
    }

    /// Puts on record that the gateway ends in order. Nothing is recorded after this.
    pub(super) async fn stop_on_record(&self) {
        let change = Change::new("gateway.stop")
            .count("uptime_secs", self.state.clock.mono().0 / 1_000_000)
            .count("records", self.state.audit.records_written());
        let stopped =
            self.state.audit.record_change(change, By::default(), &self.state.clock, None);
        if let Err(error) = stopped.await {
            error!(error = %Causes(&error), "the stop is not on record");
        }
    }
}
