//! File descriptors: the system's limit, and the share of it that connections may take.

use anyhow::{Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::config::Config;

/// Descriptors for the process itself: log, journal, store, sockets, admin connections, reloads.
const OWN: u64 = 64;

/// Connections to upstreams that are kept for reuse, over all threads, where descriptors allow it.
const MAX_POOL: u64 = 1_024;

/// Most connections of agents unless `proxy.max_connections` says otherwise.
const MAX_CONNECTIONS: u64 = 100_000;

/// Division of the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// Connections of agents.
    pub(super) connections: usize,
    /// Idle connections to upstreams.
    pub(super) pool: usize,
}

/// Raises the soft limit to the hard one and divides what there is.
pub(super) fn divide(config: &Config) -> Result<Descriptors> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            warn!(%error, "the limit of open files could not be raised");
            limit.current
        }
    };
    let wanted = config.proxy.max_connections.map(u64::from);
    parts(limit.unwrap_or(u64::MAX), wanted, config.proxy.max_calls_in_flight.into())
}

/// Every connection may have a call under way, and every call takes a connection to its upstream.
fn parts(limit: u64, wanted: Option<u64>, max_calls: u64) -> Result<Descriptors> {
    let pool = (limit / 8).min(MAX_POOL);
    let free = limit.saturating_sub(OWN).saturating_sub(pool);
    let most = (free / 2).max(free.saturating_sub(max_calls));
    let connections = match wanted {
        Some(wanted) if wanted > most => bail!(
            "`proxy.max_connections` = {wanted} needs more open files than the limit of {limit} \
             allows: set it to {most} or less, or raise the limit (`ulimit -n`, `LimitNOFILE`)"
        ),
        Some(wanted) => wanted,
        None if most == 0 => bail!(
            "the limit of {limit} open files leaves none for connections: raise it (`ulimit -n`, \
             `LimitNOFILE`)"
        ),
        None => most.min(MAX_CONNECTIONS),
    };
    Ok(Descriptors { connections: usize::try_from(connections)?, pool: usize::try_from(pool)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_left_for_everything_else() {
        for limit in [100, 256, 1_024, 65_536, 1 << 20, u64::MAX] {
            let Descriptors { connections, pool } = parts(limit, None, 8_192).unwrap();
            let (connections, pool) = (connections as u64, pool as u64);
            let used = OWN + pool + connections + connections.min(8_192);
            assert!(connections > 0 && used <= limit, "{limit}: {connections} and {pool}");
        }
        let expected = Descriptors { connections: 80, pool: 32 };
        assert_eq!(parts(256, None, 8_192).unwrap(), expected);
    }

    #[test]
    fn what_does_not_fit_is_an_error_that_says_what_would() {
        assert_eq!(parts(256, Some(80), 8_192).unwrap().connections, 80);
        let error = parts(256, Some(81), 8_192).unwrap_err().to_string();
        assert!(error.contains("set it to 80 or less"), "{error}");
        assert!(parts(64, None, 8_192).is_err());
    }
}
