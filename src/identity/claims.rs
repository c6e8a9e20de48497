//! Claims of a token, or of an introspection answer, and their checks.

use std::borrow::Cow;

use crate::firewall::agent::{AgentId, Principal};
use crate::firewall::time::Timestamp;
use crate::json::{Kind, Value};

use super::TokenError;

/// Clock difference allowed for `iat` and `nbf`. A token's end is never extended.
const LEEWAY_SECS: i64 = 60;

/// Most names in the path of a claim.
const MAX_PATH_NAMES: usize = 16;

/// Claim in which a token of Arbiter's own names its subject.
pub(crate) const SUBJECT: &[&str] = &["sub"];

/// Claims in which a token of an issuer, or its answer about one, names the subject. A token that a program got for itself
/// (RFC 6749 section 4.4) often has no `sub`; the program is then its subject, as RFC 9068 section 2.2
/// has it, under either of the names that issuers use.
pub(crate) const ISSUED_SUBJECT: &[&str] = &["sub", "client_id", "azp"];

/// Issuer, audiences and claim names of accepted tokens.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub issuer: String,
    /// `None` only for Arbiter's own tokens, which are for nobody else.
    pub audiences: Option<Vec<String>>,
    /// A claim's name, or a path of names with dots between.
    pub agent_claim: String,
    pub groups_claim: String,
}

/// Returns the principal of a token whose claims are valid at `now`.
pub(crate) fn principal(
    claims: Value<'_>,
    terms: &Terms,
    subject: &[&str],
    expires_at_secs: i64,
    now: Timestamp,
) -> Result<Principal, TokenError> {
    let now_secs = now.as_secs();
    let ahead = now_secs.saturating_add(LEEWAY_SECS);
    for name in ["nbf", "iat"] {
        if seconds(claims, name)?.is_some_and(|at| at > ahead) {
            return Err(TokenError::NotYet);
        }
    }
    if expires_at_secs <= now_secs {
        return Err(TokenError::Expired);
    }
    if let Some(audiences) = &terms.audiences {
        for_us(claims, audiences)?;
        // Such a token counts only together with a proof that is not asked for here (RFC 7800).
        if present(claims, "cnf").is_some() {
            return Err(TokenError::Bound);
        }
    }
    let agent = match text(claims, &terms.agent_claim)? {
        Some(id) => Some(AgentId::parse(&id).ok_or_else(|| wrong(&terms.agent_claim))?),
        None => None,
    };
    Ok(Principal {
        subject: first_text(claims, subject)?.into(),
        groups: list(claims, &terms.groups_claim, |group| vec![group.to_owned()])?,
        scopes: scopes(claims)?,
        issuer: terms.issuer.clone(),
        agent,
        token_id: text(claims, "jti")?,
        expires_at: Timestamp::from_secs(expires_at_secs),
    })
}

/// The issuer that the claims name.
pub(crate) fn issuer(claims: Value<'_>) -> Result<String, TokenError> {
    required("iss", text(claims, "iss")?)
}

/// Returns the end of the token, in seconds since 1970.
pub(crate) fn expiry(claims: Value<'_>) -> Result<Option<i64>, TokenError> {
    seconds(claims, "exp")
}

/// One of the audiences must be ours (RFC 7519 section 4.1.3, RFC 8707).
fn for_us(claims: Value<'_>, ours: &[String]) -> Result<(), TokenError> {
    let named = list(claims, "aud", |audience| vec![audience.to_owned()])?;
    if named.iter().any(|audience| ours.contains(audience)) {
        Ok(())
    } else {
        Err(TokenError::Audience)
    }
}

/// `scope` as RFC 9068 has it, else `scp` as other providers do.
fn scopes(claims: Value<'_>) -> Result<Vec<String>, TokenError> {
    let words = |text: &str| text.split_ascii_whitespace().map(str::to_owned).collect();
    let name = if present(claims, "scope").is_some() { "scope" } else { "scp" };
    list(claims, name, words)
}

/// A claim by its literal name, else by a path of names with dots between; `null` is as good as none,
/// since issuers write it for what they have no value for.
fn present<'d>(claims: Value<'d>, name: &str) -> Option<Value<'d>> {
    at(claims, name, MAX_PATH_NAMES).filter(|value| value.kind() != Kind::Null)
}

fn at<'d>(object: Value<'d>, path: &str, names_left: usize) -> Option<Value<'d>> {
    if let Some(value) = object.get(path) {
        return Some(value);
    }
    let (name, rest) = path.split_once('.')?;
    at(object.get(name)?, rest, names_left.checked_sub(1)?)
}

/// A claim that is one text or a list of texts; nothing if it is not there.
fn list(
    claims: Value<'_>,
    name: &str,
    one: impl Fn(&str) -> Vec<String>,
) -> Result<Vec<String>, TokenError> {
    let Some(value) = present(claims, name) else { return Ok(Vec::new()) };
    match value.kind() {
        Kind::String => Ok(value.as_str().map_or_else(Vec::new, |text| one(&text))),
        Kind::Array => value
            .items()
            .map(|item| item.as_str().map(Cow::into_owned).ok_or_else(|| wrong(name)))
            .collect(),
        Kind::Object | Kind::Number | Kind::True | Kind::False | Kind::Null => Err(wrong(name)),
    }
}

/// The error that names a claim.
pub(super) fn wrong(name: &str) -> TokenError {
    TokenError::Claim(name.into())
}

pub(super) fn required<T>(name: &str, claim: Option<T>) -> Result<T, TokenError> {
    claim.ok_or_else(|| wrong(name))
}

pub(super) fn text(claims: Value<'_>, name: &str) -> Result<Option<String>, TokenError> {
    let Some(value) = present(claims, name) else { return Ok(None) };
    let text = value.as_str().ok_or_else(|| wrong(name))?;
    if text.is_empty() { Err(wrong(name)) } else { Ok(Some(text.into_owned())) }
}

/// The first of these claims that is there.
fn first_text(claims: Value<'_>, names: &[&str]) -> Result<String, TokenError> {
    let first = names.first().copied().unwrap_or_default();
    let named = names.iter().find(|name| present(claims, name).is_some()).unwrap_or(&first);
    required(named, text(claims, named)?)
}

/// A `NumericDate` (RFC 7519 section 2): seconds, a fraction cut off, no exponent.
fn seconds(claims: Value<'_>, name: &str) -> Result<Option<i64>, TokenError> {
    let Some(value) = present(claims, name) else { return Ok(None) };
    let digits = value.as_number().ok_or_else(|| wrong(name))?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(wrong(name));
    }
    whole.parse().map(Some).map_err(|_not_seconds| wrong(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Doc;

    const NOW: i64 = 1_800_000_000;
    const AGENT: &str = "7f3c2a10-1111-4222-8333-444455556666";

    fn read(members: &str) -> Result<Principal, TokenError> {
        let terms = Terms {
            issuer: "https://i.example".to_owned(),
            audiences: Some(vec!["https://us.example".to_owned(), "us".to_owned()]),
            agent_claim: "agent".to_owned(),
            groups_claim: "roles".to_owned(),
        };
        let text = format!("{{{members}}}");
        let doc = Doc::parse(text.as_bytes()).unwrap();
        let expires_at = required("exp", expiry(doc.root())?)?;
        principal(doc.root(), &terms, ISSUED_SUBJECT, expires_at, Timestamp::from_secs(NOW))
    }

    #[test]
    fn claims_are_read_under_the_names_that_the_issuer_uses() {
        let who = read(&format!(
            r#""sub":"u","exp":{}.75,"aud":["x","us"],"agent":"{AGENT}","roles":["a","b"],
               "scope":"read  write","scp":["ignored"],"jti":"j""#,
            NOW + 1
        ))
        .unwrap();
        assert_eq!((&*who.subject, who.token_id.as_deref()), ("u", Some("j")));
        assert_eq!(who.agent, AgentId::parse(AGENT));
        assert_eq!(
            (who.groups, who.scopes),
            (vec!["a".into(), "b".into()], vec!["read".into(), "write".into()])
        );
        assert_eq!(who.expires_at, Timestamp::from_secs(NOW + 1));
        let who =
            read(&format!(r#""sub":"u","exp":{},"aud":"us","roles":"a b","scp":"r w""#, NOW + 1));
        let who = who.unwrap();
        assert_eq!((who.groups, who.agent), (vec!["a b".to_owned()], None));
        assert_eq!(who.scopes, ["r", "w"]);
    }

    #[test]
    fn what_issuers_leave_empty_is_not_there() {
        let end = NOW + 1;
        let who = read(&format!(
            r#""sub":null,"client_id":"c","exp":{end},"aud":"us","roles":null,"scope":null,"scp":"r",
               "agent":null,"jti":null,"nbf":null"#
        ))
        .unwrap();
        assert_eq!((&*who.subject, who.agent, who.token_id), ("c", None, None));
        assert_eq!((who.groups, who.scopes), (Vec::new(), vec!["r".to_owned()]));
        let who = read(&format!(r#""azp":"p","exp":{end},"aud":"us""#)).unwrap();
        assert_eq!(&*who.subject, "p");
    }

    #[test]
    fn a_claim_is_found_by_its_name_or_by_its_path() {
        let find = |name: &str| {
            let text =
                br#"{"realm_access":{"roles":["a"],"x.y":{"z":["b"]}},"realm_access.own":"c",
                "https://e.example/groups":["d"],"n":null}"#;
            let doc = Doc::parse(text).unwrap();
            list(doc.root(), name, |text| vec![text.to_owned()])
        };
        assert_eq!(find("realm_access.roles"), Ok(vec!["a".to_owned()]));
        assert_eq!(find("realm_access.own"), Ok(vec!["c".to_owned()]), "the literal name wins");
        assert_eq!(find("https://e.example/groups"), Ok(vec!["d".to_owned()]));
        for absent in ["realm_access.none", "none.roles", "n", "n.roles", "realm_access..roles"] {
            assert_eq!(find(absent), Ok(Vec::new()), "{absent}");
        }
        assert_eq!(find("realm_access"), Err(wrong("realm_access")));
        assert_eq!(find(&"a.".repeat(100)), Ok(Vec::new()));
    }

    #[test]
    fn claims_out_of_order_prove_nothing() {
        let good = format!(r#""sub":"u","exp":{},"aud":"us""#, NOW + 600);
        assert!(read(&good).is_ok());
        let with = |more: &str| read(&format!("{good},{more}")).map(drop);
        for (more, error) in [
            (format!(r#""nbf":{}"#, NOW + 61), TokenError::NotYet),
            (format!(r#""iat":{}"#, NOW + 61), TokenError::NotYet),
            (r#""nbf":1.9e9"#.to_owned(), wrong("nbf")),
            (r#""nbf":"0""#.to_owned(), wrong("nbf")),
            (r#""cnf":{"jkt":"x"}"#.to_owned(), TokenError::Bound),
            (r#""agent":"nobody""#.to_owned(), wrong("agent")),
            (r#""agent":7"#.to_owned(), wrong("agent")),
            (r#""roles":["a",7]"#.to_owned(), wrong("roles")),
            (r#""roles":{}"#.to_owned(), wrong("roles")),
            (r#""scope":7"#.to_owned(), wrong("scope")),
            (r#""jti":7"#.to_owned(), wrong("jti")),
        ] {
            assert_eq!(with(&more), Err(error), "{more}");
        }
        assert_eq!(with(&format!(r#""nbf":{},"iat":{}"#, NOW + 60, NOW + 60)), Ok(()));
        for (members, error) in [
            (format!(r#""exp":{},"aud":"us""#, NOW + 1), wrong("sub")),
            (format!(r#""client_id":7,"exp":{},"aud":"us""#, NOW + 1), wrong("client_id")),
            (format!(r#""sub":"","exp":{},"aud":"us""#, NOW + 1), wrong("sub")),
            (r#""sub":"u","aud":"us""#.to_owned(), wrong("exp")),
            (r#""sub":"u","exp":null,"aud":"us""#.to_owned(), wrong("exp")),
            (r#""sub":"u","exp":1e99,"aud":"us""#.to_owned(), wrong("exp")),
            (r#""sub":"u","exp":99999999999999999999,"aud":"us""#.to_owned(), wrong("exp")),
            (format!(r#""sub":"u","exp":{NOW},"aud":"us""#), TokenError::Expired),
            (format!(r#""sub":"u","exp":{}"#, NOW + 1), TokenError::Audience),
            (format!(r#""sub":"u","exp":{},"aud":[]"#, NOW + 1), TokenError::Audience),
            (format!(r#""sub":"u","exp":{},"aud":"US""#, NOW + 1), TokenError::Audience),
            (format!(r#""sub":"u","exp":{},"aud":"us us""#, NOW + 1), TokenError::Audience),
            (format!(r#""sub":"u","exp":{},"aud":{{"us":1}}"#, NOW + 1), wrong("aud")),
            (format!(r#""sub":"u","exp":{},"aud":["us",1]"#, NOW + 1), wrong("aud")),
        ] {
            assert_eq!(read(&members).map(drop), Err(error), "{members}");
        }
    }
}
