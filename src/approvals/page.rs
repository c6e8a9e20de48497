//! The page on which a person decides, and the state that a client brings back from it.
//!
//! Neither grants anything: the page asks for a sign-in, and the state only says that the client of this
//! session has sent its person there. The state is sealed, so that a server's state is never taken for
//! it.

use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::firewall::session::SessionId;

/// Beginning of every state, which finds those that may be the gateway's.
pub const MARK: &str = "arbiter-approval:";

/// The page, and the key of the seals.
#[derive(Debug)]
pub struct Page {
    url: Box<str>,
    key: [u8; 32],
}

impl Page {
    /// `url` is that of all approvals; `secret` keys the seals.
    pub fn new(url: &str, secret: &[u8]) -> Self {
        let key = blake3::derive_key("arbiter 2026 approvals: states of clients", secret);
        Self { url: url.trim_end_matches('/').into(), key }
    }

    /// Returns the address of an approval.
    pub fn of(&self, id: Uuid) -> String {
        format!("{}/{id}", self.url)
    }

    /// Returns the state for the client of a session that is sent to the page of an approval.
    pub fn seal(&self, id: Uuid, session: SessionId) -> String {
        format!("{MARK}{id}:{}", self.tag(id, session).to_hex())
    }

    /// Reads a state; none if it was not sealed for this session.
    pub fn unseal(&self, state: &str, session: SessionId) -> Option<Uuid> {
        let (id, tag) = state.strip_prefix(MARK)?.split_once(':')?;
        let id = Uuid::try_parse(id).ok()?;
        let expected = self.tag(id, session).to_hex();
        bool::from(tag.as_bytes().ct_eq(expected.as_bytes())).then_some(id)
    }

    fn tag(&self, id: Uuid, session: SessionId) -> blake3::Hash {
        blake3::Hasher::new_keyed(&self.key)
            .update(id.as_bytes())
            .update(session.0.as_bytes())
            .finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_of_one_approval_session_and_gateway() {
        let page = Page::new("https://arbiter.example/console/approvals/", b"secret");
        let (id, ours, theirs) = (Uuid::new_v4(), SessionId::random(), SessionId::random());
        assert_eq!(page.of(id), format!("https://arbiter.example/console/approvals/{id}"));
        let state = page.seal(id, ours);
        assert_eq!(page.unseal(&state, ours), Some(id));
        assert_eq!(page.unseal(&state, theirs), None);
        assert_eq!(Page::new("https://arbiter.example", b"other").unseal(&state, ours), None);
        let other = state.replace(&id.to_string(), &Uuid::new_v4().to_string());
        let short = state.strip_suffix(|_: char| true).unwrap();
        for bad in [&*other, MARK, "", short, &format!(" {state}")] {
            assert_eq!(page.unseal(bad, ours), None, "{bad}");
        }
    }
}
