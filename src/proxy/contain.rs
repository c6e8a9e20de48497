//! Keeps a panic inside the request that caused it: the agent is answered 500 and every other call
//! goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;

use futures::FutureExt;
use pingora::http::RequestHeader;
use tracing::error;

use crate::firewall::denial::{Code, Denial};

/// The header by which a test asks for a panic.
const FAILPOINT: &str = "x-arbiter-failpoint";

/// The refusal of a request in which a bug of the gateway has shown itself.
pub(super) fn internal_error() -> Denial {
    Denial::new(
        Code::InternalError,
        "the gateway failed while it handled this request: try again, and report the request id",
    )
}

/// Runs to the end, or to a panic: then there is no result.
///
/// State that a panic leaves half changed belongs to the request and ends with it; shared state is
/// behind locks that recover, and is changed in single steps. The work stays where it is pinned:
/// moved in here, its kilobytes would have two places in the request's state.
pub(super) async fn caught<T>(work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let caught = AssertUnwindSafe(work).catch_unwind().await;
    caught.inspect_err(|_panic| error!("a request has panicked; answered 500")).ok()
}

/// Runs work on a response; a panic in it is a refusal.
pub(super) fn refused<T>(work: impl FnOnce() -> Result<T, Denial>) -> Result<T, Denial> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_panic| {
        error!("a response has panicked; the call has failed");
        Err(internal_error())
    })
}

/// Panics where a test asks for it; builds without debug assertions have no such place.
pub(super) fn failpoint(head: &RequestHeader, place: &str) {
    assert!(!fails_at(head, place), "failpoint {place}");
}

/// Reports whether a test asks for a panic at a place.
pub(super) fn fails_at(head: &RequestHeader, place: &str) -> bool {
    cfg!(debug_assertions)
        && head.headers.get(FAILPOINT).is_some_and(|asked| asked.as_bytes() == place.as_bytes())
}

/// Reports whether a header of the client's is for [`failpoint`], and stays until its answer has come.
pub(super) fn is_failpoint(name: &str) -> bool {
    cfg!(debug_assertions) && name == FAILPOINT
}

/// Keeps what is for [`failpoint`] from an upstream.
pub(super) fn without_failpoint(head: &mut RequestHeader) {
    if cfg!(debug_assertions) {
        head.remove_header(FAILPOINT);
    }
}
