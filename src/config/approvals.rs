//! `[approvals]`: calls that a person decides.

use super::Secret;
use super::check::{Read, Section};
use super::values;

/// Shortest secret of the signatures of notices.
const MIN_SECRET_BYTES: usize = 16;

/// Terms of approvals.
#[derive(Clone, Debug)]
pub struct Approvals {
    /// Time within which a pending call is decided, and an approved one used.
    pub ttl_secs: u64,
    pub max_pending_per_agent: u32,
    /// Time for which the call itself waits for its decision; 0: not at all.
    pub hold_secs: u64,
    /// True if nobody decides about the calls of sessions that they opened or agents that they
    /// registered.
    pub four_eyes: bool,
    pub notify: Option<Notify>,
    /// Address of the page on which a person decides, without the approval's id.
    pub user_url: Option<String>,
}

/// Receiver of notices of approvals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Chat systems put a secret into it.
    pub url: Secret,
    /// Key of the signatures.
    pub secret: Secret,
}

pub(super) fn read(mut s: Section<'_>) -> Read<Approvals> {
    let approvals = Approvals {
        ttl_secs: s.number("ttl_secs", 900, 10..=86_400),
        max_pending_per_agent: s.number("max_pending_per_agent", 20, 1..=10_000),
        hold_secs: s.number("hold_secs", 0, 0..=600),
        four_eyes: s.flag("four_eyes", false),
        notify: notify(&mut s),
        user_url: s.parsed("user_url", page),
    };
    (approvals, s.finish())
}

fn notify(s: &mut Section<'_>) -> Option<Notify> {
    let url_at = s.origin("notify_url").or_else(|| s.origin("notify_url_file"));
    let url_given = url_at.is_some();
    let url = s.secret_or_file("notify_url", "notify_url_file").and_then(|url| {
        match values::safe_url(url.expose()) {
            Ok(()) => Some(url),
            Err(problem) => {
                s.problem("notify_url", url_at, problem);
                None
            }
        }
    });
    let secret_at =
        |s: &Section<'_>| s.origin("notify_secret").or_else(|| s.origin("notify_secret_file"));
    let secret_given = secret_at(s).is_some();
    let secret = s.secret_or_file("notify_secret", "notify_secret_file");
    if secret.as_ref().is_some_and(|secret| secret.expose().len() < MIN_SECRET_BYTES) {
        let problem = "is shorter than 16 bytes; take the output of `openssl rand -hex 32`";
        s.problem("notify_secret", secret_at(s), problem);
    }
    match (url_given, secret_given) {
        (true, false) => {
            let problem = "is missing: it signs what goes to `approvals.notify_url`; set \
                           ARBITER_APPROVALS__NOTIFY_SECRET or `notify_secret_file`";
            s.problem("notify_secret", None, problem);
        }
        (false, true) => {
            let problem = "signs nothing without `approvals.notify_url`; leave it out";
            s.problem("notify_secret", secret_at(s), problem);
        }
        (true, true) | (false, false) => {}
    }
    Some(Notify { url: url?, secret: secret? })
}

/// Reads the address of a page to which the id of an approval is added.
fn page(text: &str) -> Result<String, String> {
    values::safe_url(text)?;
    if text.contains('?') {
        return Err("holds a query (`?`): the approval's id is added as the last segment of the \
                    path, as in `https://arbiter.example:3000/console/approvals`"
            .to_owned());
    }
    Ok(text.to_owned())
}
