//! A TOML text as a tree whose values know their line.
//!
//! Parser errors are reported by line and message only: the parser's own rendering quotes the line,
//! and the line may hold a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::ConfigError;

pub(super) type Table = BTreeMap<String, Node>;

/// One value and where it was written.
#[derive(Clone)]
pub(super) struct Node {
    pub value: Value,
    pub at: Origin,
}

#[derive(Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Float(f64),
    Flag(bool),
    List(Vec<Node>),
    Table(Table),
    Date(String),
    /// JSON from the environment has it; no key takes it.
    Null,
    /// From the environment: its type is the key's.
    Untyped(String),
}

impl Value {
    /// Returns the kind of the value, for a message that must not quote the value.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a decimal number",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Date(_) => "a date",
            Self::Null => "null",
            Self::Untyped(_) => "text from the environment",
        }
    }
}

/// Place of a value in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file, from 1.
    Line(usize),
    /// A line of a file whose name is known, or the file as a whole.
    File(PathBuf, Option<usize>),
    /// An environment variable.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::File(path, Some(line)) => write!(f, "{}:{line}", path.display()),
            Self::File(path, None) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// Places of the keys that were given, by `section.key`.
#[derive(Clone, Default)]
pub(crate) struct Places(BTreeMap<String, Origin>);

impl fmt::Debug for Places {
    /// Shows none: a key that moves to another line is the same setting.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Places")
    }
}

impl Places {
    pub(super) fn of(root: &Table) -> Self {
        let mut places = BTreeMap::new();
        note(root, "", &mut places);
        Self(places)
    }

    /// Returns the place of a key, whose case is ignored as it is in names of headers.
    pub(super) fn of_key(&self, key: &str) -> Option<&Origin> {
        self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, at)| at)
    }
}

fn note(table: &Table, prefix: &str, places: &mut BTreeMap<String, Origin>) {
    for (key, node) in table {
        let name = format!("{prefix}{key}");
        if let Value::Table(table) = &node.value {
            note(table, &format!("{name}."), places);
        }
        places.insert(name, node.at.clone());
    }
}

/// Reads a whole text.
pub(super) fn parse(text: &str) -> Result<Table, ConfigError> {
    let lines = Lines::of(text);
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map(|span| Origin::Line(lines.line(span.start)));
        ConfigError { key: String::new(), at, problem: format!("not TOML: {}", error.message()) }
    })?;
    Ok(read_table(table.get_ref(), &lines))
}

fn read_table(table: &DeTable<'_>, lines: &Lines) -> Table {
    let entries = table.iter().map(|(key, value)| {
        let at = Origin::Line(lines.line(key.span().start));
        (key.get_ref().to_string(), Node { value: read_value(value.get_ref(), lines), at })
    });
    entries.collect()
}

fn read_value(value: &DeValue<'_>, lines: &Lines) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        // The parser has checked the digits; what no i128 holds is out of every key's range.
        DeValue::Integer(n) => {
            Value::Integer(i128::from_str_radix(n.as_str(), n.radix()).unwrap_or(i128::MAX))
        }
        DeValue::Float(n) => Value::Float(n.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Datetime(time) => Value::Date(time.to_string()),
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| Node {
                    value: read_value(item.get_ref(), lines),
                    at: Origin::Line(lines.line(item.span().start)),
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(read_table(table, lines)),
    }
}

/// Starts of the lines of a text.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect())
    }

    fn line(&self, at: usize) -> usize {
        self.0.partition_point(|newline| *newline < at) + 1
    }
}
