//! Params: what a call is for, and the fields that say so.

use std::borrow::Cow;

use crate::firewall::call::{CallKind, Data};
use crate::json::keys::disguised_as;
use crate::json::{Kind, Value};
use crate::mcp::class::Class;
use crate::mcp::version::META_KEY;

use super::{Fault, MAX_NAME_BYTES, MAX_URI_BYTES};

/// Answers of the client to what the server asked in the round before.
const INPUTS: &str = "inputResponses";
/// State that the round before handed out.
const STATE: &str = "requestState";
const META: &str = "_meta";

/// The params of a request or a notification.
#[derive(Clone, Copy)]
pub(super) struct Params<'d> {
    pub(super) object: Option<Value<'d>>,
}

impl<'d> Params<'d> {
    pub(super) fn of(params: Option<Value<'d>>) -> Result<Self, Fault> {
        match params {
            Some(value) if value.kind() != Kind::Object => Err("`params` must be an object".into()),
            object => Ok(Self { object }),
        }
    }

    /// Returns the kind of the call, from its method and params.
    pub(super) fn kind(self, method: &Cow<'d, str>) -> Result<CallKind<'d>, Fault> {
        match Class::of(method) {
            Class::Tool => {
                let [name, arguments] =
                    self.of_round(["name", "arguments", INPUTS, STATE, META])?;
                let name = text(name, "params.name", MAX_NAME_BYTES)?;
                Ok(CallKind::Tool { name, arguments: object(arguments, "params.arguments")? })
            }
            Class::Resource => {
                let [uri] = self.of_round(["uri", INPUTS, STATE, META])?;
                // Later versions do not know the method, whatever it names.
                if uri.is_none()
                    && matches!(&**method, "resources/subscribe" | "resources/unsubscribe")
                {
                    return Ok(CallKind::Data { what: Data::Method, target: method.clone() });
                }
                let target = text(uri, "params.uri", MAX_URI_BYTES)?;
                Ok(CallKind::Data { what: Data::Resource, target })
            }
            Class::Prompt => {
                let [name, arguments] =
                    self.of_round(["name", "arguments", INPUTS, STATE, META])?;
                let target = text(name, "params.name", MAX_NAME_BYTES)?;
                object(arguments, "params.arguments")?;
                Ok(CallKind::Data { what: Data::Prompt, target })
            }
            Class::Completion => {
                let [reference, _] = self.of_round(["ref", "argument", INPUTS, STATE, META])?;
                let reference = object(reference, "params.ref")?
                    .ok_or("`params.ref` is missing; say what is to be completed")?;
                completion(reference)
            }
            Class::Task => {
                let [id] = self.of_round(["taskId", INPUTS, STATE, META])?;
                let target = text(id, "params.taskId", MAX_NAME_BYTES)?;
                Ok(CallKind::Data { what: Data::Task, target })
            }
            Class::Protocol => {
                self.fields([META])?;
                Ok(CallKind::Protocol)
            }
            Class::Other => {
                let [] = self.of_round([INPUTS, STATE, META])?;
                Ok(CallKind::Data { what: Data::Method, target: method.clone() })
            }
        }
    }

    /// Returns the first members called `keys` of a call that may be a later round of one: those before
    /// the three that every such call may have.
    fn of_round<const N: usize, const M: usize>(
        self,
        keys: [&str; N],
    ) -> Result<[Option<Value<'d>>; M], Fault> {
        let found = self.fields(keys)?;
        if let [.., inputs, state, _] = found.as_slice() {
            object(*inputs, "params.inputResponses")?;
            if state.is_some_and(|state| state.kind() != Kind::String) {
                return Err("`params.requestState` must be a string".into());
            }
        }
        let mut found = found.into_iter();
        Ok(std::array::from_fn(|_| found.next().flatten()))
    }

    fn fields<const N: usize>(self, keys: [&str; N]) -> Result<[Option<Value<'d>>; N], Fault> {
        self.object.map_or(Ok([None; N]), |object| pick(object, keys, "params."))
    }

    pub(super) fn meta(self) -> Result<Option<Value<'d>>, Fault> {
        let Some(params) = self.object else { return Ok(None) };
        let Some(meta) = object(params.get("_meta"), "params._meta")? else { return Ok(None) };
        let [version] = pick(meta, [META_KEY], "params._meta.")?;
        if version.is_some_and(|v| v.kind() != Kind::String) {
            return Err(format!("`params._meta[\"{META_KEY}\"]` must be a string").into());
        }
        Ok(Some(meta))
    }
}

fn completion(reference: Value<'_>) -> Result<CallKind<'_>, Fault> {
    let [kind, name, uri] = pick(reference, ["type", "name", "uri"], "params.ref.")?;
    match kind.and_then(|v| v.as_str()).as_deref() {
        Some("ref/prompt") => {
            let target = text(name, "params.ref.name", MAX_NAME_BYTES)?;
            Ok(CallKind::Data { what: Data::Prompt, target })
        }
        Some("ref/resource") => {
            let target = text(uri, "params.ref.uri", MAX_URI_BYTES)?;
            Ok(CallKind::Data { what: Data::Resource, target })
        }
        Some(_) | None => {
            Err("`params.ref.type` must be \"ref/prompt\" or \"ref/resource\"".into())
        }
    }
}

/// The members called `keys`; refuses one that only looks like one of them.
pub(super) fn pick<'d, const N: usize>(
    object: Value<'d>,
    keys: [&str; N],
    path: &str,
) -> Result<[Option<Value<'d>>; N], Fault> {
    let mut found = [None; N];
    for entry in object.entries() {
        let key = entry.key();
        if let Some((slot, _)) = found.iter_mut().zip(keys).find(|(_, wanted)| *wanted == key) {
            *slot = Some(entry.value);
        } else if let Some(protocol) = disguised_as(&key, &keys) {
            return Err(disguise(&format!("{path}{protocol}")));
        }
    }
    Ok(found)
}

pub(super) fn disguise(protocol: &str) -> Fault {
    format!("a key differs from `{protocol}` by case only; keep one, spelled `{protocol}`").into()
}

pub(super) fn object<'d>(
    value: Option<Value<'d>>,
    field: &'static str,
) -> Result<Option<Value<'d>>, Fault> {
    match value {
        Some(value) if value.kind() != Kind::Object => {
            Err(format!("`{field}` must be an object").into())
        }
        other => Ok(other),
    }
}

/// A non-empty string of bounded length without control characters.
pub(super) fn text<'d>(
    value: Option<Value<'d>>,
    field: &'static str,
    max_bytes: usize,
) -> Result<Cow<'d, str>, Fault> {
    let Some(value) = value else { return Err(format!("`{field}` is missing").into()) };
    let Some(text) = value.as_str() else {
        return Err(format!("`{field}` must be a string").into());
    };
    if text.is_empty() {
        return Err(format!("`{field}` must not be empty").into());
    }
    if text.len() > max_bytes {
        return Err(format!("`{field}` is longer than {max_bytes} bytes").into());
    }
    let ascii_control = text.bytes().any(|b| b < b' ' || b == 0x7F);
    if ascii_control || (!text.is_ascii() && text.chars().any(char::is_control)) {
        return Err(format!("`{field}` must not hold control characters").into());
    }
    Ok(text)
}
