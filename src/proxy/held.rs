//! A call that waits for a person while its client watches: an event stream that begins before the
//! answer, with progress notifications until that comes.
//!
//! The server's answer, whatever its form, then goes on as the rest of this stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::protocols::http::HttpTask;
use pingora::proxy::Session;
use tokio::time::{Instant, Sleep, sleep};
use uuid::Uuid;

use super::browser::Browsers;
use super::reply;
use super::response::is_event_stream;
use crate::gate::Refused;

/// Interval between two notifications.
const EVERY: Duration = Duration::from_secs(5);

const BEFORE_MESSAGE: &[u8] = b"event: message\ndata: ";
const AFTER_MESSAGE: &[u8] = b"\n\n";

/// Reports whether a client takes an event stream for an answer.
pub(super) fn takes_streams(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let mut kinds = lines.flat_map(|line| line.split(','));
    kinds.any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("text/event-stream")
    })
}

/// Reports whether the answer to a request has begun.
pub(super) fn is_begun(session: &Session) -> bool {
    session.response_written().is_some_and(|head| !head.status.is_informational())
}

/// Progress of one call.
pub(super) struct Progress {
    /// Token of the client, as it was written.
    token: Arc<str>,
    since: Instant,
    next: std::pin::Pin<Box<Sleep>>,
}

impl Progress {
    /// Begins the stream with a first notification.
    pub(super) async fn begin(
        token: Arc<str>,
        session: &mut Session,
        request_id: Uuid,
        browsers: &Browsers,
    ) -> Result<Self> {
        let mut head = ResponseHeader::build(StatusCode::OK, Some(6))?;
        head.insert_header(header::CONTENT_TYPE, "text/event-stream")?;
        head.insert_header(header::CACHE_CONTROL, "no-store")?;
        head.insert_header("x-accel-buffering", "no")?;
        if !session.is_http2() {
            head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        }
        reply::decorate(&mut head, request_id, &[])?;
        browsers.share(session.req_header(), &mut head)?;
        session.write_response_header(Box::new(head), false).await?;
        let mut progress = Self { token, since: Instant::now(), next: Box::pin(sleep(EVERY)) };
        progress.notify(session).await?;
        Ok(progress)
    }

    /// Resolves when the next notification is due.
    pub(super) async fn due(&mut self) {
        self.next.as_mut().await;
    }

    /// Sends a notification.
    pub(super) async fn notify(&mut self, session: &mut Session) -> Result<()> {
        self.next = Box::pin(sleep(EVERY));
        let (token, secs) = (&self.token, self.since.elapsed().as_secs());
        let message = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":{secs},"message":"waiting for a person's approval"}}}}"#
        );
        session.write_response_body(Some(event(message.as_bytes())), false).await
    }
}

fn event(message: &[u8]) -> Bytes {
    [BEFORE_MESSAGE, message, AFTER_MESSAGE].concat().into()
}

/// Ends a stream that has begun with the refusal of its call.
pub(super) async fn end(session: &mut Session, refused: &Refused) -> Result<()> {
    let last = reply::message(refused).map(|message| event(&message)).unwrap_or_default();
    reply::end_with(session, last).await
}

/// The server's answer as the rest of a stream that has begun.
#[derive(Debug, Default)]
pub(super) enum Rest {
    /// Its head has not come.
    #[default]
    Due,
    Stream,
    Message,
    /// Nothing that a stream of events could hold.
    Nothing,
}

impl Rest {
    pub(super) fn is_due(&self) -> bool {
        matches!(self, Self::Due)
    }

    /// Turns a part of the answer into parts of the stream.
    pub(super) fn turn(&mut self, task: HttpTask) -> Vec<HttpTask> {
        match task {
            HttpTask::Header(head, ends) => self.begin(&head, ends),
            HttpTask::Body(part, ends) => self.go_on(part, ends).into_iter().collect(),
            // A stream of events has none, and the last part of the body ends it.
            HttpTask::Trailer(_) => match self {
                Self::Message => self.go_on(None, true).into_iter().collect(),
                Self::Due | Self::Stream | Self::Nothing => vec![HttpTask::Body(None, true)],
            },
            HttpTask::Done => {
                let left = matches!(self, Self::Message).then(|| self.go_on(None, true)).flatten();
                left.into_iter().chain([HttpTask::Done]).collect()
            }
            other @ (HttpTask::UpgradedBody(..) | HttpTask::Failed(_)) => vec![other],
        }
    }

    fn begin(&mut self, head: &ResponseHeader, ends: bool) -> Vec<HttpTask> {
        if head.status.is_informational() {
            return Vec::new();
        }
        let kind = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
        *self = if is_event_stream(&head.headers) {
            Self::Stream
        } else if kind.trim().eq_ignore_ascii_case("application/json") && !ends {
            Self::Message
        } else {
            Self::Nothing
        };
        match self {
            Self::Message => vec![HttpTask::Body(Some(Bytes::from_static(BEFORE_MESSAGE)), false)],
            Self::Due | Self::Stream | Self::Nothing if ends => vec![HttpTask::Body(None, true)],
            Self::Due | Self::Stream | Self::Nothing => Vec::new(),
        }
    }

    fn go_on(&mut self, part: Option<Bytes>, ends: bool) -> Option<HttpTask> {
        match self {
            Self::Stream => Some(HttpTask::Body(part, ends)),
            Self::Message => {
                let mut line = on_one_line(part.unwrap_or_default());
                if ends {
                    line = [&line[..], AFTER_MESSAGE].concat().into();
                    *self = Self::Nothing;
                }
                (ends || !line.is_empty()).then(|| HttpTask::Body(Some(line), ends))
            }
            Self::Due | Self::Nothing => ends.then_some(HttpTask::Body(None, true)),
        }
    }
}

/// Leaves out line breaks, which JSON has between values only.
fn on_one_line(part: Bytes) -> Bytes {
    if memchr::memchr2(b'\n', b'\r', &part).is_none() {
        return part;
    }
    part.iter().copied().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(kind: &str, parts: &[(&str, bool)]) -> (String, usize) {
        let mut rest = Rest::default();
        let mut head = ResponseHeader::build(StatusCode::OK, None).unwrap();
        head.insert_header(header::CONTENT_TYPE, kind).unwrap();
        head.insert_header(header::CONTENT_LENGTH, 7).unwrap();
        let mut tasks = rest.turn(HttpTask::Header(Box::new(head), false));
        for (part, ends) in parts {
            tasks.extend(rest.turn(HttpTask::Body(Some(Bytes::from((*part).to_owned())), *ends)));
        }
        let (mut text, mut ends) = (String::new(), 0);
        for task in tasks {
            let HttpTask::Body(part, end) = task else { panic!("only parts of a body") };
            text.push_str(std::str::from_utf8(&part.unwrap_or_default()).unwrap());
            ends += usize::from(end);
        }
        (text, ends)
    }

    #[test]
    fn a_message_becomes_one_event() {
        let (text, ends) =
            turned("application/json; charset=utf-8", &[("{\n  \"a\":", false), ("\r\n1}", true)]);
        assert_eq!((text.as_str(), ends), ("event: message\ndata: {  \"a\":1}\n\n", 1));
        let (text, ends) = turned("application/json", &[("{}", false), ("", true)]);
        assert_eq!((text.as_str(), ends), ("event: message\ndata: {}\n\n", 1));
    }

    #[test]
    fn events_stay_as_they_are_and_anything_else_is_left_out() {
        let events = "data: 1\n\ndata: 2\n\n";
        assert_eq!(turned("text/event-stream", &[(events, true)]), (events.to_owned(), 1));
        assert_eq!(turned("text/html", &[("<p>", false), ("", true)]), (String::new(), 1));
    }

    #[test]
    fn clients_say_that_they_take_streams() {
        let takes = |text: &'static str| {
            let value = http::HeaderValue::from_static(text);
            takes_streams(&[(header::ACCEPT, value)].into_iter().collect())
        };
        assert!(takes("application/json, Text/Event-Stream;q=0.9"));
        assert!(!takes("application/json") && !takes("*/*"));
    }
}
