//! Wrong keys, counted for each source address, so that guessing is bounded.
//!
//! A source that sent too many wrong keys within a minute is refused, whatever key it sends now:
//! else the one guess that is right would be let through. Keys that succeeded from that source
//! before are not refused, so that a guesser behind the same address locks no working operator out.
//! A source is the peer's address, without any header: IPv4 whole, IPv6 by its /64.

use std::net::IpAddr;

use parking_lot::Mutex;

use super::limit::Window;
use super::lru::Lru;
use crate::firewall::time::Mono;

/// Pairs of key and source that are remembered.
pub(super) const MAX_PAIRS: usize = 1_000;
/// As many are kept in the store.
pub(super) const MAX_PAIRS_KEPT: u32 = 1_000;
/// Sources whose wrong keys are counted.
const MAX_SOURCES: usize = 4_096;
/// Wrong keys that are counted, over all sources.
const MAX_COUNTED: usize = 1 << 20;

/// An address, as far as it says who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    V4([u8; 4]),
    /// The first 64 bits: one host may have all addresses that begin with them.
    V6([u8; 8]),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                Self::V6(address.octets().first_chunk().copied().unwrap_or_default())
            }
        }
    }
}

impl Source {
    /// Returns the pair to remember when `key` succeeds from here: a hash that reveals neither.
    pub(super) fn pair_with(&self, key: &[u8; 32]) -> Pair {
        let mut hasher = blake3::Hasher::new_derive_key("arbiter admin key and source 1");
        hasher.update(key);
        match self {
            Self::V4(address) => hasher.update(b"4").update(address),
            Self::V6(address) => hasher.update(b"6").update(address),
        };
        *hasher.finalize().as_bytes()
    }
}

/// A key that succeeded from a source.
pub type Pair = [u8; 32];

/// Outcome of a request with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The key is right.
    Right,
    /// The key is right, and its pair is a new one.
    RightAndNew(Pair),
    Wrong,
    /// Too many were wrong; what this one is was not looked at.
    TooMany {
        retry_after_secs: u64,
    },
}

#[derive(Debug)]
pub(super) struct Sources {
    limit: u32,
    state: Mutex<Counters>,
}

#[derive(Debug)]
struct Counters {
    wrong: Lru<Source, Window>,
    counted: usize,
    pairs: Lru<Pair, ()>,
}

impl Sources {
    pub(super) fn new(limit_per_minute: u32) -> Self {
        let state =
            Counters { wrong: Lru::new(MAX_SOURCES), counted: 0, pairs: Lru::new(MAX_PAIRS) };
        Self { limit: limit_per_minute, state: Mutex::new(state) }
    }

    /// Puts pairs in that are known from before, the least recently used first.
    pub(super) fn remember(&self, pairs: impl IntoIterator<Item = Pair>) {
        let mut state = self.state.lock();
        for pair in pairs {
            state.pairs.put(pair, ());
        }
    }

    /// Checks whether keys that never succeeded from `source` are refused now.
    pub(super) fn is_refused(&self, source: Source, now: Mono) -> bool {
        let mut state = self.state.lock();
        state.is_full(source, self.limit, now).is_err()
    }

    /// Looks at a request from `source` whose key has this hash if it is right, and counts it if it
    /// is wrong.
    pub(super) fn attempt(&self, source: Source, right: Option<&[u8; 32]>, now: Mono) -> Attempt {
        let mut state = self.state.lock();
        let pair = right.map(|key| source.pair_with(key));
        if pair.is_some_and(|pair| state.pairs.get(&pair).is_some()) {
            return Attempt::Right;
        }
        if let Err(retry_after_secs) = state.is_full(source, self.limit, now) {
            return Attempt::TooMany { retry_after_secs };
        }
        if let Some(pair) = pair {
            state.pairs.put(pair, ());
            return Attempt::RightAndNew(pair);
        }
        state.count(source, self.limit, now);
        Attempt::Wrong
    }
}

impl Counters {
    /// Says in how many seconds a source has room again, if it has none.
    fn is_full(&mut self, source: Source, limit: u32, now: Mono) -> Result<(), u64> {
        let Some(window) = self.wrong.get(&source) else { return Ok(()) };
        let before = window.len();
        let full = window.is_full(limit, now);
        let forgotten = before.saturating_sub(window.len());
        self.counted = self.counted.saturating_sub(forgotten);
        full
    }

    fn count(&mut self, source: Source, limit: u32, now: Mono) {
        let counted = if let Some(window) = self.wrong.get(&source) {
            window.count(limit, now).is_ok()
        } else {
            let mut window = Window::default();
            let counted = window.count(limit, now).is_ok();
            let gone = self.wrong.put(source, window);
            self.forget(gone);
            counted
        };
        self.counted = self.counted.saturating_add(usize::from(counted));
        while self.counted > MAX_COUNTED {
            let gone = self.wrong.pop_oldest();
            if gone.is_none() {
                return;
            }
            self.forget(gone);
        }
    }

    fn forget(&mut self, gone: Option<(Source, Window)>) {
        let counted = gone.map_or(0, |(_, window)| window.len());
        self.counted = self.counted.saturating_sub(counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn source(text: &str) -> Source {
        Source::from(text.parse::<IpAddr>().unwrap())
    }

    fn at(secs: u64) -> Mono {
        Mono(secs * 1_000_000)
    }

    #[test]
    fn a_source_is_an_address_or_a_network_of_sixty_four_bits() {
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    }

    #[test]
    fn beyond_the_limit_a_source_is_refused_whatever_it_sends() {
        let sources = Sources::new(3);
        let guesser = source("192.0.2.1");
        for _ in 0..3 {
            assert_eq!(sources.attempt(guesser, None, at(0)), Attempt::Wrong);
        }
        let refused = Attempt::TooMany { retry_after_secs: 59 };
        assert_eq!(sources.attempt(guesser, None, at(1)), refused);
        assert_eq!(sources.attempt(guesser, Some(&KEY), at(1)), refused);
        let other = sources.attempt(source("192.0.2.2"), Some(&KEY), at(1));
        assert!(matches!(other, Attempt::RightAndNew(_)), "{other:?}");
        // What is refused is not counted, so a minute after the last wrong key there is room.
        let later = sources.attempt(guesser, Some(&KEY), at(60));
        assert!(matches!(later, Attempt::RightAndNew(_)), "{later:?}");
    }

    #[test]
    fn a_key_that_succeeded_from_a_source_is_not_locked_out_there() {
        let sources = Sources::new(1);
        let office = source("192.0.2.1");
        assert!(matches!(sources.attempt(office, Some(&KEY), at(0)), Attempt::RightAndNew(_)));
        assert_eq!(sources.attempt(office, None, at(0)), Attempt::Wrong);
        assert!(matches!(sources.attempt(office, None, at(0)), Attempt::TooMany { .. }));
        assert_eq!(sources.attempt(office, Some(&KEY), at(0)), Attempt::Right);
        let other = sources.attempt(office, Some(&[8; 32]), at(0));
        assert!(matches!(other, Attempt::TooMany { .. }), "another key waits: {other:?}");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let sources = Sources::new(1_000_000);
        for n in 0..2_000_u32 {
            let address = Source::V4(n.to_be_bytes());
            assert!(matches!(sources.attempt(address, Some(&KEY), at(0)), Attempt::RightAndNew(_)));
        }
        for n in 0..5_000_u32 {
            for _ in 0..3 {
                sources.attempt(Source::V4(n.to_be_bytes()), None, at(0));
            }
        }
        let mut state = sources.state.lock();
        assert_eq!((state.pairs.len(), state.wrong.len()), (MAX_PAIRS, MAX_SOURCES));
        assert_eq!(state.counted, 3 * MAX_SOURCES);
        for n in 0..u32::try_from(MAX_COUNTED).unwrap() + 10 {
            state.count(Source::V4([0; 4]), u32::MAX, at(u64::from(n) / 1_000_000));
        }
        assert!(state.counted <= MAX_COUNTED, "{}", state.counted);
    }

    #[test]
    fn pairs_outlive_a_restart_if_they_are_put_back() {
        let first = Sources::new(1);
        let office = source("2001:db8::1");
        let Attempt::RightAndNew(pair) = first.attempt(office, Some(&KEY), at(0)) else { panic!() };
        let second = Sources::new(1);
        second.remember([pair]);
        assert_eq!(second.attempt(office, None, at(0)), Attempt::Wrong);
        assert_eq!(second.attempt(office, Some(&KEY), at(0)), Attempt::Right);
    }
}
