//! Notices of approvals to one address of the operator's choice, such as the hook of a chat system.
//!
//! The node that takes a step sends its notice, one after the other, so that their order is the order
//! of the steps. Nothing waits for them: what a full queue cannot take is counted and dropped, and so
//! is what a receiver refuses or does not take within [`ATTEMPTS`]. A notice names the call and never
//! holds its arguments, its session's intent or a person's reason.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::warn;
use uuid::Uuid;

use super::page::Page;
use crate::clock::Clock;
use crate::firewall::agent::AgentId;
use crate::firewall::approvals::{Approval, ApprovalStep, Status};
use crate::firewall::session::SessionId;
use crate::firewall::time::Timestamp;
use crate::http_client;
use crate::metrics::{Metrics, NoticeOutcome};

/// Notices that wait at most.
const MAX_WAITING: usize = 1_000;
/// Attempts at one notice.
const ATTEMPTS: u32 = 6;
/// Delay before the second attempt; doubled before each further one.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// Time within which a receiver has to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest name of a call in a notice, in characters.
const MAX_NAME_CHARS: usize = 256;

const TIMESTAMP: &str = "x-arbiter-timestamp";
const SIGNATURE: &str = "x-arbiter-signature";
const DELIVERY: &str = "x-arbiter-delivery";

/// Receiver of notices.
pub struct Receiver {
    /// URL, never logged: chat systems put a secret into it.
    pub url: reqwest::Url,
    /// Key of the signatures.
    pub key: hmac::Key,
}

/// Queue of notices.
#[derive(Debug)]
pub struct Notices {
    queue: mpsc::Sender<Notice>,
    metrics: Arc<Metrics>,
}

/// Body of a notice.
#[derive(Debug, Serialize)]
struct Notice {
    event: &'static str,
    /// Equal for all attempts at this notice, and different for all others.
    delivery_id: String,
    approval_id: Uuid,
    status: Status,
    agent_id: AgentId,
    session_id: SessionId,
    method: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<String>,
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<Box<str>>,
    policy: Arc<str>,
    requested_at: Timestamp,
    expires_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_by: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_at: Option<Timestamp>,
    /// Page on which a person decides, after signing in.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

impl Notice {
    /// Returns the notice of a step; none of a use.
    fn of(step: &ApprovalStep, page: Option<&Page>) -> Option<Self> {
        let event = step.event();
        if event == "approval.used" {
            return None;
        }
        let Approval { id, version, .. } = step.to;
        let one = step.to.clone();
        let target: String = one.target.chars().take(MAX_NAME_CHARS).collect();
        Some(Self {
            event,
            delivery_id: format!("{id}.{version}"),
            approval_id: id,
            status: one.status,
            agent_id: one.agent,
            session_id: one.session,
            tool: one.is_of_tool().then(|| target.clone()),
            target,
            method: one.method,
            upstream: one.upstream,
            policy: one.policy,
            requested_at: one.requested_at,
            expires_at: one.expires_at,
            decided_by: one.decided_by,
            decided_at: one.decided_at,
            url: page.map(|page| page.of(id)),
        })
    }
}

impl Notices {
    /// Starts to send on `runtime`, which ends with the process: a notice that is not sent by then is
    /// lost, and the approval is not.
    pub fn start(
        receiver: Receiver,
        metrics: &Arc<Metrics>,
        clock: &Clock,
        runtime: &Handle,
    ) -> Result<Self, reqwest::Error> {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let client = http_client::client(TIMEOUT, None)?;
        let sender =
            Sender { receiver, client, clock: clock.clone(), metrics: Arc::clone(metrics) };
        runtime.spawn(sender.run(waiting));
        Ok(Self { queue, metrics: Arc::clone(metrics) })
    }

    /// Queues the notice of a step that the store has taken.
    pub(super) fn note(&self, step: &ApprovalStep, page: Option<&Page>) {
        let Some(notice) = Notice::of(step, page) else { return };
        if self.queue.try_send(notice).is_err() {
            self.metrics.operation.noticed(NoticeOutcome::Dropped);
        }
    }
}

struct Sender {
    receiver: Receiver,
    client: reqwest::Client,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// Result of one attempt that may be followed by another.
#[derive(Debug)]
enum Failed {
    Refused(StatusCode),
    Unanswered(reqwest::Error),
}

impl Sender {
    async fn run(self, mut waiting: mpsc::Receiver<Notice>) {
        while let Some(notice) = waiting.recv().await {
            let sent = self.deliver(&notice).await;
            self.metrics.operation.noticed(if sent {
                NoticeOutcome::Sent
            } else {
                NoticeOutcome::Failed
            });
        }
    }

    async fn deliver(&self, notice: &Notice) -> bool {
        let Ok(body) = serde_json::to_string(notice) else { return false };
        let mut delay = FIRST_DELAY;
        for attempt in 1..=ATTEMPTS {
            let failed = match self.attempt(notice, &body).await {
                Ok(()) => return true,
                Err(failed) => failed,
            };
            let is_last = attempt == ATTEMPTS || !failed.is_passing();
            let (approval, event) = (notice.approval_id, notice.event);
            let problem = failed.problem();
            if is_last {
                warn!(%approval, event, problem, "nobody was notified of an approval");
                return false;
            }
            tokio::time::sleep(delay).await;
            delay = delay.saturating_mul(2);
        }
        false
    }

    async fn attempt(&self, notice: &Notice, body: &str) -> Result<(), Failed> {
        let at = self.clock.now().wall.0.div_euclid(1_000_000);
        let request = self
            .client
            .post(self.receiver.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(TIMESTAMP, at)
            .header(SIGNATURE, signature(&self.receiver.key, at, body))
            .header(DELIVERY, &notice.delivery_id)
            .body(body.to_owned());
        let answer = request.send().await.map_err(Failed::Unanswered)?;
        if answer.status().is_success() { Ok(()) } else { Err(Failed::Refused(answer.status())) }
    }
}

/// Returns the signature of a body sent at a time, in seconds since 1970.
fn signature(key: &hmac::Key, at: i64, body: &str) -> String {
    let mut signing = hmac::Context::with_key(key);
    signing.update(at.to_string().as_bytes());
    signing.update(b".");
    signing.update(body.as_bytes());
    let mut text = String::from("v1=");
    for byte in signing.sign().as_ref() {
        // Writing to a text never fails.
        let _written = write!(text, "{byte:02x}");
    }
    text
}

impl Failed {
    /// Reports whether the same notice may be taken later.
    fn is_passing(&self) -> bool {
        match self {
            Self::Refused(status) => {
                status.is_server_error()
                    || matches!(
                        *status,
                        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
                    )
            }
            Self::Unanswered(_) => true,
        }
    }

    /// Returns the cause without the URL, which may hold a secret.
    fn problem(self) -> String {
        match self {
            Self::Refused(status) => format!("the receiver answered {status}"),
            Self::Unanswered(error) => crate::telemetry::Causes(&error.without_url()).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::approvals::tests::{asked, at, hash, ruling};

    #[test]
    fn a_signature_is_that_of_openssl() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        assert_eq!(
            signature(&key, 1_700_000_000, r#"{"a":1}"#),
            "v1=9eb18f493f8ec135d9eb2dad817c369bb4e9cbfa818657897a7437c1cd8c3a23"
        );
    }

    #[test]
    fn a_notice_names_the_call_and_holds_nothing_of_it() {
        let pending = Approval {
            arguments: r#"{"password":"hunter2"}"#.into(),
            declared_intent: "hunter2".into(),
            target: "x".repeat(1_000).into(),
            ..asked(hash(1), AgentId::random(), at(0))
        };
        let step = ApprovalStep::ask(pending.clone());
        let page = Page::new("https://arbiter.example/console/approvals", b"secret");
        let notice = Notice::of(&step, Some(&page)).unwrap();
        let text = serde_json::to_string(&notice).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(notice.tool.as_deref().map(str::len), Some(MAX_NAME_CHARS));
        assert_eq!(notice.tool.as_deref(), Some(&*notice.target));
        let read = Approval { method: "resources/read".into(), ..pending.clone() };
        assert_eq!(Notice::of(&ApprovalStep::ask(read), None).unwrap().tool, None);
        let url = format!("https://arbiter.example/console/approvals/{}", pending.id);
        assert_eq!(notice.url.as_deref(), Some(&*url));
        let reasoned = crate::firewall::approvals::Ruling {
            reason: Some("hunter2".into()),
            ..ruling(true, 1)
        };
        let approved = pending.decide(&reasoned, at(1)).unwrap();
        let notice = Notice::of(&approved, None).unwrap();
        assert_eq!(
            (notice.event, notice.decided_by.as_deref()),
            ("approval.approved", Some("bob"))
        );
        assert!(!serde_json::to_string(&notice).unwrap().contains("hunter2"));
        assert!(Notice::of(&approved.to.take(1, at(2)).unwrap(), None).is_none(), "a use");
    }
}
