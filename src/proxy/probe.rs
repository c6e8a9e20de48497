//! Looking whether servers can be reached, every two seconds where they have others beside them: so
//! a dead one is known before a call meets it, and a live one is used again soon.

use std::sync::Arc;
use std::time::Duration;

use super::upstreams::Upstreams;
use crate::clock::Clock;

const LOOK_EVERY: Duration = Duration::from_secs(2);
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// Looks at every server that has others beside it, for ever.
pub async fn watch(upstreams: Arc<Upstreams>, clock: Clock) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let servers = upstreams.pools().iter().filter(|pool| pool.servers().len() > 1);
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
