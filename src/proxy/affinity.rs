//! Which server of a pool an `Mcp-Session-Id` belongs to, without remembering any.
//!
//! The server that issues a session's id is chosen before the id exists, so no hash of the id can
//! lead back to it. Instead the id tells by itself: on its way to the client it gets a tag made
//! from the server's URL, on its way back the tag is taken off again. To clients ids are opaque and
//! always carry the tag; servers never see it; every gateway that has the same URLs reads the same
//! tags, whatever their order. An id without a tag of this pool, from before it was a pool or from
//! a server that is gone, goes to the server that ranks highest for it, the same at every gateway;
//! a server that does not know it says 404, and the client opens a new session.

/// Stands between the id and the tag.
const SEPARATOR: char = '.';

/// A server's mark in session ids: visible ASCII, like the ids themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tag(String);

impl Tag {
    pub(super) fn of(url: &str) -> Self {
        let mut tag = blake3::hash(url.as_bytes()).to_hex().to_string();
        tag.truncate(12);
        Self(tag)
    }

    /// The id as clients know it.
    pub(super) fn put_on(&self, id: &[u8]) -> Vec<u8> {
        let mut tagged = id.to_vec();
        tagged.extend_from_slice(format!("{SEPARATOR}{}", self.0).as_bytes());
        tagged
    }
}

/// The server that an id belongs to, and the id as that server knows it.
pub(super) fn owner<'i>(tags: &[Tag], id: &'i str) -> (usize, &'i str) {
    if let Some((own, tag)) = id.rsplit_once(SEPARATOR)
        && let Some(server) = tags.iter().position(|known| known.0 == tag)
    {
        return (server, own);
    }
    (highest(tags, id), id)
}

/// The server that ranks highest for an id (rendezvous hashing).
fn highest(tags: &[Tag], id: &str) -> usize {
    let rank = |tag: &Tag| *blake3::hash(format!("{}{SEPARATOR}{id}", tag.0).as_bytes()).as_bytes();
    let best = tags.iter().enumerate().max_by_key(|(_, tag)| rank(tag));
    best.map_or(0, |(server, _)| server)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(urls: &[&str]) -> Vec<Tag> {
        urls.iter().map(|url| Tag::of(url)).collect()
    }

    #[test]
    fn an_id_comes_back_to_its_server_as_it_was_at_every_gateway() {
        let here = tags(&["http://a", "http://b", "http://c"]);
        let there = tags(&["http://c", "http://a", "http://b"]);
        for id in ["1868a90c-9d4f", "x", "a.b.c", ".", "", "~!.@", "with.000000000000"] {
            for (server, tag) in here.iter().enumerate() {
                let tagged = String::from_utf8(tag.put_on(id.as_bytes())).unwrap();
                assert_eq!(owner(&here, &tagged), (server, id));
                let (elsewhere, own) = owner(&there, &tagged);
                assert_eq!((&there[elsewhere], own), (tag, id));
            }
        }
    }

    #[test]
    fn an_id_without_a_tag_goes_to_one_server_whole() {
        let here = tags(&["http://a", "http://b", "http://c"]);
        let there = tags(&["http://c", "http://a", "http://b"]);
        let mut load = [0; 3];
        for n in 0..300 {
            let id = format!("session-{n}.0123456789ab");
            let (server, own) = owner(&here, &id);
            assert_eq!(own, id);
            assert_eq!(there[owner(&there, &id).0], here[server]);
            load[server] += 1;
            // Only what was on a server moves when that server goes.
            let (left, _) = owner(&here[..2], &id);
            assert!(server == 2 || left == server);
        }
        assert!(load.iter().all(|n| *n > 60), "{load:?}");
    }
}
