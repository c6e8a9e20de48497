//! Keys of operators: their names, roles, owners and request rates.
//!
//! Only hashes are kept. The hash of what was sent is compared with every one of them, each in
//! constant time, so that how long it takes says neither which key was meant nor how close it was.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::access::Scope;
use super::limit::Limits;
use super::lru::Lru;
use crate::config::{self, AdminKey, ENVIRONMENT_KEY, Role, Roles};
use crate::firewall::time::Timestamp;

/// Maximum number of people whose request rates are kept.
const MAX_PEOPLE: usize = 1_000;

/// One key in force.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: Arc<str>,
    pub(super) roles: Roles,
    pub(super) hash: [u8; 32],
    pub(super) scope: Option<Arc<Scope>>,
    expires_at: Option<Timestamp>,
    rate_per_minute: u32,
    pub(super) limits: Arc<Limits>,
}

/// Every key in force, replaced whole.
#[derive(Debug)]
pub struct Keyring {
    in_force: ArcSwap<List>,
    /// The rates of people, by name; they have no key that could hold them.
    people: Mutex<Lru<Arc<str>, Arc<Limits>>>,
}

#[derive(Debug)]
struct List {
    keys: Vec<Arc<Key>>,
    rate_per_minute: u32,
    version: String,
}

/// Keys that were read and are not in force yet.
#[derive(Debug)]
pub struct NewKeys {
    list: List,
    /// The version in force while they were read.
    pub from: String,
    pub to: String,
    pub added: Vec<String>,
    pub removed: Vec<String>,
}

impl Keyring {
    pub fn new(config: &config::Admin) -> Self {
        let list = List::of(config, &[]);
        Self { in_force: ArcSwap::from_pointee(list), people: Mutex::new(Lru::new(MAX_PEOPLE)) }
    }

    /// Returns the key that was sent, if it is known and has not expired.
    pub(super) fn find(&self, sent: &[u8], now: Timestamp) -> Option<Arc<Key>> {
        let sent = blake3::hash(sent);
        let list = self.in_force.load();
        let mut found = u64::MAX;
        for (n, key) in (0_u64..).zip(&list.keys) {
            found.conditional_assign(&n, sent.as_bytes().ct_eq(&key.hash));
        }
        let key = list.keys.get(usize::try_from(found).ok()?)?;
        key.expires_at.is_none_or(|end| now < end).then(|| Arc::clone(key))
    }

    /// Returns the unexpired key with this hash, which its holder sent before.
    pub(super) fn with_hash(&self, hash: &[u8; 32], now: Timestamp) -> Option<Arc<Key>> {
        let list = self.in_force.load();
        let key = list.keys.iter().find(|key| key.hash == *hash)?;
        key.expires_at.is_none_or(|end| now < end).then(|| Arc::clone(key))
    }

    /// Version of the keys: a short hash over their names, roles, hashes and bounds.
    pub fn version(&self) -> String {
        self.in_force.load().version.clone()
    }

    /// Prepares keys to replace those in force. A key that stays keeps what it has counted.
    pub fn read(&self, config: &config::Admin) -> NewKeys {
        let before = self.in_force.load();
        let list = List::of(config, &before.keys);
        let missing = |in_these: &[Arc<Key>], of: &[Arc<Key>]| {
            of.iter()
                .filter(|key| !in_these.iter().any(|other| other.hash == key.hash))
                .map(|key| key.name.to_string())
                .collect()
        };
        NewKeys {
            from: before.version.clone(),
            to: list.version.clone(),
            added: missing(&before.keys, &list.keys),
            removed: missing(&list.keys, &before.keys),
            list,
        }
    }

    pub fn put(&self, new: NewKeys) {
        for key in &new.list.keys {
            // Only now: until here the old limits were in force.
            key.limits.set(key.rate_per_minute);
        }
        self.in_force.store(Arc::new(new.list));
    }

    /// The rates of a person.
    pub(super) fn limits_of(&self, person: &Arc<str>) -> Arc<Limits> {
        let mut people = self.people.lock();
        if let Some(limits) = people.get(person) {
            return Arc::clone(limits);
        }
        let limits = Arc::new(Limits::new(self.in_force.load().rate_per_minute));
        people.put(Arc::clone(person), Arc::clone(&limits));
        limits
    }
}

impl List {
    /// The keys of a configuration; those that were there `before` keep their windows.
    fn of(config: &config::Admin, before: &[Arc<Key>]) -> Self {
        let rate_per_minute = config.rate_limit_per_minute;
        let limits_for = |hash: &[u8; 32], rate| {
            let known = before.iter().find(|key| key.hash == *hash);
            known.map_or_else(|| Arc::new(Limits::new(rate)), |key| Arc::clone(&key.limits))
        };
        let mut keys = Vec::with_capacity(config.keys.len() + 1);
        if let Some(key) = &config.api_key {
            let hash = *blake3::hash(key.expose().as_bytes()).as_bytes();
            keys.push(Arc::new(Key {
                name: Arc::from(ENVIRONMENT_KEY),
                roles: Roles::NONE.and(Role::Admin),
                hash,
                scope: None,
                expires_at: None,
                rate_per_minute,
                limits: limits_for(&hash, rate_per_minute),
            }));
        }
        for key in &config.keys {
            let rate = key.rate_limit_per_minute.unwrap_or(rate_per_minute);
            keys.push(Arc::new(Key {
                name: Arc::from(key.name.as_str()),
                roles: Roles::NONE.and(key.role),
                hash: key.hash,
                scope: (key.role == Role::Sessions).then(|| Arc::new(scope(key))),
                expires_at: key.expires_at,
                rate_per_minute: rate,
                limits: limits_for(&key.hash, rate),
            }));
        }
        let version = version(&keys);
        Self { keys, rate_per_minute, version }
    }
}

fn scope(key: &AdminKey) -> Scope {
    let all = key.owners.iter().any(|owner| owner == "*");
    Scope { owners: (!all).then(|| key.owners.clone()), max_trust: key.max_trust }
}

fn version(keys: &[Arc<Key>]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut put = |bytes: &[u8]| {
        // Lengths first, so that no text can be moved between neighbours unseen.
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    for key in keys {
        put(key.name.as_bytes());
        put(&key.hash);
        key.roles.names().for_each(|role| put(role.as_bytes()));
        put(&key.rate_per_minute.to_le_bytes());
        put(&key.expires_at.map_or(i64::MAX, |end| end.0).to_le_bytes());
        if let Some(scope) = &key.scope {
            put(scope.max_trust.as_str().as_bytes());
            scope.owners.iter().flatten().for_each(|owner| put(owner.as_bytes()));
        }
    }
    let mut text = hasher.finalize().to_hex().to_string();
    text.truncate(16);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::limit::Counted;
    use crate::config::Config;
    use crate::firewall::time::Mono;

    fn config(toml: &str) -> config::Admin {
        let env = [
            ("ARBITER_ADMIN_API_KEY", "0123456789abcdef"),
            ("ARBITER_SIGNING_SECRET", "0123456789abcdef0123456789abcdef"),
        ];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Config::from_toml(toml, env).unwrap().admin
    }

    fn entry(name: &str, key: &str, more: &str) -> String {
        let hash = blake3::hash(key.as_bytes());
        format!("[[admin.keys]]\nname = \"{name}\"\nkey_hash = \"blake3:{hash}\"\n{more}\n")
    }

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

    #[test]
    fn a_key_is_found_by_what_was_sent_until_it_expires() {
        let soon = "role = \"viewer\"\nexpires_at = 2027-01-15T08:00:01Z";
        let text = entry("a", "key a", "role = \"operator\"") + &entry("b", "key b", soon);
        let keys = Keyring::new(&config(&text));
        let name =
            |sent: &str, now| keys.find(sent.as_bytes(), now).map(|key| key.name.to_string());
        assert_eq!(name("0123456789abcdef", NOW).as_deref(), Some("admin"));
        assert_eq!(name("key a", NOW).as_deref(), Some("a"));
        assert_eq!(name("key b", NOW).as_deref(), Some("b"));
        assert_eq!(name("key b", NOW.plus_secs(1)), None);
        for wrong in ["", "key", "key c", "KEY A", "blake3:"] {
            assert_eq!(name(wrong, NOW), None, "{wrong}");
        }
    }

    #[test]
    fn a_key_that_stays_keeps_what_it_has_counted() {
        let one = |rate: u32| format!("role = \"viewer\"\nrate_limit_per_minute = {rate}");
        let keys = Keyring::new(&config(&entry("a", "key a", &one(1))));
        let admit = |keys: &Keyring| keys.find(b"key a", NOW).unwrap().limits.count(false, Mono(0));
        assert_eq!(admit(&keys), Ok(Counted::Regular));
        assert_eq!(admit(&keys), Err(60));
        let text = entry("a", "key a", &one(2)) + &entry("b", "key b", "role = \"metrics\"");
        let new = keys.read(&config(&text));
        assert_eq!((new.added.as_slice(), new.removed.len()), (&["b".to_owned()][..], 0));
        assert_ne!(new.from, new.to);
        assert_eq!(admit(&keys), Err(60), "not in force yet");
        keys.put(new);
        assert_eq!(admit(&keys), Ok(Counted::Regular));
        assert_eq!(admit(&keys), Err(60));
        let new = keys.read(&config(""));
        assert_eq!(new.removed, ["a", "b"]);
        keys.put(new);
        assert!(keys.find(b"key a", NOW).is_none());
    }
}
