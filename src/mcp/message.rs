//! From a JSON document to what is asked: JSON-RPC 2.0 and the shapes MCP gives it.
//!
//! A message is a request, a notification, a response, or a batch of them. Every member that the
//! checks read later is read here once and handed on as a type; a member that is missing, of
//! another type, too long or ambiguous is refused here, with the field's name and what to do.
//!
//! Stricter than JSON-RPC, so that every server reads what the checks read: an id is a string or
//! an integer, request ids in a batch differ, names hold no control character, and no key differs
//! from a protocol key by case alone. Members that the protocol does not know pass; nothing here
//! reads them.

use std::borrow::Cow;
use std::collections::HashSet;

use smallvec::SmallVec;

use crate::firewall::call::{Call, CallKind, Data};
use crate::firewall::denial::Code;

use super::class::{self, Class};
use crate::json::keys::disguised_as;
use crate::json::number::Number;
use crate::json::{Doc, Kind, Value};

mod params;
pub mod subscriptions;

use params::{Params, disguise, text};
use subscriptions::{LISTEN, Subscriptions};

/// Longest method.
pub const MAX_METHOD_BYTES: usize = 256;
/// Longest name of a tool or a prompt.
pub const MAX_NAME_BYTES: usize = 1024;
/// Longest URI of a resource.
pub const MAX_URI_BYTES: usize = 8192;
/// Longest id, as it is written; refusals echo it.
pub const MAX_ID_BYTES: usize = 1024;
/// Most members of one batch.
pub const MAX_BATCH: usize = 1000;

const MESSAGE_KEYS: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];

/// All that one body asks.
#[derive(Clone, Debug)]
pub struct Message<'d> {
    /// In source order; never empty.
    pub calls: SmallVec<[Call<'d>; 1]>,
    /// True if they came in an array, even in one of a single member.
    pub batch: bool,
    /// Set if a member opens a stream of notifications.
    pub listens: Option<Box<Subscriptions<'d>>>,
}

/// Reason why a JSON document is not a message that the gateway passes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// True if it does not even try to be JSON-RPC.
    pub not_mcp: bool,
    /// The request's id as it was written, where there is one to echo.
    pub id: Option<String>,
    pub reason: String,
}

impl Malformed {
    /// The row of the refusal table.
    pub fn code(&self) -> Code {
        if self.not_mcp { Code::NotMcp } else { Code::MalformedRequest }
    }
}

/// Fault of one message, before its id is attached.
type Fault = Cow<'static, str>;

/// Reads a document as one JSON-RPC message or a batch.
pub fn read<'d>(doc: &'d Doc<'_>) -> Result<Message<'d>, Malformed> {
    let root = doc.root();
    if root.kind() == Kind::Array {
        if !attempts_rpc(root) {
            return Err(not_mcp());
        }
        let calls = read_batch(root).map_err(|reason| refuse(reason, None))?;
        let listens = subscriptions(&calls).map_err(|reason| refuse(reason, None))?;
        return Ok(Message { calls, batch: true, listens });
    }
    let fields = Fields::of(root);
    if fields.jsonrpc.is_none() && fields.method.is_none() && !attempts_rpc(root) {
        return Err(not_mcp());
    }
    let call = fields.read().map_err(|reason| refuse(reason, fields.id))?;
    let mut calls = SmallVec::new();
    calls.push(call);
    let listens = subscriptions(&calls).map_err(|reason| refuse(reason, fields.id))?;
    Ok(Message { calls, batch: false, listens })
}

/// Reads what the members of a message subscribe to; none if none opens a stream for that.
fn subscriptions<'d>(calls: &[Call<'d>]) -> Result<Option<Box<Subscriptions<'d>>>, Fault> {
    let mut found: Option<Box<Subscriptions<'_>>> = None;
    for (at, call) in calls.iter().enumerate() {
        if call.method.as_deref() == Some(LISTEN) {
            found.get_or_insert_default().add(at, call)?;
        }
    }
    Ok(found)
}

/// Reports whether all that a message asks may be asked again where a connection died.
pub fn is_repeatable(message: &Message<'_>) -> bool {
    let again = |call: &Call<'_>| {
        call.is_request() && call.method.as_deref().is_some_and(class::is_repeatable)
    };
    message.calls.iter().all(again)
}

/// Reports whether a call must name a resource and does not; only versions without its method let
/// that pass.
pub fn lacks_uri(call: &Call<'_>) -> bool {
    let by_uri = call.method.as_deref().is_some_and(|method| Class::of(method) == Class::Resource);
    by_uri && matches!(call.kind, CallKind::Data { what: Data::Method, .. })
}

fn not_mcp() -> Malformed {
    let reason = "the body is not a JSON-RPC message; send an object with `jsonrpc` and `method`";
    Malformed { not_mcp: true, id: None, reason: reason.to_owned() }
}

fn refuse(reason: Fault, id: Option<Value<'_>>) -> Malformed {
    let id = id.filter(|id| check_id(*id).is_ok()).map(|id| id.raw().to_owned());
    Malformed { not_mcp: false, id, reason: reason.into_owned() }
}

/// Reports whether any reader, however lenient, could take the document for JSON-RPC.
fn attempts_rpc(root: Value<'_>) -> bool {
    let speaks = |value: Value<'_>| {
        value.entries().any(|entry| {
            let key = entry.key();
            let wanted = ["jsonrpc", "method"];
            wanted.contains(&&*key) || disguised_as(&key, &wanted).is_some()
        })
    };
    match root.kind() {
        Kind::Object => speaks(root),
        // An empty batch is a malformed batch, and so is an array inside an array.
        Kind::Array => {
            root.items().next().is_none()
                || root.items().any(|item| item.kind() == Kind::Array || speaks(item))
        }
        Kind::String | Kind::Number | Kind::True | Kind::False | Kind::Null => false,
    }
}

fn read_batch(root: Value<'_>) -> Result<SmallVec<[Call<'_>; 1]>, Fault> {
    let mut calls = SmallVec::new();
    let mut ids = HashSet::new();
    for (at, item) in root.items().enumerate() {
        let place = |reason: Fault| Fault::from(format!("batch member {at}: {reason}"));
        if at == MAX_BATCH {
            return Err(format!("a batch has at most {MAX_BATCH} members; send several").into());
        }
        let call = Fields::of(item).read().map_err(place)?;
        if call.method.as_deref() == Some("initialize") {
            return Err(place("`initialize` comes alone; send it outside of a batch".into()));
        }
        if let (true, Some(id)) = (call.is_request(), call.id) {
            let number = if id.kind() == Kind::Number { Number::parse(id.raw()) } else { None };
            if !ids.insert((number, id.as_str())) {
                return Err(place("`id` occurs twice; give each request its own".into()));
            }
        }
        calls.push(call);
    }
    if calls.is_empty() {
        return Err("a batch must not be empty; send at least one message".into());
    }
    Ok(calls)
}

/// The protocol's members of one message.
#[derive(Default)]
struct Fields<'d> {
    jsonrpc: Option<Value<'d>>,
    id: Option<Value<'d>>,
    method: Option<Value<'d>>,
    params: Option<Value<'d>>,
    result: Option<Value<'d>>,
    error: Option<Value<'d>>,
    fault: Option<Fault>,
}

impl<'d> Fields<'d> {
    fn of(message: Value<'d>) -> Self {
        let mut fields = Self::default();
        if message.kind() != Kind::Object {
            fields.fault = Some("a message must be an object".into());
        }
        for entry in message.entries() {
            let key = entry.key();
            match &*key {
                "jsonrpc" => fields.jsonrpc = Some(entry.value),
                "id" => fields.id = Some(entry.value),
                "method" => fields.method = Some(entry.value),
                "params" => fields.params = Some(entry.value),
                "result" => fields.result = Some(entry.value),
                "error" => fields.error = Some(entry.value),
                other => {
                    if let Some(protocol) = disguised_as(other, MESSAGE_KEYS) {
                        fields.fault = Some(disguise(protocol));
                    }
                }
            }
        }
        fields
    }

    fn read(&self) -> Result<Call<'d>, Fault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.jsonrpc.and_then(|v| v.as_str()).as_deref() != Some("2.0") {
            return Err("`jsonrpc` must be \"2.0\"".into());
        }
        match self.method {
            Some(method) => self.request(method),
            None => self.response(),
        }
    }

    fn request(&self, method: Value<'d>) -> Result<Call<'d>, Fault> {
        let method = text(Some(method), "method", MAX_METHOD_BYTES)?;
        if self.result.is_some() || self.error.is_some() {
            return Err("a message has either `method` or `result`/`error`, not both".into());
        }
        if let Some(id) = self.id {
            check_id(id)?;
        }
        let params = Params::of(self.params)?;
        let kind = params.kind(&method)?;
        let meta = params.meta()?;
        Ok(Call { method: Some(method), id: self.id, params: params.object, meta, kind })
    }

    fn response(&self) -> Result<Call<'d>, Fault> {
        if self.params.is_some() {
            return Err("`method` is missing; name the method that `params` is for".into());
        }
        match (self.result, self.error) {
            (None, None) => return Err("`method` is missing".into()),
            (Some(_), Some(_)) => {
                return Err("a response has either `result` or `error`, not both".into());
            }
            (Some(_), None) => check_id(self.id.ok_or("`id` is missing in the response")?)?,
            (None, Some(error)) => {
                if error.kind() != Kind::Object {
                    return Err("`error` must be an object".into());
                }
                // An error may answer a request whose id could not be read.
                if let Some(id) = self.id.filter(|id| id.kind() != Kind::Null) {
                    check_id(id)?;
                }
            }
        }
        Ok(Call { method: None, id: self.id, params: None, meta: None, kind: CallKind::Protocol })
    }
}

/// A string or an integer, as the protocol's schema has it: `1.0` is one (JSON Schema 2020-12, section
/// 6.1.1 of its validation), `1.5` is none.
fn check_id(id: Value<'_>) -> Result<(), Fault> {
    let plain = match id.kind() {
        Kind::String => true,
        Kind::Number => Number::parse(id.raw()).is_some_and(|number| number.is_integer()),
        Kind::Object | Kind::Array | Kind::True | Kind::False | Kind::Null => false,
    };
    if !plain {
        return Err("`id` must be a string or an integer; leave it out for a notification".into());
    }
    if id.raw().len() > MAX_ID_BYTES {
        return Err(format!("`id` is longer than {MAX_ID_BYTES} bytes").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
