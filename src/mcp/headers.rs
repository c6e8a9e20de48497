//! Headers that mirror the body: whether they say what the body says.
//!
//! From 2026-07-28 on a client repeats the version, the method and the name of what it reaches in
//! headers, so that others can route without reading the body. The gateway decides by the body
//! alone; but a request whose headers say something else would be one thing here and another
//! behind the next load balancer, so it is refused. In the modern era a missing header is refused
//! too; in the legacy era headers need not be there, but may not lie.
//!
//! An `Mcp-Param-*` header mirrors an argument that the tool's schema names, and a message does not
//! carry the schema. Two things can be checked: the value is well formed, and it is the value of
//! SOME argument that a schema could point to. Two headers with swapped values are the server's to
//! find.

use std::borrow::Cow;

use http::HeaderMap;
use smallvec::SmallVec;

use crate::firewall::call::{Call, CallKind, Data};
use crate::firewall::denial::{Code, Denial};

use super::message::{self, Message};
use super::sentinel;
use super::version::{CAPABILITIES_KEY, Era, META_KEY, SUPPORTED, SUPPORTED_MODERN, Version};
use crate::json::number::Number;
use crate::json::{Kind, Value};

const VERSION: &str = "mcp-protocol-version";
const METHOD: &str = "mcp-method";
const NAME: &str = "mcp-name";
const PARAM_PREFIX: &str = "mcp-param-";

/// Most that a refusal repeats of a version that nobody knows.
const MAX_VERSION_CHARS: usize = 64;

/// Most `Mcp-Param-*` headers of one request.
pub const MAX_PARAM_HEADERS: usize = 64;

/// The headers of a request that mirror its body.
#[derive(Clone, Debug, Default)]
pub struct ProtocolHeaders<'h> {
    pub version: Option<&'h str>,
    pub method: Option<&'h str>,
    pub name: Option<&'h str>,
    /// Name and value of each `Mcp-Param-*`.
    pub params: SmallVec<[(&'h str, &'h str); 2]>,
}

/// Reason why headers and body disagree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderDenial {
    /// A header is missing, badly written, or says something else than the body.
    #[error("{0}")]
    Mismatch(Cow<'static, str>),
    /// The message does not exist in the version it claims.
    #[error("{0}")]
    Malformed(Cow<'static, str>),
    /// The body lacks a member of `_meta` that its version requires.
    #[error("`params._meta[\"{0}\"]` is missing; each request from 2026-07-28 on has it")]
    MetaMissing(&'static str),
    /// No server behind the gateway can know the version.
    #[error("this protocol version is not supported; supported are {}", supported.join(", "))]
    Version {
        requested: String,
        /// Methods that can be asked for in the same way.
        supported: &'static [&'static str],
    },
}

impl HeaderDenial {
    /// The row of the refusal table.
    pub fn code(&self) -> Code {
        match self {
            Self::Mismatch(_) => Code::HeaderMismatch,
            Self::Malformed(_) => Code::MalformedRequest,
            Self::MetaMissing(_) => Code::MetaMissing,
            Self::Version { .. } => Code::VersionUnsupported,
        }
    }

    /// The refusal, with what the revision says belongs to it.
    pub fn denial(&self) -> Denial {
        let denial = Denial::new(self.code(), self.to_string());
        match self {
            Self::Version { requested, supported } => {
                denial.with("supported", supported.to_vec()).with("requested", requested.as_str())
            }
            Self::Mismatch(_) | Self::Malformed(_) | Self::MetaMissing(_) => denial,
        }
    }
}

fn mismatch(reason: impl Into<Cow<'static, str>>) -> HeaderDenial {
    HeaderDenial::Mismatch(reason.into())
}

impl<'h> ProtocolHeaders<'h> {
    /// Picks them from all headers; each may occur once and holds visible ASCII, spaces and tabs.
    pub fn read(headers: &'h HeaderMap) -> Result<Self, HeaderDenial> {
        let mut found = Self::default();
        for (name, value) in headers {
            let name = name.as_str();
            let param = match name {
                VERSION | METHOD | NAME => false,
                _ if name.starts_with(PARAM_PREFIX) => true,
                _ => continue,
            };
            let value = value
                .to_str()
                .map_err(|_not_ascii| {
                    mismatch(format!("header `{name}` holds characters that need Base64"))
                })?
                .trim_matches([' ', '\t']);
            if param {
                if found.params.iter().any(|(other, _)| *other == name) {
                    return Err(mismatch(format!("header `{name}` occurs twice")));
                }
                if found.params.len() == MAX_PARAM_HEADERS {
                    let reason = format!("more than {MAX_PARAM_HEADERS} `Mcp-Param-*` headers");
                    return Err(mismatch(reason));
                }
                found.params.push((name, value));
                continue;
            }
            let slot = match name {
                VERSION => &mut found.version,
                METHOD => &mut found.method,
                _ => &mut found.name,
            };
            if slot.replace(value).is_some() {
                return Err(mismatch(format!("header `{name}` occurs twice")));
            }
        }
        Ok(found)
    }
}

/// Holds the mirrored headers against the body; gives back the version that the message belongs to.
pub fn agree(
    headers: &ProtocolHeaders<'_>,
    message: &Message<'_>,
) -> Result<Version, HeaderDenial> {
    let version = version(headers, message)?;
    for call in &message.calls {
        if message::lacks_uri(call)
            && !call.method.as_deref().is_some_and(|method| version.has_removed(method))
        {
            return Err(HeaderDenial::Malformed("`params.uri` is missing".into()));
        }
    }
    if message.batch && !version.has_batches() {
        return Err(HeaderDenial::Malformed(
            "batches ended with protocol version 2025-06-18; send one message a request".into(),
        ));
    }
    let era = version.era();
    for call in &message.calls {
        method(headers, call, era)?;
        name(headers, call, version)?;
    }
    params(headers, message)?;
    Ok(version)
}

/// The one version that header and body agree on.
fn version(headers: &ProtocolHeaders<'_>, message: &Message<'_>) -> Result<Version, HeaderDenial> {
    let mut said = headers.version.map(Cow::Borrowed);
    for call in &message.calls {
        let meta = call.meta.and_then(|m| m.get(META_KEY)).and_then(|v| v.as_str());
        match (&said, meta) {
            (Some(said), Some(meta)) if *said != meta => {
                return Err(mismatch(format!(
                    "header `MCP-Protocol-Version` and `params._meta[\"{META_KEY}\"]` differ; \
                     send the same version in both"
                )));
            }
            (None, Some(meta)) => said = Some(meta),
            (Some(_), Some(_)) | (_, None) => {}
        }
    }
    let Some(said) = said else { return Ok(Version::ASSUMED) };
    let Some(version) = Version::parse(&said) else {
        let in_meta = |call: &Call<'_>| call.meta.is_some_and(|meta| meta.get(META_KEY).is_some());
        let modern = message.calls.iter().any(in_meta);
        return Err(HeaderDenial::Version {
            requested: said.chars().take(MAX_VERSION_CHARS).collect(),
            supported: if modern { &SUPPORTED_MODERN } else { &SUPPORTED },
        });
    };
    if version.era() == Era::Modern {
        if headers.version.is_none() {
            return Err(mismatch(
                "header `MCP-Protocol-Version` is missing; send the version that `_meta` names",
            ));
        }
        for call in message.calls.iter().filter(|call| call.is_request()) {
            let member = |key| call.meta.and_then(|meta| meta.get(key));
            if member(META_KEY).is_none() {
                return Err(HeaderDenial::MetaMissing(META_KEY));
            }
            if member(CAPABILITIES_KEY).is_none_or(|value| value.kind() != Kind::Object) {
                return Err(HeaderDenial::MetaMissing(CAPABILITIES_KEY));
            }
        }
    }
    Ok(version)
}

fn method(headers: &ProtocolHeaders<'_>, call: &Call<'_>, era: Era) -> Result<(), HeaderDenial> {
    match (headers.method, call.method.as_deref()) {
        (Some(header), Some(body)) if header == body => Ok(()),
        (Some(_), Some(_)) => Err(mismatch("header `Mcp-Method` differs from `method`")),
        (Some(_), None) => Err(mismatch("header `Mcp-Method` on a message without a method")),
        (None, _) if era == Era::Modern && call.is_request() => {
            Err(mismatch("header `Mcp-Method` is missing; send the message's `method`"))
        }
        (None, _) => Ok(()),
    }
}

fn name(
    headers: &ProtocolHeaders<'_>,
    call: &Call<'_>,
    version: Version,
) -> Result<(), HeaderDenial> {
    let (source, required) = name_source(call);
    // A method that the revision has removed is refused as one, whatever names its object.
    let is_gone = call.method.as_deref().is_some_and(|method| version.has_removed(method));
    let required = required && !is_gone && version.era() == Era::Modern;
    let Some(header) = headers.name else {
        return if required && call.is_request() {
            Err(mismatch(
                "header `Mcp-Name` is missing; send `params.name`, `params.uri` or `params.taskId`",
            ))
        } else {
            Ok(())
        };
    };
    let Some(header) = sentinel::decode(header) else {
        return Err(mismatch("header `Mcp-Name` is badly encoded"));
    };
    match source {
        Some(body) if body == header => Ok(()),
        Some(_) => Err(mismatch("header `Mcp-Name` differs from what the body names")),
        None => Err(mismatch("header `Mcp-Name` on a message that names nothing")),
    }
}

/// Returns the value that `Mcp-Name` mirrors for this call, and the modern era's requirement for
/// it.
fn name_source<'c>(call: &'c Call<'_>) -> (Option<Cow<'c, str>>, bool) {
    let method = call.method.as_deref().unwrap_or_default();
    match &call.kind {
        CallKind::Tool { name, .. } => (Some(Cow::Borrowed(name)), true),
        CallKind::Data { what: Data::Task, target } => (Some(Cow::Borrowed(target)), true),
        CallKind::Data { what: Data::Resource | Data::Prompt, target } => {
            (Some(Cow::Borrowed(target)), matches!(method, "resources/read" | "prompts/get"))
        }
        // Methods of extensions mirror what names their object.
        CallKind::Data { what: Data::Method, .. } => {
            let text = |key: &&str| call.params?.get(key)?.as_str();
            (["name", "uri"].iter().find_map(text), false)
        }
        CallKind::Protocol => (None, false),
    }
}

/// An `Mcp-Param-*` header for which no argument has been found yet.
struct UnmatchedHeader<'h> {
    name: &'h str,
    text: Cow<'h, str>,
    number: Option<Number>,
}

/// Holds each `Mcp-Param-*` against the primitive arguments of the tool calls.
fn params(headers: &ProtocolHeaders<'_>, message: &Message<'_>) -> Result<(), HeaderDenial> {
    let mut open = Vec::with_capacity(headers.params.len());
    for &(name, value) in &headers.params {
        let Some(text) = sentinel::decode(value) else {
            return Err(mismatch(format!("header `{name}` is badly encoded")));
        };
        let number = Number::parse(&text);
        open.push(UnmatchedHeader { name, text, number });
    }
    for call in &message.calls {
        if let CallKind::Tool { arguments: Some(arguments), .. } = &call.kind {
            strike_out(*arguments, &mut open);
        }
    }
    match open.first() {
        None => Ok(()),
        Some(UnmatchedHeader { name, .. }) => Err(mismatch(format!(
            "header `{name}` is not the value of any argument; ask `tools/list` which argument it \
             mirrors"
        ))),
    }
}

/// Takes from `open` each header whose value an argument has. Schemas point through objects only,
/// so arrays are left out.
fn strike_out(value: Value<'_>, open: &mut Vec<UnmatchedHeader<'_>>) {
    if open.is_empty() {
        return;
    }
    match value.kind() {
        Kind::Object => value.entries().for_each(|entry| strike_out(entry.value, open)),
        Kind::String => {
            let text = value.as_str().unwrap_or_default();
            open.retain(|header| header.text != text);
        }
        Kind::Number => {
            let number = Number::parse(value.raw());
            open.retain(|header| number.is_none() || header.number != number);
        }
        Kind::True | Kind::False => open.retain(|header| header.text != value.raw()),
        Kind::Array | Kind::Null => {}
    }
}

#[cfg(test)]
mod tests;
