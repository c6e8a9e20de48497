//! Demotions for drift: each is on record before it counts.

use tracing::{error, info};

use super::Gate;
use crate::audit::{By, Change};
use crate::registry::Demotion;
use crate::telemetry::Causes;

impl Gate {
    /// Records that an agent loses a level of trust, then takes it. An agent that drifts is not spared
    /// because the log cannot be written.
    pub async fn demote(&self, demotion: &Demotion) {
        let Demotion { agent, from, to, .. } = *demotion;
        let change = Change::new("agent.demoted").agent(agent).with("from", from).with("to", to);
        let announced = self.state.audit.announce(change, By::default(), &self.state.clock).await;
        self.state.registry.demote(demotion);
        info!(%agent, %from, %to, "drifted too often; agent demoted");
        match announced {
            Ok(announced) => announced.done(),
            Err(error) => error!(%agent, error = %Causes(&error), "a demotion is not on record"),
        }
    }
}
