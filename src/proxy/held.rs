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
use crate::firewall::denial::{Cause, Denial};
use crate::gate::{Cleared, Refused};

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

/// Returns the event that answers a call where the server's answer holds none.
pub(super) fn unanswered(cleared: &Cleared) -> Bytes {
    let message = "the MCP server's answer holds no message";
    let refused = cleared.failed(Denial::upstream(Cause::Protocol, message));
    reply::message(&refused).map(|message| event(&message)).unwrap_or_default()
}

/// The server's answer as the rest of a stream that has begun.
#[derive(Clone, Debug)]
pub(super) struct Rest {
    form: Form,
    /// Last event where the server's answer can be none.
    unanswered: Bytes,
}

/// Form of the server's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Its head has not come.
    Due,
    Stream,
    Message,
    /// Nothing that a stream of events could hold.
    Other,
    Over,
}

impl Rest {
    pub(super) fn new(unanswered: Bytes) -> Self {
        Self { form: Form::Due, unanswered }
    }

    pub(super) fn is_due(&self) -> bool {
        self.form == Form::Due
    }

    /// Turns a part of the answer into parts of the stream.
    pub(super) fn turn(&mut self, task: HttpTask) -> Vec<HttpTask> {
        match task {
            HttpTask::Header(head, ends) => self.begin(&head, ends),
            HttpTask::Body(part, ends) => self.go_on(part, ends).into_iter().collect(),
            // A stream of events has none, and the last part of the body ends it.
            HttpTask::Trailer(_) => self.go_on(None, true).into_iter().collect(),
            HttpTask::Done => {
                let last = (self.form != Form::Stream).then(|| self.go_on(None, true)).flatten();
                last.into_iter().chain([HttpTask::Done]).collect()
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
        let mut tasks = Vec::new();
        self.form = if is_event_stream(&head.headers) {
            Form::Stream
        } else if kind.trim().eq_ignore_ascii_case("application/json") && !ends {
            tasks.push(HttpTask::Body(Some(Bytes::from_static(BEFORE_MESSAGE)), false));
            Form::Message
        } else {
            Form::Other
        };
        if ends {
            tasks.extend(self.go_on(None, true));
        }
        tasks
    }

    fn go_on(&mut self, part: Option<Bytes>, ends: bool) -> Option<HttpTask> {
        let form = self.form;
        if ends {
            self.form = Form::Over;
        }
        match form {
            Form::Stream => Some(HttpTask::Body(part, ends)),
            Form::Message => {
                let mut line = on_one_line(part.unwrap_or_default());
                if ends {
                    line = [&line[..], AFTER_MESSAGE].concat().into();
                }
                (ends || !line.is_empty()).then_some(HttpTask::Body(Some(line), ends))
            }
            Form::Due | Form::Other => {
                ends.then(|| HttpTask::Body(Some(std::mem::take(&mut self.unanswered)), true))
            }
            Form::Over => None,
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
        let mut rest = Rest::new(Bytes::from_static(b"data: none\n\n"));
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
    fn events_stay_as_they_are_and_anything_else_is_an_error() {
        let events = "data: 1\n\ndata: 2\n\n";
        assert_eq!(turned("text/event-stream", &[(events, true)]), (events.to_owned(), 1));
        let none = "data: none\n\n".to_owned();
        assert_eq!(turned("text/html", &[("<p>", false), ("", true)]), (none, 1));
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
