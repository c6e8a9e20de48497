//! Members of a line: texts that are clipped, lists that are bounded, numbers and ids.

use core::net::IpAddr;
use std::io::Write as _;

use uuid::Uuid;

use crate::firewall::time::Timestamp;
use crate::json::write::{escaped, number};

/// Longest text that is written in full; a longer one is clipped, with its length and hash.
pub(super) const MAX_TEXT_BYTES: usize = 256;
/// Most items of a list that are written; the last item then says how many more there were.
pub(super) const MAX_ITEMS: usize = 256;
/// Most bytes of a list's texts that are written.
pub(super) const MAX_LIST_BYTES: usize = 32 * 1024;

/// The name of a line's last member: where an agent chose it, a letter of it is escaped, so that who
/// searches a line for it finds it once.
const CHAIN_KEY: &str = "chain_record_hash";

/// The name of a member as a line has it, with the text around it.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(super) use key;

pub(super) fn member(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(key.as_bytes());
}

pub(super) fn text_member(out: &mut Vec<u8>, key: &str, value: Option<&str>) {
    member(out, key);
    match value {
        Some(value) => clipped(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

pub(super) fn id_member(out: &mut Vec<u8>, key: &str, value: Option<Uuid>) {
    member(out, key);
    match value {
        Some(value) => {
            out.push(b'"');
            uuid(out, value);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
}

pub(super) fn count_member(out: &mut Vec<u8>, key: &str, value: Option<u64>) {
    member(out, key);
    match value {
        Some(value) => number(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

pub(super) fn list_member<S: AsRef<str>>(out: &mut Vec<u8>, key: &str, items: &[S]) {
    member(out, key);
    out.push(b'[');
    let from = out.len();
    let mut written = 0;
    for item in items.iter().take(MAX_ITEMS) {
        if out.len() - from > MAX_LIST_BYTES {
            break;
        }
        if written > 0 {
            out.push(b',');
        }
        clipped(out, item.as_ref());
        written += 1;
    }
    more(out, items.len() - written);
    out.push(b']');
}

/// The last item of a list that was cut: how many more there were.
pub(super) fn more(out: &mut Vec<u8>, count: usize) {
    if count > 0 {
        formatted(out, format_args!(",\"+{count} more\""));
    }
}

/// Writes a JSON string of at most [`MAX_TEXT_BYTES`] and a note on what was cut off.
pub(super) fn clipped(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if text == CHAIN_KEY {
        out.extend_from_slice(b"chain_record_\\u0068ash");
    } else if text.len() <= MAX_TEXT_BYTES {
        escaped(out, text);
    } else {
        let (head, _) = text.split_at(text.floor_char_boundary(MAX_TEXT_BYTES));
        escaped(out, head);
        let hash = blake3::hash(text.as_bytes()).to_hex();
        formatted(out, format_args!("...[{} bytes, blake3 {hash:.16}]", text.len()));
    }
    out.push(b'"');
}

pub(super) fn uuid(out: &mut Vec<u8>, id: Uuid) {
    out.extend_from_slice(id.as_hyphenated().encode_lower(&mut [0; 36]).as_bytes());
}

pub(super) fn timestamp(out: &mut Vec<u8>, at: Timestamp) {
    out.extend_from_slice(&at.text());
}

pub(super) fn ip_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (n, octet) in address.octets().into_iter().enumerate() {
                if n > 0 {
                    out.push(b'.');
                }
                number(out, octet.into());
            }
        }
        IpAddr::V6(address) => formatted(out, format_args!("{address}")),
    }
}

#[expect(clippy::expect_used, reason = "a vector takes whatever is written to it")]
pub(super) fn formatted(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("writing to memory cannot fail");
}
