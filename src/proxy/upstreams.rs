//! All upstreams, by path.

use std::sync::Arc;

use super::affinity::SealKey;
use super::pool::Pool;
use crate::metrics::ServerStatus;

/// Upstreams by path.
pub struct Upstreams {
    /// Longest path first.
    pools: Vec<Arc<Pool>>,
}

impl Upstreams {
    pub fn new(pools: impl IntoIterator<Item = Pool>) -> Self {
        let mut pools: Vec<_> = pools.into_iter().map(Arc::new).collect();
        pools.sort_by_key(|pool| std::cmp::Reverse(pool.path.len()));
        Self { pools }
    }

    /// Seals ids of sessions with the first of these keys from now on, and takes back those of all.
    pub fn seal_with(&self, keys: &[SealKey]) {
        for pool in &self.pools {
            pool.seal_with(keys);
        }
    }

    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// Every server, and the result of the last try to reach it.
    pub fn snapshot(&self) -> Vec<ServerStatus> {
        let servers = self.pools.iter().flat_map(|pool| {
            pool.servers().iter().map(|server| ServerStatus {
                upstream: pool.label(),
                server: server.name.clone(),
                up: server.health.is_up(),
            })
        });
        servers.collect()
    }

    /// Returns the upstream that serves a path: the one that shares the longest prefix with the path.
    ///
    /// A path that a server could read as another one belongs to no upstream, if paths choose between
    /// upstreams: two of these may be two paths of one server.
    pub(super) fn find(&self, path: &str) -> Option<&Arc<Pool>> {
        if self.pools.iter().any(|pool| pool.path != "/") && !is_plain(path) {
            return None;
        }
        self.pools.iter().find(|pool| pool.rest(path).is_some())
    }
}

/// Reports whether every server reads the path as it is written.
fn is_plain(path: &str) -> bool {
    let segments = path.strip_prefix('/').unwrap_or(path);
    let segments = segments.strip_suffix('/').unwrap_or(segments);
    let odd =
        |segment: &str| matches!(segment, "" | "." | "..") || segment.contains(['%', ';', '\\']);
    segments.is_empty() || !segments.split('/').any(odd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::memory::BodyMemory;

    fn find(paths: &[&str], path: &str) -> Option<String> {
        let pool = |path: &&str| {
            let memory = BodyMemory::new(0, 0);
            let key = SealKey::from_secret(b"secret");
            Pool::new(Arc::default(), (*path).to_owned(), None, memory, Vec::new(), &[key])
        };
        let upstreams = Upstreams::new(paths.iter().map(pool));
        upstreams.find(path).map(|pool| pool.path.clone())
    }

    #[test]
    fn the_longest_path_that_fits_wins() {
        let paths = ["/", "/git", "/git/private"];
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(find(&paths, path).as_deref(), expected, "{path}");
        };
        check("/", Some("/"));
        check("/mcp", Some("/"));
        check("/git", Some("/git"));
        check("/git/", Some("/git"));
        check("/git/mcp", Some("/git"));
        check("/gitx", Some("/"));
        check("/Git", Some("/"));
        check("/git/private/mcp", Some("/git/private"));
        for odd in ["/git/../x", "//git", "/git//x", "/%67it", "/git;a=b", "/x/./y", "/git/.."] {
            check(odd, None);
        }
        assert_eq!(find(&["/git"], "/mcp"), None);
        // Nothing to choose: the server reads its paths as it likes.
        assert_eq!(find(&["/"], "/a/../b%20").as_deref(), Some("/"));
    }
}
