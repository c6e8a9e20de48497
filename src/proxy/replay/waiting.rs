//! Deadlines of a replayed session, and what the gateway itself writes while it waits.

use std::mem;

use bytes::Bytes;
use pingora::{Error, ErrorType, Result};
use tokio::time::{Instant, sleep};

use super::{CUT_OFF, ReplaySession, SILENT, TAKEN_BACK};
use crate::gate::listening::LOOK_EVERY;

/// A comment of an event stream: a line that no client hands on (HTML Standard section 9.2.6).
const COMMENT: &[u8] = b": keep-alive\n\n";

/// End of an event of which nobody knows how much was sent. No client reads an event of
/// another type than `message`.
const BROKEN_OFF: &[u8] = b"\nevent: broken-off\n\n";

impl ReplaySession {
    /// Starts the wait for the next byte again, as the upstream has sent one.
    pub(super) fn heard(&mut self) {
        self.late_is = SILENT;
        if let Some(by) = Instant::now().checked_add(self.silence) {
            self.late.as_mut().reset(by);
        }
        if let (Some(comment), Some(after)) = (&mut self.comment, self.comment_after)
            && let Some(by) = Instant::now().checked_add(after)
        {
            comment.as_mut().reset(by);
        }
    }

    /// Reports whether the gateway may write something of its own: between events, and not behind what
    /// the client has not taken yet.
    fn may_write(&self) -> bool {
        !self.torn && self.late_is == SILENT && self.slot.allows_comments()
    }

    /// Writes something of the gateway's own between two events.
    async fn insert(&mut self, text: Bytes) -> Result<()> {
        // INVARIANT: a comment or one announcement fits into the connection's empty write buffer, so that
        // this may be dropped while it waits without tearing the framing. HTTP/2 may then have sent a
        // part of it, which `mended` ends.
        self.torn = true;
        self.real_mut().write_response_body(text, false).await.map_err(Error::into_down)?;
        self.torn = false;
        Ok(())
    }

    /// Returns what must go before the next bytes of the stream.
    pub(super) fn mended(&mut self) -> Option<Bytes> {
        if !mem::take(&mut self.torn) {
            return None;
        }
        if let Some(listening) = &self.listening {
            listening.announce_again();
        }
        Some(Bytes::from_static(BROKEN_OFF))
    }

    /// Waits for the client to leave, no longer than the upstream's next byte may take, the gateway goes
    /// on and the client may listen; meanwhile a silent stream gets its comments, and one that listens
    /// what is to be announced.
    pub(super) async fn idle(&mut self) -> Result<Option<Bytes>> {
        loop {
            let after = self.comment_after.filter(|_| self.may_write());
            if let (Some(after), None) = (after, &self.comment) {
                self.comment = Some(Box::pin(sleep(after)));
            }
            let Self {
                inner: Some(real),
                late,
                late_is,
                comment,
                ending,
                is_stream,
                look,
                listening,
                ..
            } = self
            else {
                return Error::e_explain(
                    ErrorType::InternalError,
                    "the session is here until drop",
                );
            };
            let due = async {
                match comment {
                    Some(comment) => comment.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            let looked = async {
                match look {
                    Some(look) => look.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            let comments = tokio::select! {
                gone = real.read_body_or_idle(true) => return gone,
                () = late.as_mut() => {
                    return Error::e_explain(ErrorType::Custom(late_is), "upstream timed out");
                }
                _ended = ending.wait_for(|e| e.calls || (e.streams && *is_stream)) => {
                    return Error::e_explain(ErrorType::Custom(CUT_OFF), "the gateway stops");
                }
                () = looked => {
                    if listening.as_ref().is_some_and(|listening| !listening.look()) {
                        return Error::e_explain(ErrorType::Custom(TAKEN_BACK), "no longer allowed");
                    }
                    false
                }
                () = due, if after.is_some() => true,
            };
            if comments {
                self.insert(Bytes::from_static(COMMENT)).await?;
                self.comment = None;
            } else {
                self.look = Some(Box::pin(sleep(LOOK_EVERY)));
                self.announce().await?;
            }
        }
    }

    /// Writes what is to be announced on a stream that listens, an event at a time.
    async fn announce(&mut self) -> Result<()> {
        while self.may_write()
            && let Some(event) = self.listening.as_ref().and_then(|one| one.announcement())
        {
            self.insert(event).await?;
        }
        Ok(())
    }
}
