//! Output of commands: plain lines for people, JSON for programs.
//!
//! Text from elsewhere (an agent's name, an intent) may hold control characters that would move a
//! terminal's cursor; they are shown as escapes.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::sync::OnceLock;

use clap::builder::styling::{AnsiColor, Style};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

/// Format of a command's output.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Format {
    /// Format of the output.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Shape::Table)]
    output: Shape,
    /// Print JSON: short for `--output json`.
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// Lines and columns for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

impl Format {
    fn is_json(self) -> bool {
        self.json || self.output == Shape::Json
    }
}

impl From<bool> for Format {
    fn from(json: bool) -> Self {
        Self { json, output: Shape::Table }
    }
}

/// Colours of words whose meaning should be seen at a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Head,
    Good,
    Doubtful,
    Bad,
}

impl Tone {
    fn style(self) -> Style {
        let colour = |colour: AnsiColor| colour.on_default().bold();
        match self {
            Self::Plain => Style::new(),
            Self::Head => Style::new().bold(),
            Self::Good => colour(AnsiColor::Green),
            Self::Doubtful => colour(AnsiColor::Yellow),
            Self::Bad => colour(AnsiColor::Red),
        }
    }

    /// The text in this tone where colours are shown.
    fn of(self, text: impl fmt::Display, coloured: bool) -> String {
        let style = if coloured { self.style() } else { Style::new() };
        format!("{style}{text}{style:#}")
    }
}

/// Colours of the process's standard output; never set where a command writes elsewhere.
static COLOURED: OnceLock<bool> = OnceLock::new();

/// Shows colours on standard output if it is a terminal, unless `NO_COLOR` is set.
pub(super) fn colour_terminals(env: &super::Env) {
    let wanted = wants_colours(env) && io::stdout().is_terminal();
    COLOURED.get_or_init(|| wanted);
}

/// Reads what the environment says of colours (<https://no-color.org>).
fn wants_colours(env: &super::Env) -> bool {
    let refused = env.get("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && env.get("TERM") != Some("dumb")
}

/// Destination and format of a command's output.
pub(crate) struct Out<'a> {
    pub(crate) json: bool,
    coloured: bool,
    sink: &'a mut dyn Write,
}

impl<'a> Out<'a> {
    pub(crate) fn new(format: impl Into<Format>, sink: &'a mut dyn Write) -> Self {
        let coloured = COLOURED.get().copied().unwrap_or_default();
        Self { json: format.into().is_json(), coloured, sink }
    }

    /// A line that begins with a word of `width` columns in a tone.
    pub(crate) fn toned(
        &mut self,
        tone: Tone,
        word: &str,
        width: usize,
        rest: &str,
    ) -> io::Result<()> {
        let word = tone.of(format_args!("{word:width$}"), self.coloured);
        writeln!(self.sink, "{word}{}", printable(rest))
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
        let heads = std::iter::once((&header, Tone::Head));
        for (row, tone) in heads.chain(cells.iter().map(|row| (row, Tone::Plain))) {
            let padded: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            let text = padded.join("  ");
            writeln!(self.sink, "{}", tone.of(text.trim_end(), self.coloured))?;
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

/// Reports on stderr what went wrong; the exit code shows it too.
pub(crate) fn complain(message: &str) {
    let coloured = COLOURED.get().copied().unwrap_or_default() && io::stderr().is_terminal();
    let mut stderr = io::stderr().lock();
    for line in message.lines() {
        let name = Tone::Bad.of("arbiter:", coloured);
        drop(writeln!(stderr, "{name} {}", printable(line)));
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
    fn colours_are_for_terminals_that_want_them() {
        let rows = [json!({"id": "abc"})];
        let mut sink = Vec::new();
        let mut out = Out { json: false, coloured: true, sink: &mut sink };
        out.table(&rows, &["id"]).unwrap();
        out.toned(Tone::Bad, "fail", 6, "it\u{1b}").unwrap();
        let text = String::from_utf8(sink).unwrap();
        let bad = "\u{1b}[1m\u{1b}[31mfail  \u{1b}[0mit\\u{1b}\n";
        assert_eq!(text, format!("\u{1b}[1mID\u{1b}[0m\nabc\n{bad}"));
        let env = |name: &str, value: &str| super::super::Env(vec![(name.into(), value.into())]);
        assert!(wants_colours(&env("TERM", "xterm")) && wants_colours(&env("NO_COLOR", "")));
        assert!(!wants_colours(&env("NO_COLOR", "1")) && !wants_colours(&env("TERM", "dumb")));
    }

    #[test]
    fn terminals_are_not_commanded() {
        let text = printed(false, |out| out.thing(&json!({"owner": "a\u{1b}[2Jb\n"})));
        assert_eq!(text, "owner  a\\u{1b}[2Jb\\u{a}\n");
    }
}
