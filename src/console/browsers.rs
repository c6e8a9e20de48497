//! Browsers that have signed in: who holds which cookie, for how long, and the token of their forms.
//!
//! A cookie is 256 random bits and kept as a hash, so that nothing here gives one away. A cookie is
//! valid for half an hour after its last use, for eight hours at most, and only while the key or
//! token behind it is valid with the same roles.

use std::collections::HashMap;

use parking_lot::Mutex;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::admin::Holder;
use crate::firewall::time::Mono;

/// Longest time between two requests of a browser.
const IDLE_US: u64 = 30 * 60 * 1_000_000;
/// Longest time after a sign-in.
pub(super) const LONGEST_SECS: u64 = 8 * 60 * 60;
/// Browsers that are signed in, in all and of one person; the one unused for longest makes room.
const MAX_OPEN: usize = 1_000;
const MAX_OF_PERSON: usize = 20;

/// Browsers by the hash of their cookie.
#[derive(Debug, Default)]
pub(super) struct Browsers {
    open: Mutex<HashMap<[u8; 32], SignedIn>>,
}

#[derive(Debug)]
struct SignedIn {
    holder: Holder,
    token: String,
    began: Mono,
    used: Mono,
}

/// A browser that was recognised.
#[derive(Clone, Debug)]
pub(super) struct Browser {
    pub(super) holder: Holder,
    /// Token that each form carries.
    pub(super) token: String,
}

fn hash(cookie: &str) -> [u8; 32] {
    *blake3::hash(cookie.as_bytes()).as_bytes()
}

/// Makes a random text of 64 hexadecimal digits, 244 bits of them random.
pub(super) fn random() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// Compares two tokens in a time that says nothing of them.
pub(super) fn equal(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

impl Browsers {
    /// Signs a browser in; returns its cookie.
    pub(super) fn sign_in(&self, holder: Holder, now: Mono) -> String {
        let mut open = self.open.lock();
        open.retain(|_, one| one.counts(now));
        let of_person = open.values().filter(|one| one.holder.name() == holder.name()).count();
        if of_person >= MAX_OF_PERSON {
            let name = holder.name().clone();
            forget_oldest(&mut open, |one| *one.holder.name() == name);
        } else if open.len() >= MAX_OPEN {
            forget_oldest(&mut open, |_| true);
        }
        let cookie = random();
        open.insert(hash(&cookie), SignedIn { holder, token: random(), began: now, used: now });
        cookie
    }

    /// Recognises a browser and counts its cookie as used.
    pub(super) fn find(&self, cookie: &str, now: Mono) -> Option<Browser> {
        let mut open = self.open.lock();
        let one = open.get_mut(&hash(cookie)).filter(|one| one.counts(now))?;
        one.used = now;
        Some(Browser { holder: one.holder.clone(), token: one.token.clone() })
    }

    /// Reports whether a cookie still counts, without using it.
    pub(super) fn counts(&self, cookie: &str, now: Mono) -> bool {
        self.open.lock().get(&hash(cookie)).is_some_and(|one| one.counts(now))
    }

    /// Signs a browser out.
    pub(super) fn close(&self, cookie: &str) {
        self.open.lock().remove(&hash(cookie));
    }
}

fn forget_oldest(open: &mut HashMap<[u8; 32], SignedIn>, of: impl Fn(&SignedIn) -> bool) {
    let oldest = open.iter().filter(|(_, one)| of(one)).min_by_key(|(_, one)| one.used);
    if let Some(key) = oldest.map(|(key, _)| *key) {
        open.remove(&key);
    }
}

impl SignedIn {
    fn counts(&self, now: Mono) -> bool {
        now.since(self.used) < IDLE_US && now < self.began.plus_secs(LONGEST_SECS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Mono {
        Mono(secs * 1_000_000)
    }

    fn holder(name: &str) -> Holder {
        Holder::for_tests(name)
    }

    #[test]
    fn a_cookie_counts_while_it_is_used_and_for_eight_hours() {
        let browsers = Browsers::default();
        let cookie = browsers.sign_in(holder("a"), at(0));
        for minute in (0..480).step_by(29) {
            assert!(browsers.find(&cookie, at(minute * 60)).is_some(), "{minute}");
        }
        assert!(browsers.find(&cookie, at(LONGEST_SECS)).is_none());
        let cookie = browsers.sign_in(holder("a"), at(0));
        assert!(browsers.find(&cookie, at(30 * 60)).is_none(), "idle for too long");
        assert!(browsers.find("", at(0)).is_none());
    }

    #[test]
    fn a_browser_that_signed_out_is_unknown() {
        let browsers = Browsers::default();
        let cookie = browsers.sign_in(holder("a"), at(0));
        browsers.close(&cookie);
        assert!(!browsers.counts(&cookie, at(0)));
    }

    #[test]
    fn browsers_are_bounded_for_each_person_and_in_all() {
        let browsers = Browsers::default();
        let first = browsers.sign_in(holder("a"), at(0));
        let other = browsers.sign_in(holder("b"), at(0));
        for n in 0..20 {
            browsers.sign_in(holder("a"), at(n + 1));
        }
        assert!(!browsers.counts(&first, at(30)) && browsers.counts(&other, at(30)));
        for n in 0..2_000 {
            browsers.sign_in(holder(&n.to_string()), at(40));
        }
        assert_eq!(browsers.open.lock().len(), MAX_OPEN);
    }
}
