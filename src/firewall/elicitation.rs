//! Web addresses to which a server may send people (elicitation by URL).

use super::policy::Hosts;

/// Hosts to which people may be sent; any if none is named.
#[derive(Debug, Default)]
pub struct Elicitation {
    allowed: Option<Hosts>,
}

/// Host to which an address leads, and the judgement about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// None for an address that programs could read differently.
    pub host: Option<Box<str>>,
    pub is_allowed: bool,
}

impl Elicitation {
    /// Reads a list of `host` and `*.host`.
    pub fn parse(hosts: &[&str]) -> Result<Self, String> {
        let allowed = (!hosts.is_empty()).then(|| Hosts::parse(hosts)).transpose()?;
        Ok(Self { allowed })
    }

    /// Checks an address. An address that is not `http` or `https`, or has no certain host, is not
    /// allowed.
    pub fn check(&self, url: &str) -> Address {
        let host = Hosts::of_web(url);
        let is_allowed = match (&host, &self.allowed) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(_), Some(hosts)) => hosts.hold(url),
        };
        Address { host: host.map(Into::into), is_allowed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_to_a_listed_host_or_nowhere() {
        let any = Elicitation::default();
        let some = Elicitation::parse(&["login.corp.com", "*.id.example"]).unwrap();
        for (url, host, by_list) in [
            ("https://login.corp.com/a?b#c", Some("login.corp.com"), true),
            ("HTTPS://LOGIN.corp.com:443", Some("login.corp.com"), true),
            ("https://eu.id.example/x", Some("eu.id.example"), true),
            ("https://id.example/x", Some("id.example"), false),
            ("https://login.corp.com.evil.com/", Some("login.corp.com.evil.com"), false),
            ("https://login.corp.com:8443/", Some("login.corp.com"), false),
            ("https://login.corp.com@evil.com/", None, false),
            ("https://evil.com\\@login.corp.com/", None, false),
            ("https:login.corp.com", None, false),
            ("javascript:alert(1)", None, false),
            ("javascript://login.corp.com/%0aalert(1)", None, false),
            ("ftp://login.corp.com/", None, false),
            ("//login.corp.com/", None, false),
            ("", None, false),
        ] {
            let place = |is_allowed| Address { host: host.map(Into::into), is_allowed };
            assert_eq!(some.check(url), place(by_list), "{url}");
            assert_eq!(any.check(url), place(host.is_some()), "{url}");
        }
        assert!(Elicitation::parse(&["https://login.corp.com"]).is_err());
        assert!(Elicitation::parse(&["*"]).is_err());
    }
}
