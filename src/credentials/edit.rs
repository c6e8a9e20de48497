//! Replaces the references of a checked message by their values: one pass over its bytes, nothing
//! else changed, nothing read twice.

use std::sync::Arc;

use zeroize::{Zeroize as _, Zeroizing};

use super::encodings::json_escaped;
use super::reference::{Misuse, Reference};
use super::vault::{Secret, Vault};
use crate::firewall::denial::{Code, Denial};

/// Reason for which a reference is not replaced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialDenial {
    #[error("credential `{0}` does not exist; use a name you were given")]
    Unknown(String),
    #[error("credential `{0}` may not be used in this session with this tool and upstream")]
    NotAuthorized(String),
    #[error("{0}")]
    Misplaced(#[from] Misuse),
    #[error("credential `{0}` is too short to be used safely; ask the operator for a longer one")]
    TooShort(String),
    #[error(
        "the message would be {bytes} bytes long with its credentials put in, and {max_bytes} are \
         allowed: send less"
    )]
    TooLong { bytes: usize, max_bytes: usize },
}

impl CredentialDenial {
    pub fn code(&self) -> Code {
        match self {
            Self::Unknown(_) => Code::CredentialUnknown,
            Self::NotAuthorized(_) => Code::CredentialNotAuthorized,
            Self::Misplaced(_) => Code::CredentialMisplaced,
            Self::TooShort(_) => Code::CredentialTooShort,
            Self::TooLong { .. } => Code::BodyTooLarge,
        }
    }
}

impl From<CredentialDenial> for Denial {
    fn from(denial: CredentialDenial) -> Self {
        let told = Self::new(denial.code(), denial.to_string());
        match denial {
            CredentialDenial::Unknown(name)
            | CredentialDenial::NotAuthorized(name)
            | CredentialDenial::TooShort(name) => told.with("credential", name),
            CredentialDenial::TooLong { max_bytes, .. } => {
                told.with("max_request_body_bytes", max_bytes)
            }
            CredentialDenial::Misplaced(_) => told,
        }
    }
}

/// Credentials that a session's calls may use.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'g> {
    /// `authorized_credentials` of the session.
    pub credentials: &'g [String],
    /// The tool of each call, in the order in which [`super::references`] got their arguments.
    pub tools: &'g [&'g str],
    /// URLs of the servers of the upstream, any of which may get the call.
    pub upstreams: &'g [String],
}

/// The values that a message's references stand for.
#[derive(Debug, Default)]
pub struct Edits {
    /// Each reference's place, and the number of its secret.
    places: Vec<(std::ops::Range<usize>, usize)>,
    secrets: Vec<Arc<Secret>>,
    /// Each secret's value as the inside of a JSON string.
    values: Vec<Zeroizing<String>>,
}

/// Looks up what every reference stands for; the first that may not be used refuses the message.
pub fn resolve(
    references: &[Reference],
    vault: &Vault,
    grant: Grant<'_>,
) -> Result<Edits, CredentialDenial> {
    let mut secrets: Vec<Arc<Secret>> = Vec::new();
    let mut places = Vec::with_capacity(references.len());
    for reference in references {
        let name = &reference.name;
        let secret = vault.get(name).ok_or_else(|| CredentialDenial::Unknown(name.clone()))?;
        let allowed = grant.credentials.contains(name)
            && grant.upstreams.iter().all(|url| secret.allows_upstream(url))
            && grant.tools.get(reference.call).is_some_and(|tool| secret.allows_tool(tool));
        if !allowed {
            return Err(CredentialDenial::NotAuthorized(name.clone()));
        }
        if secret.is_too_short() {
            return Err(CredentialDenial::TooShort(name.clone()));
        }
        let number = secrets.iter().position(|s| s.name == *name).unwrap_or_else(|| {
            secrets.push(Arc::clone(secret));
            secrets.len() - 1
        });
        places.push((reference.span.clone(), number));
    }
    places.sort_unstable_by_key(|(span, _)| span.start);
    let values = secrets.iter().map(|s| json_escaped(s.value.expose())).collect();
    Ok(Edits { places, secrets, values })
}

impl Edits {
    /// Reports whether the message goes out as it came.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The credentials used, each once.
    pub fn secrets(&self) -> &[Arc<Secret>] {
        &self.secrets
    }

    /// Their names, for the record.
    pub fn names(&self) -> Vec<String> {
        self.secrets.iter().map(|s| s.name.clone()).collect()
    }

    /// Computes the length of the edited message and checks it against its bound.
    pub fn edited_length(
        &self,
        source_bytes: usize,
        max_bytes: usize,
    ) -> Result<usize, CredentialDenial> {
        let cut: usize = self.places.iter().map(|(span, _)| span.len()).sum();
        let added = self.places.iter().map(|(_, number)| self.value(*number).len());
        let kept = source_bytes.saturating_sub(cut);
        let bytes = added.fold(kept, usize::saturating_add);
        if bytes > max_bytes && !self.is_empty() {
            return Err(CredentialDenial::TooLong { bytes, max_bytes });
        }
        Ok(bytes)
    }

    /// Writes the message with its references replaced. Its length was checked before.
    pub fn apply(&self, source: &[u8]) -> Zeroizing<Vec<u8>> {
        // Sized beforehand, so that no copy of a secret is left behind by growing.
        let length = self.edited_length(source.len(), usize::MAX).unwrap_or_default();
        let mut out = Zeroizing::new(Vec::with_capacity(length));
        let mut at = 0;
        for (span, number) in &self.places {
            out.extend_from_slice(source.get(at..span.start).unwrap_or_default());
            out.extend_from_slice(self.value(*number).as_bytes());
            at = span.end;
        }
        out.extend_from_slice(source.get(at..).unwrap_or_default());
        out
    }

    fn value(&self, number: usize) -> &str {
        self.values.get(number).map_or("", |value| value.as_str())
    }
}

/// Expands the references of a configured header value: by the operator, so for no session.
pub fn expand_header(
    template: &str,
    vault: &Vault,
    upstreams: &[String],
) -> Result<(Zeroizing<String>, Vec<Arc<Secret>>), CredentialDenial> {
    const OPENING: &str = "${CRED:";
    let mut out = Zeroizing::new(String::with_capacity(template.len()));
    let mut used: Vec<Arc<Secret>> = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once(OPENING) {
        let (name, behind) =
            after.split_once('}').filter(|(n, _)| super::is_name(n)).ok_or(Misuse::Malformed)?;
        let secret = vault.get(name).ok_or_else(|| CredentialDenial::Unknown(name.to_owned()))?;
        if !upstreams.iter().all(|url| secret.allows_upstream(url)) {
            return Err(CredentialDenial::NotAuthorized(name.to_owned()));
        }
        if secret.is_too_short() {
            return Err(CredentialDenial::TooShort(name.to_owned()));
        }
        push_without_trace(&mut out, before);
        push_without_trace(&mut out, secret.value.expose());
        if !used.iter().any(|s| s.name == name) {
            used.push(Arc::clone(secret));
        }
        rest = behind;
    }
    push_without_trace(&mut out, rest);
    Ok((out, used))
}

/// Appends, wiping the old buffer if a larger one is needed.
fn push_without_trace(out: &mut Zeroizing<String>, text: &str) {
    if out.capacity() - out.len() < text.len() {
        let mut larger = String::with_capacity((out.len() + text.len()) * 2);
        larger.push_str(out);
        std::mem::swap(&mut **out, &mut larger);
        larger.zeroize();
    }
    out.push_str(text);
}

#[cfg(test)]
mod tests {
    use super::super::reference::MAX_REFERENCES;
    use super::super::references;
    use super::*;
    use crate::json::Doc;

    fn vault() -> Vault {
        let mut scoped = Secret::plain("scoped", "scoped-value");
        scoped.tools = Some(vec!["use".into()]);
        scoped.upstreams = Some(vec!["mcp:1".into()]);
        let mut tiny_allowed = Secret::plain("tiny_ok", "x9");
        tiny_allowed.allow_short = true;
        Vault::new([
            Secret::plain("token", "tok-1"),
            Secret::plain("breaker", "pa\"ss\\w\n\u{1}é{}"),
            Secret::plain("nested", "lit-${CRED:token}-lit"),
            Secret::plain("tiny", "x9"),
            scoped,
            tiny_allowed,
        ])
        .unwrap()
    }

    fn inject(text: &str, tool: &str, upstream: &str) -> Result<String, CredentialDenial> {
        let doc = Doc::parse(text.as_bytes()).unwrap();
        let found = references(&doc, &[doc.root()])?;
        let credentials: Vec<String> =
            vault().names().into_iter().filter(|n| *n != "nested_not").map(str::to_owned).collect();
        let upstreams = &[upstream.to_owned()];
        let grant = Grant { credentials: &credentials, tools: &[tool], upstreams };
        let edits = resolve(&found, &vault(), grant)?;
        Ok(String::from_utf8(edits.apply(text.as_bytes()).to_vec()).unwrap())
    }

    fn injects(text: &str, expected: &str) {
        assert_eq!(inject(text, "use", "http://mcp:1/").unwrap(), expected);
    }

    #[test]
    fn a_reference_becomes_its_value_and_nothing_else_changes() {
        injects(r#"{ "a" : 1.0e2, "b":"\u0041é" }"#, r#"{ "a" : 1.0e2, "b":"\u0041é" }"#);
        injects(r#"{"a": "x${CRED:token}y"}"#, r#"{"a": "xtok-1y"}"#);
        injects(r#"["${CRED:token}${CRED:token}"]"#, r#"["tok-1tok-1"]"#);
        injects(r#"["\u0024{CRED:token}\n"]"#, r#"["tok-1\n"]"#);
        injects(r#"["${CRED:nested}"]"#, r#"["lit-${CRED:token}-lit"]"#);
        injects(r#"["${CRED:tiny_ok}"]"#, r#"["x9"]"#);
        injects(r#"["${CRED:breaker}"]"#, "[\"pa\\\"ss\\\\w\\n\\u0001é{}\"]");
        injects(r#"["${CRED:scoped}"]"#, r#"["scoped-value"]"#);
    }

    #[test]
    fn what_may_not_be_used_is_refused_by_name() {
        let refused = |text: &str, tool, upstream| inject(text, tool, upstream).unwrap_err();
        let here = "http://mcp:1/";
        assert_eq!(
            refused(r#"["${CRED:token}${CRED:nope}"]"#, "use", here),
            CredentialDenial::Unknown("nope".into())
        );
        let scoped = CredentialDenial::NotAuthorized("scoped".into());
        assert_eq!(refused(r#"["${CRED:scoped}"]"#, "other", here), scoped);
        assert_eq!(refused(r#"["${CRED:scoped}"]"#, "use", "http://evil:1/"), scoped);
        assert_eq!(
            refused(r#"["${CRED:tiny}"]"#, "use", here),
            CredentialDenial::TooShort("tiny".into())
        );
        let denial = Denial::from(refused(r#"{"${CRED:token}":1}"#, "use", here));
        assert_eq!(denial.code, Code::CredentialMisplaced);
    }

    #[test]
    fn a_session_uses_only_what_it_was_given() {
        let doc = Doc::parse(br#"["${CRED:token}"]"#).unwrap();
        let found = references(&doc, &[doc.root()]).unwrap();
        for (credentials, allowed) in
            [(vec![], false), (vec!["token"], true), (vec!["*"], false), (vec!["TOKEN"], false)]
        {
            let credentials: Vec<String> = credentials.into_iter().map(str::to_owned).collect();
            let upstreams = &["http://u".to_owned()];
            let grant = Grant { credentials: &credentials, tools: &["t"], upstreams };
            let resolved = resolve(&found, &vault(), grant);
            assert_eq!(resolved.is_ok(), allowed, "{credentials:?}");
        }
    }

    #[test]
    fn the_longest_message_with_the_most_references() {
        let filler = "x".repeat(160 * 1024);
        let items = vec![format!("\"{filler}${{CRED:token}}\""); MAX_REFERENCES];
        let text = format!("[{}]", items.join(","));
        let out = inject(&text, "use", "http://mcp:1/").unwrap();
        assert_eq!(out, text.replace("${CRED:token}", "tok-1"));
        let more = format!("[{},\"${{CRED:token}}\"]", items.join(","));
        let refused = inject(&more, "use", "http://mcp:1/").unwrap_err();
        assert_eq!(refused, CredentialDenial::Misplaced(Misuse::TooMany));
    }

    #[test]
    fn the_edited_length_is_known_and_bounded_before_anything_is_made() {
        let doc = Doc::parse(br#"["${CRED:breaker}${CRED:token}", "\u0024{CRED:token}"]"#).unwrap();
        let found = references(&doc, &[doc.root()]).unwrap();
        let credentials = ["breaker".to_owned(), "token".to_owned()];
        let upstreams = &["http://u".to_owned()];
        let grant = Grant { credentials: &credentials, tools: &["t"], upstreams };
        let edits = resolve(&found, &vault(), grant).unwrap();
        let source = doc.text().as_bytes();
        let length = edits.apply(source).len();
        assert_eq!(edits.edited_length(source.len(), length), Ok(length));
        let too_long = CredentialDenial::TooLong { bytes: length, max_bytes: length - 1 };
        assert_eq!(edits.edited_length(source.len(), length - 1), Err(too_long.clone()));
        assert_eq!(Denial::from(too_long).code, Code::BodyTooLarge);
        assert_eq!(Edits::default().edited_length(9, 1), Ok(9));
    }

    #[test]
    fn a_header_is_expanded_for_the_operator() {
        let (value, used) =
            expand_header("Bearer ${CRED:token}!", &vault(), &["http://u".to_owned()]).unwrap();
        assert_eq!(value.as_str(), "Bearer tok-1!");
        assert_eq!(used.len(), 1);
        assert_eq!(
            expand_header("plain", &vault(), &["http://u".to_owned()]).unwrap().0.as_str(),
            "plain"
        );
        for (template, denial) in [
            ("${CRED:nope}", CredentialDenial::Unknown("nope".into())),
            ("${CRED:scoped}", CredentialDenial::NotAuthorized("scoped".into())),
            ("${CRED:tiny}", CredentialDenial::TooShort("tiny".into())),
            ("${CRED:token", CredentialDenial::Misplaced(Misuse::Malformed)),
        ] {
            assert_eq!(
                expand_header(template, &vault(), &["http://u".to_owned()]).unwrap_err(),
                denial
            );
        }
    }
}
