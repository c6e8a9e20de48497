//! Trace context of a request (W3C Trace Context level 1): from its head, or from `params._meta`.
//!
//! The context is read and never rewritten in the body: the bytes that were checked are the bytes
//! that are sent.

use super::message::Message;

/// Longest `tracestate` that is passed on (section 3.3.1.5).
pub const MAX_STATE_BYTES: usize = 512;

/// The span that a request was sent within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace: [u8; 16],
    pub parent: [u8; 8],
    /// True if the sender records its own span.
    pub sampled: bool,
}

/// Fields of a `traceparent`, as they are written.
struct Fields<'t> {
    trace: &'t str,
    parent: &'t str,
    flags: &'t str,
}

impl<'t> Fields<'t> {
    fn read(traceparent: &'t str) -> Option<Self> {
        let mut fields = traceparent.split('-');
        let (version, trace, parent, flags) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let whole = is_hex(version, 2) && is_id(trace, 32) && is_id(parent, 16) && is_hex(flags, 2);
        // Later versions may add fields; version ff is none.
        let known = version != "ff" && (version != "00" || fields.next().is_none());
        (whole && known).then_some(Self { trace, parent, flags })
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reports whether a text is an id: all zeros is none.
fn is_id(text: &str, length: usize) -> bool {
    is_hex(text, length) && text.bytes().any(|b| b != b'0')
}

/// Returns the trace id of a `traceparent`, as it is written.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    Fields::read(traceparent).map(|fields| fields.trace)
}

impl TraceContext {
    pub fn parse(traceparent: &str) -> Option<Self> {
        let fields = Fields::read(traceparent)?;
        Some(Self {
            trace: u128::from_str_radix(fields.trace, 16).ok()?.to_be_bytes(),
            parent: u64::from_str_radix(fields.parent, 16).ok()?.to_be_bytes(),
            sampled: u8::from_str_radix(fields.flags, 16).ok()? & 1 == 1,
        })
    }

    pub fn trace_id(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.trace))
    }

    /// Writes the context as a `traceparent`.
    pub fn traceparent(&self) -> String {
        let parent = u64::from_be_bytes(self.parent);
        format!("00-{}-{parent:016x}-{:02x}", self.trace_id(), u8::from(self.sampled))
    }
}

/// Reads the context that a message carries in `params._meta`, with its `tracestate`: of a batch
/// that of the first member that has one.
pub fn in_meta(message: &Message<'_>) -> Option<(TraceContext, Option<String>)> {
    message.calls.iter().find_map(|call| {
        let meta = call.meta?;
        let context = TraceContext::parse(&meta.get("traceparent")?.as_str()?)?;
        let state = meta.get("tracestate").and_then(|state| state.as_str());
        Some((context, state.filter(|state| is_state(state)).map(String::from)))
    })
}

/// Reports whether a text can be passed on as a `tracestate`; its parts are not checked further.
pub fn is_state(text: &str) -> bool {
    text.len() <= MAX_STATE_BYTES && text.bytes().all(|b| matches!(b, b' '..=b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Doc;
    use crate::mcp::message;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_is_read_as_w3c_defines_it() {
        let context = TraceContext::parse(GOOD).unwrap();
        assert_eq!(trace_id(GOOD), Some("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.traceparent(), GOOD);
        assert!(context.sampled);
        // Of the flags one is known, and of a later version the first four fields.
        let (fields, _) = GOOD.rsplit_once("01").unwrap();
        let later = format!("cc{}fe-more-of-it", fields.strip_prefix("00").unwrap());
        let later = TraceContext::parse(&later).unwrap();
        assert_eq!((later.trace, later.sampled), (context.trace, false));
        assert_eq!(later.traceparent(), format!("{fields}00"));
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!((trace_id(bad), TraceContext::parse(bad)), (None, None), "{bad}");
        }
    }

    #[test]
    fn a_message_carries_its_context_in_meta() {
        let read = |meta: &str| {
            let text = format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"a","_meta":{meta}}}}}"#
            );
            let doc = Doc::parse(text.as_bytes()).unwrap();
            in_meta(&message::read(&doc).unwrap())
        };
        let expected = TraceContext::parse(GOOD).unwrap();
        let with = |more: &str| format!(r#"{{"traceparent":"{GOOD}"{more}}}"#);
        assert_eq!(read(&with("")), Some((expected, None)));
        let state = read(&with(r#","tracestate":"vendor=1, other=2""#)).unwrap().1;
        assert_eq!(state.as_deref(), Some("vendor=1, other=2"));
        // A state that no header could hold is left out, not cut.
        for bad in [r#""a=1\r\nx: y""#, r#""é=1""#, "7", &format!("\"{}\"", "a".repeat(513))] {
            assert_eq!(read(&with(&format!(r#","tracestate":{bad}"#))), Some((expected, None)));
        }
        for none in ["{}", r#"{"traceparent":7}"#, r#"{"traceparent":"x"}"#] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
