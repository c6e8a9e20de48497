//! Long work on an answer, done on threads of its own.
//!
//! Pingora's filter of a body cannot wait. So it only notes what would keep its thread from other calls for
//! long; the work is done elsewhere once the answer is to be written, and what comes of it is written then.

#![expect(
    clippy::disallowed_types,
    reason = "locked for as long as one call's work takes, for which nobody else waits"
)]

use std::mem;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use pingora::ErrorType;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::contain;
use super::response::ResponsePipeline;
use crate::firewall::denial::Denial;
use crate::gate::Tools;
use crate::gate::continued::Keeping;

/// Error type that says that what was done apart refuses the answer.
pub(super) const NOT_MADE: ErrorType = ErrorType::Custom("the answer is refused");

/// Error context of that type.
pub(super) const WORK: &str = "work on the answer";

/// A call's work that is done apart; most calls have none.
#[derive(Default)]
pub(super) struct Apart(OnceLock<Arc<Mutex<Stage>>>);

/// The parts of a call that work on its answer's bytes.
pub(super) struct Workers {
    pub(super) pipeline: ResponsePipeline,
    pub(super) tools: Option<Box<Tools>>,
    /// True if a test asks for a panic.
    pub(super) fails: bool,
}

/// Progress of the work. It is locked while the work goes on.
#[derive(Default)]
enum Stage {
    /// The workers are with their call.
    #[default]
    AtHand,
    Due(Due),
    Done(Box<Workers>, Outcome),
}

/// Work that waits until the answer is to be written.
struct Due {
    threads: Handle,
    workers: Box<Workers>,
    parts: Vec<Part>,
}

/// Bytes that came, and whether they are the last.
type Part = (Option<Bytes>, bool);

/// Bytes that the client may get, or the refusal of the answer.
pub(super) type Outcome = Result<Bytes, Denial>;

/// Bytes that were made apart.
pub(super) struct Made {
    pub(super) bytes: Bytes,
    /// Continuations that are to be kept before they leave.
    pub(super) keeping: Vec<Keeping>,
    /// True if they end between two events of a stream that goes on.
    pub(super) between_events: bool,
}

/// Reason for which nothing was made: the call's next callback takes it back.
#[derive(Debug, thiserror::Error)]
#[error("the answer is refused")]
pub(super) struct NotMade;

impl Apart {
    /// Reports whether work waits; all that comes must wait behind it.
    pub(super) fn is_due(&self) -> bool {
        let Some(stage) = self.0.get() else { return false };
        stage.try_lock().is_ok_and(|stage| matches!(*stage, Stage::Due(_)))
    }

    /// Leaves a part for later, and with the first of them the workers.
    pub(super) fn put_off(
        &self,
        part: Part,
        threads: &Handle,
        workers: impl FnOnce() -> Workers,
    ) -> Result<(), NotMade> {
        // It is locked only while the answer is written, and then nothing comes to be put off.
        let mut stage = self.0.get_or_init(Arc::default).try_lock().map_err(|_busy| NotMade)?;
        if let Stage::Due(due) = &mut *stage {
            due.parts.push(part);
            return Ok(());
        }
        let workers = Box::new(workers());
        *stage = Stage::Due(Due { threads: threads.clone(), workers, parts: vec![part] });
        Ok(())
    }

    /// Does the work that waits; gives nothing if none does.
    ///
    /// It goes on if nobody waits for it any more, since the record tells what it found.
    pub(super) async fn work(&self) -> Result<Option<Made>, NotMade> {
        let Some(stage) = self.0.get() else { return Ok(None) };
        let mut stage = Arc::clone(stage).lock_owned().await;
        let due = match mem::take(&mut *stage) {
            Stage::Due(due) => due,
            other => {
                *stage = other;
                return Ok(None);
            }
        };
        let Due { threads, mut workers, parts } = due;
        let goes_on = parts.iter().all(|(_, end)| !end);
        let worked = threads.spawn(async move {
            let outcome = contain::refused(|| workers.push(parts));
            let made = outcome.as_ref().ok().map(|bytes| Made {
                bytes: bytes.clone(),
                keeping: workers.pipeline.take_keeping(),
                between_events: goes_on && workers.pipeline.is_between_events(),
            });
            *stage = Stage::Done(workers, outcome);
            made
        });
        // Only the end of the gateway cancels it.
        worked.await.unwrap_or(None).map(Some).ok_or(NotMade)
    }

    /// Gives the workers back, and what they have made; nothing if their work waits, or there is none.
    pub(super) fn take_back(&self) -> Option<(Workers, Option<Outcome>)> {
        let mut stage = self.0.get()?.try_lock().ok()?;
        if matches!(*stage, Stage::Due(_)) { None } else { mem::take(&mut *stage).end() }
    }

    /// Gives the workers back at the end of the answer, once nobody works with them; what waits is dropped.
    pub(super) async fn wait_for(&self) -> Option<(Workers, Option<Outcome>)> {
        mem::take(&mut *self.0.get()?.lock().await).end()
    }
}

impl Stage {
    fn end(self) -> Option<(Workers, Option<Outcome>)> {
        match self {
            Self::AtHand => None,
            // The answer has ended before its time.
            Self::Due(due) => Some((*due.workers, None)),
            Self::Done(workers, outcome) => Some((*workers, Some(outcome))),
        }
    }
}

impl Workers {
    fn push(&mut self, parts: Vec<Part>) -> Outcome {
        assert!(!self.fails, "failpoint apart");
        let (mut first, mut joined) = (Bytes::new(), BytesMut::new());
        for (part, end) in parts {
            let Some(out) = self.pipeline.push(part, end)? else { continue };
            if let Some(tools) = &mut self.tools {
                tools.read(&out);
            }
            if first.is_empty() {
                first = out;
                continue;
            }
            if joined.is_empty() {
                joined.extend_from_slice(&first);
            }
            joined.extend_from_slice(&out);
        }
        Ok(if joined.is_empty() { first } else { joined.freeze() })
    }
}
