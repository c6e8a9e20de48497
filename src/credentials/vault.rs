//! The credentials in force: values that cannot be printed, and who may send them where.

use std::collections::HashMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::reference::is_name;

/// Below this length a secret is named in a warning when it is loaded.
pub const SHORT_BYTES: usize = 8;
/// Below this length a secret is refused unless it says `allow_short`: scrubbing it would mangle
/// innocent text.
pub const LEAST_BYTES: usize = 4;
/// Longest value of a credential.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;

/// The value of a credential. `Debug` does not show it, and it is wiped when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The value itself. Callers must not print, log or keep it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

/// One credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    pub name: String,
    pub value: SecretText,
    /// Tools it may be sent with: exact names, or a trailing `*`. `None`: any.
    pub tools: Option<Vec<String>>,
    /// Upstreams it may be sent to: a URL's origin, `host:port` or `host`. `None`: any.
    pub upstreams: Option<Vec<String>>,
    pub allow_short: bool,
}

impl Secret {
    /// A credential without restrictions.
    pub fn plain(name: impl Into<String>, value: impl Into<String>) -> Self {
        let value = SecretText::new(value);
        Self { name: name.into(), value, tools: None, upstreams: None, allow_short: false }
    }

    /// Reports whether it may be sent with this tool.
    pub fn allows_tool(&self, tool: &str) -> bool {
        self.tools.as_ref().is_none_or(|tools| {
            tools.iter().any(|entry| match entry.strip_suffix('*') {
                Some(prefix) => tool.starts_with(prefix),
                None => tool == entry,
            })
        })
    }

    /// Reports whether it may be sent to the upstream at `url`.
    pub fn allows_upstream(&self, url: &str) -> bool {
        let Some(upstreams) = &self.upstreams else { return true };
        let authority_at = url.find("://").map_or(0, |at| at + 3);
        let rest = url.get(authority_at..).unwrap_or_default();
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let authority = authority.rsplit('@').next().unwrap_or_default();
        let scheme = url.get(..authority_at).unwrap_or_default();
        let host = match authority.rfind(':') {
            Some(colon) if !authority.ends_with(']') => authority.get(..colon).unwrap_or_default(),
            _ => authority,
        };
        let same = |entry: &str, part: &str| !part.is_empty() && entry.eq_ignore_ascii_case(part);
        upstreams.iter().any(|entry| {
            let entry = entry.strip_suffix('/').unwrap_or(entry);
            entry == url.strip_suffix('/').unwrap_or(url)
                || same(entry, &format!("{scheme}{authority}"))
                || same(entry, authority)
                || same(entry, host)
        })
    }

    /// Reports whether it is too short to be used.
    pub fn is_too_short(&self) -> bool {
        let len = self.value.expose().len();
        len == 0 || (len < LEAST_BYTES && !self.allow_short)
    }
}

/// Reason for which a set of credentials is refused. Never quotes a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    #[error("credential name {0:?} is not 1 to 64 letters, digits, `_`, `.` or `-`")]
    Name(String),
    #[error("credential `{0}` is defined twice")]
    Twice(String),
    #[error("credential `{0}` is empty")]
    Empty(String),
    #[error("credential `{0}` is longer than 65536 bytes")]
    TooLong(String),
}

/// Every credential by its name; immutable, replaced whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vault {
    by_name: HashMap<String, Arc<Secret>>,
}

impl Vault {
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Result<Self, VaultError> {
        let mut by_name = HashMap::new();
        for secret in secrets {
            if !is_name(&secret.name) {
                return Err(VaultError::Name(secret.name.chars().take(80).collect()));
            }
            match secret.value.expose().len() {
                0 => return Err(VaultError::Empty(secret.name)),
                1..=MAX_VALUE_BYTES => {}
                _ => return Err(VaultError::TooLong(secret.name)),
            }
            let name = secret.name.clone();
            if by_name.insert(name.clone(), Arc::new(secret)).is_some() {
                return Err(VaultError::Twice(name));
            }
        }
        Ok(Self { by_name })
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Secret>> {
        self.by_name.get(name)
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Every credential, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Secret>> {
        self.by_name.values()
    }

    /// Every name, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.by_name.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Names of credentials so short that scrubbing them may hit innocent text.
    pub fn short_names(&self) -> Vec<&str> {
        let mut names = self.names();
        names.retain(|n| self.get(n).is_some_and(|s| s.value.expose().len() < SHORT_BYTES));
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::plain("k", "hunter2hunter2");
        let vault = Vault::new([secret.clone()]).unwrap();
        assert!(!format!("{secret:?}{vault:?}").contains("hunter2"));
        assert!(format!("{secret:?}").contains("[secret]"));
    }

    #[test]
    fn a_vault_refuses_what_it_cannot_serve() {
        let refused = |secrets: Vec<Secret>| Vault::new(secrets).map(|_| ()).unwrap_err();
        assert_eq!(refused(vec![Secret::plain("a b", "v")]), VaultError::Name("a b".into()));
        assert_eq!(refused(vec![Secret::plain("a", "")]), VaultError::Empty("a".into()));
        let twice = vec![Secret::plain("a", "v"), Secret::plain("a", "w")];
        assert_eq!(refused(twice), VaultError::Twice("a".into()));
        let long = vec![Secret::plain("a", "v".repeat(MAX_VALUE_BYTES + 1))];
        assert_eq!(refused(long), VaultError::TooLong("a".into()));
    }

    #[test]
    fn short_secrets_are_named() {
        let secrets = [("ok", "12345678"), ("pin", "1234567"), ("x", "1")];
        let vault = Vault::new(secrets.map(|(n, v)| Secret::plain(n, v))).unwrap();
        assert_eq!(vault.short_names(), ["pin", "x"]);
    }

    #[test]
    fn restrictions_name_tools_and_upstreams() {
        let mut secret = Secret::plain("k", "value");
        assert!(secret.allows_tool("any") && secret.allows_upstream("http://mcp:1/x"));
        secret.tools = Some(vec!["read".into(), "list_*".into()]);
        for (tool, allowed) in [("read", true), ("reads", false), ("list_a", true), ("list", false)]
        {
            assert_eq!(secret.allows_tool(tool), allowed, "{tool}");
        }
        let url = "https://mcp.example:8443/mcp";
        for (entry, allowed) in [
            (url, true),
            ("https://mcp.example:8443", true),
            ("https://MCP.example:8443/", true),
            ("mcp.example:8443", true),
            ("mcp.example", true),
            ("http://mcp.example:8443", false),
            ("example", false),
            ("", false),
        ] {
            secret.upstreams = Some(vec![entry.to_owned()]);
            assert_eq!(secret.allows_upstream(url), allowed, "{entry}");
        }
        secret.upstreams = Some(vec!["evil".into()]);
        assert!(!secret.allows_upstream("http://evil@good/"));
        assert!(!secret.allows_upstream("http://good/evil"));
    }
}
