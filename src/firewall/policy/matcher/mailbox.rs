//! Domains to which mail may go (`domain_in`): one mailbox, an addr-spec of RFC 5322.

use std::borrow::Cow;

use super::{Names, Reading, labels_are_plain};

/// Domains of mailboxes.
#[derive(Debug, Default)]
pub(in super::super) struct Domains(Names);

const LOCAL_MAX: usize = 64;
const MAILBOX_MAX: usize = 254;

impl Domains {
    pub(in super::super) fn parse(entries: &[&str]) -> Result<Self, String> {
        let mut domains = Self::default();
        for entry in entries {
            domains.0.add(entry).map_err(|why| format!("`{entry}` {why}"))?;
        }
        Ok(domains)
    }

    pub(super) fn read(&self, mailbox: &str) -> Reading {
        match domain(mailbox) {
            Some(domain) => Reading::of(self.0.hold(&domain)),
            None => Reading::Unclear,
        }
    }
}

/// The domain of a plain mailbox, in lower case.
fn domain(mailbox: &str) -> Option<Cow<'_, str>> {
    let (local, domain) = mailbox.split_once('@')?;
    if mailbox.len() > MAILBOX_MAX || local.is_empty() || local.len() > LOCAL_MAX {
        return None;
    }
    // `%` and `!` route mail onwards, `=?` begins an encoded word.
    let atoms = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'#' | b'$'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'/'
                    | b'='
                    | b'?'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'{'
                    | b'|'
                    | b'}'
                    | b'~'
                    | b'.'
            )
    };
    let dots = local.starts_with('.') || local.ends_with('.') || local.contains("..");
    if dots || !local.bytes().all(atoms) || local.contains("=?") {
        return None;
    }
    if is_plain(domain) {
        return Some(Cow::Borrowed(domain));
    }
    let lower = domain.to_lowercase();
    if is_plain(&lower) {
        return Some(Cow::Owned(lower));
    }
    let odd = |c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && c != '.' && c != '-';
    if domain.chars().any(|c| odd(c) || c.is_control() || c.is_whitespace()) {
        return None;
    }
    let url::Host::Domain(mapped) = url::Host::parse(domain).ok()? else { return None };
    (is_plain(&mapped) && labels_are_plain(domain, &mapped)).then_some(Cow::Owned(mapped))
}

/// A host name in lower case: labels of letters, digits and inner hyphens, the last one no number.
fn is_plain(domain: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    domain.split('.').all(label)
        && domain.rsplit('.').next().is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
}
