//! Questions to an issuer about tokens: one at a time for each token, few at once, each with an end.
//!
//! Anybody can send a token that causes a question, so how many are open is bounded, failures are
//! logged now and then only, and calls with the same token share one question. Tokens of strangers have
//! a small lane of their own, so that no flood of them delays the tokens that are asked about again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blake3::Hash;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use http::HeaderValue;
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::warn;

use super::TokenError;
use super::fetch::{FetchError, Fetcher};
use crate::config;
use crate::firewall::time::Mono;

/// A token's place in the queue for its issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Its issuer said yes before, or its signature is the issuer's.
    Known,
    Stranger,
}

impl Lane {
    /// Questions to one issuer at a time.
    fn at_once(self) -> usize {
        match self {
            Self::Known => 32,
            Self::Stranger => 8,
        }
    }

    /// Questions that wait for their turn or their answer; more are not asked.
    fn most_open(self) -> usize {
        match self {
            Self::Known => 1_024,
            Self::Stranger => 256,
        }
    }
}

/// Time limit of a call's wait, its turn included.
const DEADLINE: Duration = Duration::from_secs(6);

/// Pause between two log lines about the same failure.
const WARN_PAUSE_SECS: u64 = 30;

/// Answer of an issuer, unparsed.
type Answer = Result<Arc<[u8]>, TokenError>;

type Question = Shared<BoxFuture<'static, Answer>>;

/// Asks one issuer.
pub(crate) struct Questions {
    desk: Arc<Desk>,
    runtime: Handle,
}

struct Desk {
    name: String,
    url: String,
    authorization: HeaderValue,
    fetcher: Fetcher,
    known_turns: Semaphore,
    stranger_turns: Semaphore,
    open: Mutex<HashMap<(Lane, [u8; 32]), Question>>,
    warned: Mutex<Option<Mono>>,
}

impl Questions {
    pub(crate) fn new(
        name: String,
        settings: &config::Introspection,
        fetcher: Fetcher,
        runtime: Handle,
    ) -> Self {
        let desk = Desk {
            name,
            url: settings.url.clone(),
            authorization: basic(&settings.client_id, settings.client_secret.expose()),
            fetcher,
            known_turns: Semaphore::new(Lane::Known.at_once()),
            stranger_turns: Semaphore::new(Lane::Stranger.at_once()),
            open: Mutex::default(),
            warned: Mutex::default(),
        };
        Self { desk: Arc::new(desk), runtime }
    }

    /// Asks what the issuer says of a token now; calls that ask the same meanwhile share the answer.
    pub(crate) async fn ask(&self, token: &str, hash: &Hash, lane: Lane, now: Mono) -> Answer {
        let question = {
            let mut open = self.desk.pending();
            if let Some(question) = open.get(&(lane, *hash.as_bytes())) {
                question.clone()
            } else {
                let waiting = open.keys().filter(|(other, _)| *other == lane).count();
                if waiting >= lane.most_open() {
                    return Err(TokenError::Unanswered);
                }
                let question = self.put(token, hash, lane, now);
                open.insert((lane, *hash.as_bytes()), question.clone());
                question
            }
        };
        question.await
    }

    /// Asks about a token that nobody has: the answer shows that the issuer knows this client.
    pub(crate) async fn try_out(&self) -> Result<(), FetchError> {
        let Desk { fetcher, url, authorization, .. } = &*self.desk;
        let form = "token=arbiter-check&token_type_hint=access_token".to_owned();
        fetcher.post_form(url, Some(authorization.clone()), form).await.map(drop)
    }

    /// A question that is asked when it is first waited for, and then goes on even if the asker leaves.
    fn put(&self, token: &str, hash: &Hash, lane: Lane, now: Mono) -> Question {
        let form = format!("token={}&token_type_hint=access_token", encoded(token));
        let (asking, runtime) =
            (Asking { desk: Arc::clone(&self.desk), lane, hash: *hash }, self.runtime.clone());
        // On the control runtime: connections must not depend on the thread that serves a call.
        let asked = async move {
            let task = runtime.spawn(async move {
                let asking = asking;
                asking.desk.answer(form, lane, now).await
            });
            task.await.unwrap_or(Err(TokenError::Unanswered))
        };
        asked.boxed().shared()
    }
}

impl Desk {
    fn pending(&self) -> MutexGuard<'_, HashMap<(Lane, [u8; 32]), Question>> {
        self.open.lock()
    }

    async fn answer(&self, form: String, lane: Lane, now: Mono) -> Answer {
        let turns = match lane {
            Lane::Known => &self.known_turns,
            Lane::Stranger => &self.stranger_turns,
        };
        let whole = tokio::time::timeout(DEADLINE, async {
            let _turn = turns.acquire().await;
            self.fetcher.post_form(&self.url, Some(self.authorization.clone()), form).await
        });
        let reason = match whole.await {
            Ok(Ok(answer)) => return Ok(answer.bytes.into()),
            Ok(Err(error)) => error.to_string(),
            Err(_late) => format!("no answer within {} s", DEADLINE.as_secs()),
        };
        if self.may_warn(now) {
            warn!(issuer = self.name, reason, "introspection failed; tokens cannot be checked");
        }
        Err(TokenError::Unanswered)
    }

    fn may_warn(&self, now: Mono) -> bool {
        let mut warned = self.warned.lock();
        let due = warned.is_none_or(|at| now.since(at) >= WARN_PAUSE_SECS * 1_000_000);
        if due {
            *warned = Some(now);
        }
        due
    }
}

/// A question that is under way; no longer open when it ends, however it ends.
struct Asking {
    desk: Arc<Desk>,
    lane: Lane,
    hash: Hash,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.desk.pending().remove(&(self.lane, *self.hash.as_bytes()));
    }
}

/// Client credentials as RFC 6749 section 2.3.1 writes them: each part encoded, then joined.
fn basic(client_id: &str, client_secret: &str) -> HeaderValue {
    let pair = format!("{}:{}", encoded(client_id), encoded(client_secret));
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair)))
        .unwrap_or_else(|_never| HeaderValue::from_static("Basic"));
    value.set_sensitive(true);
    value
}

/// Percent-encoded for a form; a space becomes `%20`, which every reader takes.
fn encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _written = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_with_odd_characters_reach_the_issuer_whole() {
        let value = basic("my client", "a:b&c+d");
        assert!(value.is_sensitive());
        let expected = format!("Basic {}", STANDARD.encode("my%20client:a%3Ab%26c%2Bd"));
        assert_eq!(value.to_str().unwrap(), expected);
    }
}
