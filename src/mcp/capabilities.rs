//! Abilities that a client declares, as far as they change what it is shown.

use super::continued::{Need, Needs};
use super::version::CAPABILITIES_KEY;
use crate::firewall::call::Call;
use crate::json::{Kind, Value};

/// Extension by which a client shows applications of servers to a person (SEP-1865).
const APPS: &str = "io.modelcontextprotocol/ui";

/// Extension by which a call may go on as a task (SEP-2663).
pub const TASKS: &str = "io.modelcontextprotocol/tasks";

/// Reports whether a request declares that its client shows applications: each request does from
/// 2026-07-28 on, before that the first one for those that follow.
pub fn declare_apps(call: &Call<'_>) -> bool {
    said(call).is_some_and(|said| has_extension(said, APPS))
}

/// Reports whether a request from 2026-07-28 on declares that its client knows tasks.
pub fn declares_tasks(call: &Call<'_>) -> bool {
    let said = call.meta.and_then(|meta| meta.get(CAPABILITIES_KEY));
    said.is_some_and(|said| has_extension(said, TASKS))
}

/// Returns the kinds of question that a client declares to answer: in each request from 2026-07-28 on, before
/// that in the first one for those that follow.
pub fn answers(call: &Call<'_>) -> Needs {
    let Some(said) = said(call) else { return Needs::default() };
    let mut answers = Needs::default();
    if let Some(modes) = said.get("elicitation") {
        let (form, url) = (modes.get("form").is_some(), modes.get("url").is_some());
        // Without a mode it is forms.
        if form || !url {
            answers.add(Need::Form);
        }
        if url {
            answers.add(Need::Url);
        }
    }
    for (name, need) in [("sampling", Need::Sampling), ("roots", Need::Roots)] {
        if said.get(name).is_some() {
            answers.add(need);
        }
    }
    answers
}

/// Reports whether a request declares that its client opens pages for a person: each request does from
/// 2026-07-28 on, before that the first one for those that follow.
pub fn opens_urls(call: &Call<'_>) -> bool {
    let modes = said(call).and_then(|said| said.get("elicitation"));
    modes.and_then(|modes| modes.get("url")).is_some_and(|url| url.kind() == Kind::Object)
}

/// Returns what a request says of its client's abilities.
fn said<'d>(call: &Call<'d>) -> Option<Value<'d>> {
    match call.method.as_deref() {
        Some("initialize") => call.params.and_then(|params| params.get("capabilities")),
        _ => call.meta.and_then(|meta| meta.get(CAPABILITIES_KEY)),
    }
}

fn has_extension(capabilities: Value<'_>, name: &str) -> bool {
    capabilities.get("extensions").is_some_and(|known| known.get(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Doc;
    use crate::mcp::message;

    #[test]
    fn applications_are_declared_at_the_beginning_or_in_each_request() {
        let check = |method: &str, params: &str, expected: bool| {
            let body =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
            let doc = Doc::parse(body.as_bytes()).unwrap();
            let message = message::read(&doc).unwrap();
            assert_eq!(declare_apps(&message.calls[0]), expected, "{body}");
        };
        let declared = r#"{"extensions":{"io.modelcontextprotocol/ui":{}}}"#;
        let meta = format!(r#"{{"_meta":{{"{CAPABILITIES_KEY}":{declared}}}}}"#);
        check("initialize", &format!(r#"{{"capabilities":{declared}}}"#), true);
        check("tools/list", &meta, true);
        check("initialize", &meta, false);
        check("tools/list", &format!(r#"{{"capabilities":{declared}}}"#), false);
        check("initialize", r#"{"capabilities":{"extensions":{"other":{}}}}"#, false);
        check("initialize", r#"{"capabilities":{}}"#, false);
    }
}
