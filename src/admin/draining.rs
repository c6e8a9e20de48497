//! Admin calls of a gateway that is going out of service.
//!
//! A session or agent that such a gateway creates would end with the gateway, or reach the store
//! when no client waits any more; creating is refused, so that another node does it. Closing,
//! revoking and deciding work to the end.

use super::Admin;
use super::endpoint::{Method, Route};
use super::error::{ApiError, Code};

/// Endpoints that create something although they are not listed here are refused all the same:
/// every `POST` but these creates.
const NOTHING_NEW: &[&str] = &[
    "/policy/explain",
    "/policy/validate",
    "/policy/reload",
    "/storage/backup",
    "/approvals/{id}",
    "/freeze",
];

/// Refuses what creates something while the gateway is draining.
pub(super) fn check(admin: &Admin, route: &Route) -> Result<(), ApiError> {
    if admin.drain.is_leaving() && creates(route) { Err(refusal()) } else { Ok(()) }
}

/// True for endpoints that create something.
pub(super) fn creates(route: &Route) -> bool {
    route.method == Method::Post && !NOTHING_NEW.contains(&route.path)
}

/// The refusal of a gateway that is draining.
pub(super) fn refusal() -> ApiError {
    let message = "draining: this gateway is going out of service; ask another, or try again later";
    ApiError::new(Code::Draining, message).retry_after(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::routes::ROUTES;

    #[test]
    fn what_creates_is_known() {
        let creating: Vec<_> = ROUTES.iter().filter(|r| creates(r)).map(|r| r.path).collect();
        for path in ["/agents", "/sessions", "/agents/{id}/delegate", "/agents/{id}/token"] {
            assert!(creating.contains(&path), "{path}");
        }
        let harmless = |path: &&str| path.starts_with("/policy") || path.starts_with("/approvals/");
        assert!(!creating.iter().any(harmless), "{creating:?}");
    }
}
