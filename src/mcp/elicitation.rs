//! A page that a client opens for its person while a call waits for an approval: URL mode elicitation,
//! which 2025-11-25 asks for by an error and 2026-07-28 by a result that the client answers in a retry.

use super::capabilities;
use super::version::Version;
use crate::firewall::call::Call;
use crate::json::{Kind, Value};

/// Name of the gateway's question among the inputs that a result asks for.
pub const QUESTION: &str = "arbiter/approval";

/// Methods whose results may ask for input from 2026-07-28 on.
const ASKABLE: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];

/// Form in which a client is sent to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// Error -32042.
    ByError,
    /// Result of the type `input_required`.
    ByResult,
}

/// Returns the form in which the client of a call is sent to a page; none if it cannot be.
/// `declared` is what the client declared in its handshake.
pub fn sending(call: &Call<'_>, version: Version, declared: bool) -> Option<Sending> {
    match version {
        Version::V2024_11_05 | Version::V2025_03_26 | Version::V2025_06_18 => None,
        Version::V2025_11_25 => declared.then_some(Sending::ByError),
        Version::V2026_07_28 => {
            let askable = call.method.as_deref().is_some_and(|method| ASKABLE.contains(&method));
            // A round of the server's own would lose its inputs.
            let carries = |name| call.params.is_some_and(|params| params.get(name).is_some());
            let is_round = carries("requestState") || carries("inputResponses");
            (askable && !is_round && capabilities::opens_urls(call)).then_some(Sending::ByResult)
        }
    }
}

/// A client's retry, as far as it is meant for the gateway.
#[derive(Debug, PartialEq, Eq)]
pub struct Retry {
    /// State that the gateway's result gave.
    pub state: String,
    /// True if the person agreed to open the page.
    pub accepted: bool,
    /// The message without what is meant for the gateway.
    pub rest: Vec<u8>,
}

/// Reads a message whose state begins with `mark`; none for other messages.
pub fn retry(message: Value<'_>, mark: &str) -> Option<Retry> {
    let params = message.get("params").filter(|params| params.kind() == Kind::Object)?;
    let state = params.get("requestState")?.as_str().filter(|state| state.starts_with(mark))?;
    let answer = params.get("inputResponses").and_then(|inputs| inputs.get(QUESTION));
    let action = answer.and_then(|answer| answer.get("action")).and_then(|action| action.as_str());
    let mut rest = Vec::with_capacity(message.raw().len());
    object(&mut rest, message, |rest, key, value| match key {
        "params" => object(rest, value, input),
        _ => whole(rest, value),
    });
    Some(Retry { state: state.into_owned(), accepted: action.as_deref() == Some("accept"), rest })
}

/// Writes a member of `params` without what is meant for the gateway.
fn input(rest: &mut Vec<u8>, key: &str, value: Value<'_>) -> bool {
    match key {
        "requestState" => false,
        "inputResponses" if value.kind() == Kind::Object => {
            value.entries().any(|entry| entry.key() != QUESTION)
                && object(rest, value, |rest, key, value| key != QUESTION && whole(rest, value))
        }
        _ => whole(rest, value),
    }
}

fn whole(rest: &mut Vec<u8>, value: Value<'_>) -> bool {
    rest.extend_from_slice(value.raw().as_bytes());
    true
}

/// Writes an object with the members that `write` writes; those for which it returns false are left out.
fn object(
    rest: &mut Vec<u8>,
    object: Value<'_>,
    write: impl Fn(&mut Vec<u8>, &str, Value<'_>) -> bool,
) -> bool {
    rest.push(b'{');
    let begin = rest.len();
    for entry in object.entries() {
        let before = rest.len();
        if before > begin {
            rest.push(b',');
        }
        rest.extend_from_slice(entry.key_value().raw().as_bytes());
        rest.push(b':');
        if !write(rest, &entry.key(), entry.value) {
            rest.truncate(before);
        }
    }
    rest.push(b'}');
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Doc;

    #[test]
    fn what_is_meant_for_the_gateway_is_taken_out_and_nothing_else() {
        let check = |message: &str, expected: Option<(bool, &str)>| {
            let doc = Doc::parse(message.as_bytes()).unwrap();
            let found = retry(doc.root(), "ours:");
            let found = found.map(|one| (one.accepted, String::from_utf8(one.rest).unwrap()));
            let expected = expected.map(|(accepted, rest)| (accepted, rest.to_owned()));
            assert_eq!(found, expected, "{message}");
        };
        check(
            r#"{"params":{"a":1e2,"requestState":"ours:1","inputResponses":{"arbiter/approval":{"action":"accept"}}},"id":1}"#,
            Some((true, r#"{"params":{"a":1e2},"id":1}"#)),
        );
        check(
            r#"{"id":1, "params":{"inputResponses" : {"x":{ },"arbiter\u002fapproval":{"action":"decline"}},"\u0072equestState":"our\u0073:1", "b":"\u0061"}}"#,
            Some((false, r#"{"id":1,"params":{"inputResponses":{"x":{ }},"b":"\u0061"}}"#)),
        );
        check(r#"{"params":{"requestState":"ours:1"}}"#, Some((false, r#"{"params":{}}"#)));
        check(
            r#"{"params":{"requestState":"ours:1","inputResponses":[1]}}"#,
            Some((false, r#"{"params":{"inputResponses":[1]}}"#)),
        );
        for other in [
            r#"{"params":{"requestState":"theirs"}}"#,
            r#"{"params":{"requestState":7}}"#,
            r#"{"requestState":"ours:1","params":[]}"#,
            r#"[{"params":{"requestState":"ours:1"}}]"#,
            "7",
        ] {
            check(other, None);
        }
    }
}
