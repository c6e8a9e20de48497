//! Probes of servers: every two seconds where an upstream has several, so that a dead one is known
//! before a call meets it and a live one is used again soon; every ten where it has one, for the
//! metrics.

use std::sync::Arc;
use std::time::Duration;

use super::upstreams::Upstreams;
use crate::clock::Clock;

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Number of rounds after which the only server of an upstream is probed again.
const LONE: u64 = 5;
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// Probes every server until the process ends.
pub async fn watch(upstreams: Arc<Upstreams>, clock: Clock) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0_u64.. {
        ticks.tick().await;
        let lone_too = round.is_multiple_of(LONE);
        let servers = upstreams.pools().iter().filter(|pool| lone_too || pool.servers().len() > 1);
        let looks = servers.flat_map(|pool| pool.servers()).map(|server| async {
            let now = clock.mono();
            let connected = tokio::time::timeout(LOOK_TIMEOUT, server.look(now)).await;
            if connected.is_ok_and(|connected| connected) {
                server.health.answered();
            } else {
                server.health.failed(clock.mono());
            }
        });
        futures::future::join_all(looks).await;
    }
}
