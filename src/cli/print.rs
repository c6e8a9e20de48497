//! Output of commands: plain lines for people, JSON for programs.
//!
//! Text from elsewhere (an agent's name, an intent) may hold control characters that would move a
//! terminal's cursor; they are shown as escapes.

use std::io::{self, Write};

use serde_json::{Map, Value};

/// Destination and format of a command's output.
pub(crate) struct Out<'a> {
    pub(crate) json: bool,
    sink: &'a mut dyn Write,
}

impl<'a> Out<'a> {
    pub(crate) fn new(json: bool, sink: &'a mut dyn Write) -> Self {
        Self { json, sink }
    }

    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.sink, "{}", printable(text))
    }

    /// A line for programs, byte for byte.
    pub(crate) fn raw(&mut self, line: &[u8]) -> io::Result<()> {
        self.sink.write_all(line)?;
        self.sink.write_all(b"\n")
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }

    /// One thing: its members, one a line, or all of it as JSON.
    pub(crate) fn thing(&mut self, value: &Value) -> io::Result<()> {
        if self.json {
            return writeln!(self.sink, "{value:#}");
        }
        let Value::Object(members) = value else { return self.line(&plain(value)) };
        let width = members.keys().map(String::len).max().unwrap_or_default();
        for (name, value) in members {
            self.line(&format!("{name:width$}  {}", plain(value)))?;
        }
        Ok(())
    }

    /// Many things: a column for each of `names`, or all of it as a JSON list.
    pub(crate) fn table(&mut self, rows: &[Value], names: &[&str]) -> io::Result<()> {
        if self.json {
            return writeln!(self.sink, "{:#}", Value::from(rows));
        }
        let empty = Map::new();
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.as_object().unwrap_or(&empty))
            .map(|row| names.iter().map(|name| cell(row.get(*name))).collect())
            .collect();
        let widths: Vec<usize> = names
            .iter()
            .enumerate()
            .map(|(column, name)| {
                let widest =
                    cells.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
                widest.unwrap_or_default().max(name.len())
            })
            .collect();
        let header: Vec<String> = names.iter().map(|name| name.to_uppercase()).collect();
        for row in std::iter::once(&header).chain(&cells) {
            let padded: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(self.sink, "{}", padded.join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// A value short enough for a column.
fn cell(value: Option<&Value>) -> String {
    let text = printable(&value.map(plain).unwrap_or_default());
    if text.chars().count() <= 48 {
        return text;
    }
    text.chars().take(47).chain(['…']).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// The text with control characters shown rather than obeyed.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// Says on stderr what went wrong. If nobody reads it, the exit code still tells.
pub(crate) fn complain(message: &str) {
    let mut stderr = io::stderr().lock();
    for line in message.lines() {
        drop(writeln!(stderr, "arbiter: {}", printable(line)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn printed(json: bool, print: impl FnOnce(&mut Out<'_>) -> io::Result<()>) -> String {
        let mut sink = Vec::new();
        print(&mut Out::new(json, &mut sink)).unwrap();
        String::from_utf8(sink).unwrap()
    }

    #[test]
    fn a_thing_is_lines_or_json() {
        let thing = json!({"id": "a", "capabilities": ["x", "y"], "expires_at": null});
        let text = printed(false, |out| out.thing(&thing));
        assert_eq!(text, "capabilities  x, y\nexpires_at    -\nid            a\n");
        let text = printed(true, |out| out.thing(&thing));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), thing);
    }

    #[test]
    fn a_table_lines_up() {
        let rows = [json!({"id": "abc", "n": 1}), json!({"id": "d"})];
        let text = printed(false, |out| out.table(&rows, &["id", "n"]));
        assert_eq!(text, "ID   N\nabc  1\nd\n");
    }

    #[test]
    fn terminals_are_not_commanded() {
        let text = printed(false, |out| out.thing(&json!({"owner": "a\u{1b}[2Jb\n"})));
        assert_eq!(text, "owner  a\\u{1b}[2Jb\\u{a}\n");
    }
}
