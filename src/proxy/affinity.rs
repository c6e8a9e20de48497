//! To which server and which agent an `Mcp-Session-Id` belongs, without remembering any.
//!
//! An MCP server knows its sessions by their id alone, so an agent that has heard an id could go on in
//! another agent's session. The id therefore carries a seal: on its way to the client it gets a tag
//! made from the server's URL, the agent and the id under a key that all gateways of a fleet have;
//! on its way back the tag is checked and taken off again. To clients ids are opaque and always
//! carry the tag; servers never see it. The tag also names the server of a pool that serves the
//! session, at every gateway that has the same URLs, whatever their order.
//!
//! An id without a tag that fits is nobody's: the client gets the answer that there is no such session, and
//! opens a new one, as the protocol has it. So it is for ids of before an upgrade, of a server that
//! has left the pool, and of another agent.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use crate::firewall::agent::AgentId;

/// Stands between the id and the tag.
const SEPARATOR: char = '.';

/// Tag length before encoding; 128 bits cannot be guessed online.
const TAG_BYTES: usize = 16;

/// Key material of a fleet's seals.
#[derive(Clone)]
pub struct SealKey([u8; 32]);

impl SealKey {
    /// All gateways that share the signing secret have the same.
    pub fn from_secret(signing_secret: &[u8]) -> Self {
        Self(blake3::derive_key("arbiter 2026-11 mcp-session-id seal", signing_secret))
    }
}

/// One server's seal.
pub(super) struct Seal([u8; 32]);

impl Seal {
    pub(super) fn of(key: &SealKey, url: &str) -> Self {
        Self(*blake3::keyed_hash(&key.0, url.as_bytes()).as_bytes())
    }

    /// The id as the agent's client knows it: visible ASCII, like ids themselves.
    pub(super) fn put_on(&self, agent: AgentId, id: &[u8]) -> Vec<u8> {
        let mut sealed = id.to_vec();
        let tag = URL_SAFE_NO_PAD.encode(self.tag(agent, id));
        sealed.extend_from_slice(format!("{SEPARATOR}{tag}").as_bytes());
        sealed
    }

    fn tag(&self, agent: AgentId, id: &[u8]) -> [u8; TAG_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(agent.0.as_bytes()).update(id);
        let mut tag = [0; TAG_BYTES];
        hasher.finalize_xof().fill(&mut tag);
        tag
    }
}

/// The seals of a pool: for each key in force, the sealing one first, one for each server.
pub(super) struct Seals(Vec<Vec<Seal>>);

impl Seals {
    pub(super) fn of(keys: &[SealKey], urls: &[String]) -> Self {
        let each = |key| urls.iter().map(|url| Seal::of(key, url)).collect();
        Self(keys.iter().map(each).collect())
    }

    /// The seal that a server's ids get.
    pub(super) fn get(&self, server: usize) -> Option<&Seal> {
        self.0.first()?.get(server)
    }

    /// The server that an agent's id belongs to, by whichever key it was sealed.
    pub(super) fn owner<'i>(&self, agent: AgentId, id: &'i str) -> Option<(usize, &'i str)> {
        self.0.iter().find_map(|seals| owner(seals, agent, id))
    }
}

/// The server that an agent's id belongs to, and the id as that server knows it.
fn owner<'i>(seals: &[Seal], agent: AgentId, id: &'i str) -> Option<(usize, &'i str)> {
    let (own, tag) = id.rsplit_once(SEPARATOR)?;
    let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
    let fits = |seal: &Seal| bool::from(seal.tag(agent, own.as_bytes()).ct_eq(tag.as_slice()));
    Some((seals.iter().position(fits)?, own))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn seals(secret: &[u8], urls: &[&str]) -> Vec<Seal> {
        urls.iter().map(|url| Seal::of(&SealKey::from_secret(secret), url)).collect()
    }

    fn sealed(seal: &Seal, agent: AgentId, id: &str) -> String {
        String::from_utf8(seal.put_on(agent, id.as_bytes())).unwrap()
    }

    const IDS: [&str; 7] = ["1868a90c-9d4f", "x", "a.b.c", ".", "", "~!.@", "with.000000000000"];

    #[test]
    fn an_id_comes_back_to_its_server_as_it_was_at_every_gateway() {
        let here = seals(b"secret", &["http://a", "http://b", "http://c"]);
        let there = seals(b"secret", &["http://c", "http://a", "http://b"]);
        let agent = AgentId(Uuid::new_v4());
        for id in IDS {
            for (server, seal) in here.iter().enumerate() {
                let known_as = sealed(seal, agent, id);
                assert!(known_as.bytes().all(|b| b.is_ascii_graphic()), "{known_as}");
                assert_eq!(owner(&here, agent, &known_as), Some((server, id)));
                let elsewhere = owner(&there, agent, &known_as);
                assert_eq!(elsewhere, Some(((server + 1) % 3, id)));
            }
        }
    }

    #[test]
    fn an_id_outlives_the_key_that_sealed_it_as_long_as_that_is_in_force() {
        let [old, new] = [&b"old"[..], b"new"].map(SealKey::from_secret);
        let urls = ["http://a".to_owned(), "http://b".to_owned()];
        let agent = AgentId(Uuid::new_v4());
        let before = Seals::of(std::slice::from_ref(&old), &urls);
        let known_as = sealed(before.get(1).unwrap(), agent, "id");
        let both = Seals::of(&[new.clone(), old], &urls);
        assert_eq!(both.owner(agent, &known_as), Some((1, "id")));
        let again = sealed(both.get(1).unwrap(), agent, "id");
        assert_ne!(again, known_as, "sealed by the first");
        let after = Seals::of(&[new], &urls);
        assert_eq!(after.owner(agent, &again), Some((1, "id")));
        assert_eq!(after.owner(agent, &known_as), None);
    }

    #[test]
    fn an_id_is_nobodys_that_this_fleet_did_not_give_to_this_agent_for_this_server() {
        let (ours, theirs) = (AgentId(Uuid::new_v4()), AgentId(Uuid::new_v4()));
        let pool = seals(b"secret", &["http://a", "http://b"]);
        for id in IDS {
            let known_as = sealed(&pool[0], ours, id);
            assert_eq!(owner(&pool, theirs, &known_as), None, "another agent");
            assert_eq!(owner(&pool[1..], ours, &known_as), None, "a server that is gone");
            let other = seals(b"another secret", &["http://a", "http://b"]);
            assert_eq!(owner(&other, ours, &known_as), None, "another fleet");
            assert_eq!(owner(&pool, ours, id), None, "never sealed");
            assert_eq!(owner(&pool, ours, &format!("{known_as}A")), None);
            assert_eq!(owner(&pool, ours, &format!("x{known_as}")), None);
            let cut = known_as.strip_suffix(|_: char| true).unwrap();
            assert_eq!(owner(&pool, ours, cut), None);
            assert_eq!(owner(&pool, ours, &format!("{id}.")), None, "no tag at all");
        }
    }
}
