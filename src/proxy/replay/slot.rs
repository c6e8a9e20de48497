//! State shared by a replay and the request's context.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use pingora::protocols::http::ServerSession;

use crate::gate::continued::Keeping;
use crate::proxy::apart::{Apart, NotMade};

/// State shared by a replay and the request's context.
#[derive(Clone, Default)]
pub(in crate::proxy) struct Slot(Arc<SlotState>);

#[derive(Default)]
struct SlotState {
    /// The real session while it is not inside a replay.
    real: Mutex<Option<Box<ServerSession>>>,
    head_sent: AtomicBool,
    /// True if the response's head waits for its body.
    holds_head: AtomicBool,
    /// True if a comment may be written where the response has got to.
    comments: AtomicBool,
    /// Continuations that the response has handed out, which its next bytes wait for.
    keeping: Mutex<Vec<Keeping>>,
    apart: Apart,
}

impl Slot {
    /// Reports whether an upstream was sent the whole head of the request, at any attempt.
    pub(in crate::proxy) fn head_sent(&self) -> bool {
        self.0.head_sent.load(Ordering::Acquire)
    }

    /// Notes that an upstream was sent the whole head.
    pub(super) fn note_head_sent(&self) {
        self.0.head_sent.store(true, Ordering::Release);
    }

    /// Reports whether the response's head waits for its body.
    pub(super) fn holds_head(&self) -> bool {
        self.0.holds_head.load(Ordering::Acquire)
    }

    /// Lets the response's head wait for the first of its body or for its end.
    pub(in crate::proxy) fn hold_head(&self, hold: bool) {
        self.0.holds_head.store(hold, Ordering::Release);
    }

    /// Sets whether a comment may be written where the response has got to.
    pub(in crate::proxy) fn allow_comments(&self, allow: bool) {
        self.0.comments.store(allow, Ordering::Release);
    }

    /// Reports whether a comment may be written where the response has got to.
    pub(super) fn allows_comments(&self) -> bool {
        self.0.comments.load(Ordering::Acquire)
    }

    /// Lets the next bytes of the response wait until this is kept.
    pub(in crate::proxy) fn wait_for(&self, keeping: Vec<Keeping>) {
        if !keeping.is_empty() {
            self.keeping().extend(keeping);
        }
    }

    /// Keeps what the next bytes of the response wait for.
    pub(super) async fn keep(&self) {
        let keeping = mem::take(&mut *self.keeping());
        for one in keeping {
            one.done().await;
        }
    }

    /// Returns the work on the response that is done apart.
    pub(in crate::proxy) fn apart(&self) -> &Apart {
        &self.0.apart
    }

    /// Does the work that the next bytes of the response wait for, and gives what comes of it.
    pub(in crate::proxy) async fn made_apart(&self) -> Result<Option<Bytes>, NotMade> {
        let Some(made) = self.apart().work().await? else { return Ok(None) };
        self.wait_for(made.keeping);
        self.allow_comments(made.between_events);
        Ok(Some(made.bytes))
    }

    fn keeping(&self) -> MutexGuard<'_, Vec<Keeping>> {
        self.0.keeping.lock()
    }

    pub(super) fn real(&self) -> MutexGuard<'_, Option<Box<ServerSession>>> {
        self.0.real.lock()
    }
}
