//! A downstream session whose request body comes from memory.
//!
//! Pingora gives a body that `request_filter` has read back to the upstream only up to 64 KiB;
//! beyond that the request hangs. So, once a call is cleared, the real session is put inside one of
//! our own that replays exactly the checked bytes, at every attempt from the start, and is taken
//! out again in `logging`, so that the connection can be kept alive.
//!
//! The session also holds the deadlines for the upstream's first byte and for its silences after that: Pingora
//! has one read timeout for headers and streams alike, and neither may end because the other would
//! have.
//!
//! The trait implemented here is hidden in Pingora's documentation; hence the exact version pin and
//! the body tests that run against every upgrade.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session as CustomSession;
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{OrErr as _, Result};
use prometheus::IntGauge;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use super::apart::{NOT_MADE, NotMade, WORK};
use super::held::Rest;
use super::turn::Turn;
use crate::gate::drain::Ending;
use crate::gate::listening::{LOOK_EVERY, Listening};
pub(super) use slot::Slot;

mod slot;
mod waiting;

/// Number of body bytes handed over at a time.
const SLICE: usize = 64 * 1024;

/// Error type that says the upstream's first byte came too late.
pub(super) const FIRST_BYTE_LATE: &str = "no response header in time";

/// Error type that says that the stream was silent for too long.
pub(super) const SILENT: &str = "no event in time";

/// Error type that says that the gateway is to stop and the call had not ended.
pub(super) const CUT_OFF: &str = "the gateway stops";

/// Error type that says that the right to a stream has ended.
pub(super) const TAKEN_BACK: &str = "no longer allowed";

/// Time that a call may take.
#[derive(Clone)]
pub(super) struct Patience {
    pub(super) first_byte: Duration,
    pub(super) silence: Duration,
    /// After which silence a stream gets a comment, so that nothing between here and the client takes
    /// it for dead; `None`: never.
    pub(super) comment: Option<Duration>,
    /// The kinds of responses that the gateway has to end.
    pub(super) ending: watch::Receiver<Ending>,
    /// Counts the event streams that are open.
    pub(super) streams: IntGauge,
    /// Set for a stream that is looked at again while it is open.
    pub(super) listening: Option<Arc<Listening>>,
    /// Set if the client has the head of a stream already.
    pub(super) rest: Option<Rest>,
}

type MessageReader = Box<dyn futures::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

struct ReplaySession {
    inner: Option<Box<ServerSession>>,
    slot: Slot,
    body: Bytes,
    position: usize,
    silence: Duration,
    ending: watch::Receiver<Ending>,
    streams: IntGauge,
    /// Set once the response has begun as an event stream.
    is_stream: bool,
    /// Ends when the upstream's next byte has come too late.
    late: Pin<Box<Sleep>>,
    /// Error type of a late answer.
    late_is: &'static str,
    /// The head while it waits.
    held: Vec<HttpTask>,
    comment_after: Option<Duration>,
    /// Ends when a silent stream gets its next comment.
    comment: Option<Pin<Box<Sleep>>>,
    listening: Option<Arc<Listening>>,
    /// Ends when the right to the stream is looked at next.
    look: Option<Pin<Box<Sleep>>>,
    /// Set if the answer is the rest of a stream that has begun.
    rest: Option<Rest>,
    /// True while something of the gateway's own is being written, and after that was given up.
    torn: bool,
    turn: Turn,
}

fn placeholder() -> Box<ServerSession> {
    Box::new(ServerSession::new_custom(Box::new(())))
}

/// Puts `current` inside a session that replays `body`.
pub(super) fn install(
    current: &mut Box<ServerSession>,
    body: Bytes,
    slot: &Slot,
    patience: Patience,
) {
    let inner = mem::replace(current, placeholder());
    let replay = ReplaySession {
        inner: Some(inner),
        slot: slot.clone(),
        body,
        position: 0,
        // One timer for the whole wait: Pingora asks again at every step of the exchange.
        late: Box::pin(sleep(patience.first_byte)),
        late_is: FIRST_BYTE_LATE,
        silence: patience.silence,
        held: Vec::new(),
        comment_after: patience.comment,
        comment: None,
        ending: patience.ending,
        streams: patience.streams,
        is_stream: false,
        look: patience.listening.as_ref().map(|_| Box::pin(sleep(LOOK_EVERY))),
        listening: patience.listening,
        rest: patience.rest,
        torn: false,
        turn: Turn::default(),
    };
    **current = ServerSession::new_custom(Box::new(replay));
}

/// Takes the real session out again.
pub(super) fn uninstall(current: &mut Box<ServerSession>, slot: &Slot) {
    if !current.is_custom() {
        return;
    }
    // In place: the replay is dropped, and parks the real session in the slot.
    **current = ServerSession::new_custom(Box::new(()));
    if let Some(real) = slot.real().take() {
        *current = real;
    }
}

impl Drop for ReplaySession {
    fn drop(&mut self) {
        if self.is_stream {
            self.streams.dec();
        }
        *self.slot.real() = self.inner.take();
    }
}

impl ReplaySession {
    async fn next_slice(&mut self) -> Option<Bytes> {
        if self.position >= self.body.len() {
            return None;
        }
        if self.position > 0 {
            self.turn.took(SLICE).await;
        }
        let end = self.position.saturating_add(SLICE).min(self.body.len());
        let slice = self.body.slice(self.position..end);
        self.position = end;
        Some(slice)
    }

    #[expect(clippy::expect_used, reason = "`inner` is taken only by drop")]
    fn real(&self) -> &ServerSession {
        self.inner.as_deref().expect("the session is here until drop")
    }

    #[expect(clippy::expect_used, reason = "`inner` is taken only by drop")]
    fn real_mut(&mut self) -> &mut ServerSession {
        self.inner.as_deref_mut().expect("the session is here until drop")
    }

    /// Takes note of a head; false if another follows it.
    fn response_begins(&mut self, header: &ResponseHeader) -> bool {
        if header.status.is_informational() {
            return false;
        }
        if !self.is_stream && super::response::is_event_stream(&header.headers) {
            self.is_stream = true;
            self.streams.inc();
        }
        true
    }

    /// Returns the part of a response that may be written now: all of it, unless its head has to wait.
    fn released(&mut self, tasks: Vec<HttpTask>) -> Vec<HttpTask> {
        if !self.slot.holds_head() {
            return tasks;
        }
        if tasks.iter().any(|task| matches!(task, HttpTask::Failed(_))) {
            // The answer is another one now.
            self.held.clear();
            return tasks.into_iter().filter(|task| matches!(task, HttpTask::Failed(_))).collect();
        }
        let goes_on = tasks.iter().all(|task| match task {
            HttpTask::Header(header, ends) => !ends && !header.status.is_informational(),
            HttpTask::Body(part, ends) => !ends && part.as_ref().is_none_or(Bytes::is_empty),
            _ => false,
        });
        if !goes_on {
            self.slot.hold_head(false);
            if self.held.is_empty() {
                return tasks;
            }
        }
        self.held.extend(tasks);
        if goes_on { Vec::new() } else { mem::take(&mut self.held) }
    }

    /// Puts what was made apart where it belongs: every part behind the first that was put off is empty.
    async fn complete(&mut self, tasks: &mut [HttpTask]) -> Result<()> {
        let Some(made) = self.slot.made_apart().await.or_err(NOT_MADE, WORK)? else {
            return Ok(());
        };
        let last = tasks.iter_mut().rev().find_map(|task| match task {
            HttpTask::Body(part, _) => Some(part),
            _ => None,
        });
        match last {
            Some(part) => *part = Some(made).filter(|made| !made.is_empty()),
            None if made.is_empty() => {}
            None => return Err(NotMade).or_err(NOT_MADE, WORK),
        }
        Ok(())
    }

    /// Writes a part of the answer as the rest of a stream that has begun.
    async fn write_rest(&mut self, task: HttpTask) -> Result<()> {
        let turned = self.rest.as_mut().map(|rest| rest.turn(task)).unwrap_or_default();
        for task in turned {
            if let HttpTask::Body(part, ends) = task {
                let part = part.unwrap_or_default();
                self.real_mut().write_response_body(part, ends).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl CustomSession for ReplaySession {
    fn req_header(&self) -> &RequestHeader {
        self.real().req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.real_mut().req_header_mut()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        Ok(self.next_slice().await)
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.position = self.body.len();
        Ok(())
    }

    async fn write_response_header(&mut self, resp: Box<ResponseHeader>, end: bool) -> Result<()> {
        if self.response_begins(&resp) {
            self.heard();
        }
        if self.rest.is_some() {
            return self.write_rest(HttpTask::Header(resp, end)).await;
        }
        self.real_mut().write_response_header(resp).await
    }

    async fn write_response_header_ref(&mut self, resp: &ResponseHeader, end: bool) -> Result<()> {
        if self.response_begins(resp) {
            self.heard();
        }
        if self.rest.is_some() {
            return self.write_rest(HttpTask::Header(Box::new(resp.clone()), end)).await;
        }
        self.real_mut().write_response_header_ref(resp).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.turn.took(data.len()).await;
        self.slot.keep().await;
        if let Some(first) = self.mended() {
            self.real_mut().write_response_body(first, false).await?;
        }
        if self.rest.is_some() {
            return self.write_rest(HttpTask::Body(Some(data), end)).await;
        }
        self.real_mut().write_response_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        if self.rest.is_some() {
            return self.write_rest(HttpTask::Trailer(Some(Box::new(trailers)))).await;
        }
        self.real_mut().write_response_trailers(trailers).await
    }

    async fn response_duplex_vec(&mut self, mut tasks: Vec<HttpTask>) -> Result<bool> {
        self.complete(&mut tasks).await?;
        let (mut heard, mut ends, mut length) = (false, false, 0_usize);
        for task in &tasks {
            heard |= match task {
                HttpTask::Header(header, _) => self.response_begins(header),
                HttpTask::Body(part, _) => {
                    length = length.saturating_add(part.as_ref().map_or(0, Bytes::len));
                    true
                }
                _ => false,
            };
            ends |= task.is_end();
        }
        self.turn.took(length).await;
        // Nothing is waited for behind the end.
        if heard && !ends {
            self.heard();
        }
        let mut tasks = self.released(tasks);
        if tasks.is_empty() {
            return Ok(false);
        }
        self.slot.keep().await;
        if let Some(first) = self.mended() {
            tasks.insert(0, HttpTask::Body(Some(first), false));
        }
        if let Some(rest) = &mut self.rest {
            tasks = tasks.into_iter().flat_map(|task| rest.turn(task)).collect();
            if tasks.is_empty() {
                return Ok(false);
            }
        }
        self.real_mut().response_duplex_vec(tasks).await
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.real_mut().set_read_timeout(timeout);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.real().get_read_timeout()
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.real_mut().set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.real().get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.real_mut().set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.real().get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.real().request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        // The head that the client has is not the server's.
        if self.rest.as_ref().is_some_and(Rest::is_due) {
            return None;
        }
        self.real().response_written()
    }

    async fn shutdown(&mut self, _code: u32, _ctx: &str) {
        self.real_mut().shutdown().await;
    }

    fn is_body_done(&mut self) -> bool {
        self.position >= self.body.len()
    }

    async fn finish(&mut self) -> Result<()> {
        self.real_mut().finish_body().await
    }

    fn is_body_empty(&mut self) -> bool {
        self.body.is_empty()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if !no_body_expected && let Some(slice) = self.next_slice().await {
            return Ok(Some(slice));
        }
        self.idle().await
    }

    fn body_bytes_sent(&self) -> usize {
        self.real().body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.real().body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.real().digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.real_mut().digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.real().client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.real().server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.real().to_h1_raw()
    }

    /// Called in each attempt once the head has been sent: the replay begins again.
    fn enable_retry_buffering(&mut self) {
        self.slot.note_head_sent();
        self.position = 0;
    }

    fn retry_buffer_truncated(&self) -> bool {
        false
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        None
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<MessageReader> {
        None
    }

    fn restore_custom_message_reader(&mut self, _reader: MessageReader) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _w: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }

    fn is_upgrade_req(&self) -> bool {
        false
    }
}
