//! Typed reading of one section: every value checked, every problem kept, every name remembered.
//!
//! A key exists because it is read here, so what was not asked for is unknown by construction.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use super::ConfigError;
use super::file::{Node, Origin, Table, Value};
use super::secret::Secret;
use crate::firewall::time::Timestamp;

/// Reads the keys of one section.
pub(super) struct Section<'a> {
    path: String,
    table: Table,
    known: Vec<&'static str>,
    problems: &'a mut Vec<ConfigError>,
}

impl<'a> Section<'a> {
    pub(super) fn new(path: String, table: Table, problems: &'a mut Vec<ConfigError>) -> Self {
        Self { path, table, known: Vec::new(), problems }
    }

    /// Takes a section out of the root; a missing one is empty.
    pub(super) fn take(
        root: &mut Table,
        name: &'static str,
        problems: &'a mut Vec<ConfigError>,
    ) -> Self {
        let table = match root.remove(name) {
            None => Table::new(),
            Some(Node { value: Value::Table(table), .. }) => table,
            Some(node) => {
                let problem = format!("expected a table `[{name}]`, found {}", node.value.kind());
                problems.push(ConfigError { key: name.to_owned(), at: Some(node.at), problem });
                Table::new()
            }
        };
        Self::new(name.to_owned(), table, problems)
    }

    /// Ends the reading: what is left was never asked for.
    pub(super) fn finish(self) -> Vec<&'static str> {
        for (key, node) in self.table {
            self.problems.push(unknown(&format!("{}.", self.path), &key, node.at, &self.known));
        }
        self.known
    }

    fn node(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        self.table.remove(key)
    }

    pub(super) fn problem(&mut self, key: &str, at: Option<Origin>, problem: impl Into<String>) {
        let key = format!("{}.{key}", self.path);
        self.problems.push(ConfigError { key, at, problem: problem.into() });
    }

    /// Returns the place where a key was written, if it was.
    pub(super) fn origin(&self, key: &str) -> Option<Origin> {
        self.table.get(key).map(|node| node.at.clone())
    }

    fn expected<T>(&mut self, key: &str, at: Origin, what: &str, value: &Value) -> Option<T> {
        self.problem(key, Some(at), format!("expected {what}, found {}", value.kind()));
        None
    }

    /// Text with its origin; not empty, bounded, and without control characters.
    fn located_text(&mut self, key: &'static str) -> Option<(String, Origin)> {
        let Node { value, at } = self.node(key)?;
        match value {
            Value::Text(text) | Value::Untyped(text) => {
                if text.is_empty() {
                    self.problem(key, Some(at), "is empty; give it a value or leave it out");
                    return None;
                }
                if text.len() > 4_096 || text.chars().any(char::is_control) {
                    let problem = "is over 4096 bytes or holds a control character";
                    self.problem(key, Some(at), problem);
                    return None;
                }
                Some((text, at))
            }
            other => self.expected(key, at, "text", &other),
        }
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.located_text(key).map(|(text, _)| text)
    }

    pub(super) fn text_or(&mut self, key: &'static str, default: &str) -> String {
        self.text(key).unwrap_or_else(|| default.to_owned())
    }

    pub(super) fn secret(&mut self, key: &'static str) -> Option<Secret> {
        self.text(key).map(Secret::new)
    }

    /// A secret that is given as it is, or by the path of a file that holds it.
    pub(super) fn secret_or_file(
        &mut self,
        key: &'static str,
        file_key: &'static str,
    ) -> Option<Secret> {
        match (self.located_text(key), self.located_text(file_key)) {
            (Some((_, at)), Some(_)) => {
                let other = format!("`{}.{file_key}`", self.path);
                self.problem(key, Some(at), format!("is given together with {other}; keep one"));
                None
            }
            (Some((text, _)), None) => Some(Secret::new(text)),
            (None, Some((path, at))) => match Secret::from_file(Path::new(&path)) {
                Ok(secret) => Some(secret),
                Err(problem) => {
                    self.problem(file_key, Some(at), problem);
                    None
                }
            },
            (None, None) => None,
        }
    }

    /// Text that `parse` turns into the real thing; its error is reported.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (text, at) = self.located_text(key)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problem(key, Some(at), problem);
                None
            }
        }
    }

    pub(super) fn one_of<T: Copy>(
        &mut self,
        key: &'static str,
        default: T,
        choices: &[(&str, T)],
    ) -> T {
        let found = self.parsed(key, |text| {
            choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(
                || {
                    let names: Vec<_> =
                        choices.iter().map(|(name, _)| format!("`{name}`")).collect();
                    format!("`{}` is not one of {}", clip(text), names.join(", "))
                },
            )
        });
        found.unwrap_or(default)
    }

    pub(super) fn number<T>(&mut self, key: &'static str, default: T, range: RangeInclusive<T>) -> T
    where
        T: Copy + Display + PartialOrd + TryFrom<i128>,
    {
        self.optional_number(key, range).unwrap_or(default)
    }

    pub(super) fn optional_number<T>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
    ) -> Option<T>
    where
        T: Copy + Display + PartialOrd + TryFrom<i128>,
    {
        let Node { value, at } = self.node(key)?;
        let number = match &value {
            Value::Integer(n) => *n,
            Value::Untyped(text) => match text.parse() {
                Ok(n) => n,
                Err(_) => return self.expected(key, at, "a whole number", &value),
            },
            other => return self.expected(key, at, "a whole number", other),
        };
        let fitting = T::try_from(number).ok().filter(|n| range.contains(n));
        if fitting.is_none() {
            let (low, high) = range.into_inner();
            self.problem(key, Some(at), format!("is out of range; use {low} to {high}"));
        }
        fitting
    }

    pub(super) fn decimal(
        &mut self,
        key: &'static str,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> f64 {
        let Some(Node { value, at }) = self.node(key) else { return default };
        let number = match &value {
            Value::Float(n) => Some(*n),
            // Whole numbers above 2^53 are out of every range here.
            Value::Integer(n) => i32::try_from(*n).ok().map(f64::from),
            Value::Untyped(text) => text.parse().ok(),
            other => {
                return self.expected(key, at, "a number", other).unwrap_or(default);
            }
        };
        number.filter(|n| range.contains(n)).unwrap_or_else(|| {
            let (low, high) = range.into_inner();
            self.problem(key, Some(at), format!("is not a number from {low} to {high}"));
            default
        })
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let Some(Node { value, at }) = self.node(key) else { return default };
        match &value {
            Value::Flag(flag) => *flag,
            Value::Untyped(text) if text == "true" => true,
            Value::Untyped(text) if text == "false" => false,
            other => self.expected(key, at, "true or false", other).unwrap_or(default),
        }
    }

    /// A list of texts; from the environment as JSON or with commas between.
    pub(super) fn list(&mut self, key: &'static str) -> Option<Vec<String>> {
        let Node { value, at } = self.node(key)?;
        let items = match value {
            Value::List(items) => items,
            Value::Untyped(text) if text.trim_start().starts_with('[') => {
                let Some(serde_json::Value::Array(items)) = json(&text) else {
                    self.problem(key, Some(at), "is not a JSON list of texts");
                    return None;
                };
                items.into_iter().map(|item| from_json(item, &at)).collect()
            }
            Value::Untyped(text) => text
                .split(',')
                .map(|item| Node { value: Value::Text(item.trim().to_owned()), at: at.clone() })
                .collect(),
            other => return self.expected(key, at, "a list of texts", &other),
        };
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            match item.value {
                Value::Text(text) if text.is_empty() => {
                    self.problem(key, Some(item.at), "holds an empty text");
                }
                Value::Text(text) => out.push(text),
                other => {
                    let problem = format!("expected only texts, found {}", other.kind());
                    self.problem(key, Some(item.at), problem);
                }
            }
        }
        Some(out)
    }

    /// A list each item of which `check` must accept.
    pub(super) fn checked_list(
        &mut self,
        key: &'static str,
        default: &[&str],
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Vec<String> {
        let at = self.origin(key);
        let Some(items) = self.list(key) else {
            return default.iter().map(|&item| item.to_owned()).collect();
        };
        for item in &items {
            if let Err(problem) = check(item) {
                self.problem(key, at.clone(), format!("`{}`: {problem}", clip(item)));
            }
        }
        items
    }

    /// Returns a table or list with its origin; one from the environment is JSON, none if it is not.
    fn structured(&mut self, key: &'static str) -> Option<(Option<Value>, Origin)> {
        let Node { value, at } = self.node(key)?;
        let value = match value {
            Value::Untyped(text) => json(&text).map(|value| from_json(value, &at).value),
            typed => Some(typed),
        };
        Some((value, at))
    }

    /// A table of texts with names that the operator chooses.
    pub(super) fn map(&mut self, key: &'static str) -> Vec<(String, String, Origin)> {
        let Some((value, at)) = self.structured(key) else { return Vec::new() };
        let Some(Value::Table(table)) = value else {
            self.problem(key, Some(at), "expected a table of texts (from the environment: JSON)");
            return Vec::new();
        };
        let mut out = Vec::with_capacity(table.len());
        for (name, node) in table {
            match node.value {
                Value::Text(text) => out.push((name, text, node.at)),
                other => {
                    let problem = format!("expected text, found {}", other.kind());
                    self.problem(&format!("{key}.{name}"), Some(node.at), problem);
                }
            }
        }
        out
    }

    /// Tables under `[[section.key]]`.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Table> {
        let Some((value, at)) = self.structured(key) else { return Vec::new() };
        let items = match value {
            Some(Value::List(items)) => Some(items),
            _ => None,
        };
        let tables = items.map(|items| {
            items.into_iter().map(|item| match item.value {
                Value::Table(table) => Some(table),
                _ => None,
            })
        });
        if let Some(tables) = tables.and_then(Iterator::collect) {
            return tables;
        }
        let what =
            format!("expected tables `[[{}.{key}]]` (from the environment: JSON)", self.path);
        self.problem(key, Some(at), what);
        Vec::new()
    }

    /// The one table `[section.key]`, whose names are known.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Table> {
        let (value, at) = self.structured(key)?;
        let table = match value {
            Some(Value::Table(table)) => Some(table),
            _ => None,
        };
        if table.is_none() {
            self.problem(key, Some(at), "expected a table (from the environment: JSON)");
        }
        table
    }

    /// A moment, as text or as a TOML date with time and offset.
    pub(super) fn time(&mut self, key: &'static str) -> Option<Timestamp> {
        let Node { value, at } = self.node(key)?;
        let text = match &value {
            Value::Text(text) | Value::Untyped(text) | Value::Date(text) => text,
            other => return self.expected(key, at, "a time", other),
        };
        let time = Timestamp::parse(text);
        if time.is_none() {
            let problem = "is not a time with a zone such as `2030-01-31T12:00:00Z`";
            self.problem(key, Some(at), problem);
        }
        time
    }

    /// Reads further sections below this one.
    pub(super) fn problems(&mut self) -> &mut Vec<ConfigError> {
        self.problems
    }
}

/// An unknown name, with the nearest known one.
pub(super) fn unknown(prefix: &str, key: &str, at: Origin, known: &[&'static str]) -> ConfigError {
    let nearest = known.iter().min_by_key(|name| distance(name, key));
    let problem = match nearest {
        Some(name) if distance(name, key) <= key.len().max(3) / 2 => {
            format!("is not a known key; did you mean `{prefix}{name}`?")
        }
        _ => format!("is not a known key; known are: {}", known.join(", ")),
    };
    ConfigError { key: format!("{prefix}{}", clip(key)), at: Some(at), problem }
}

/// Returns the edit distance of two names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let change = diagonal + usize::from(x != *y);
            diagonal = *cell;
            left = change.min(left + 1).min(*cell + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// Shortens an operator's input for a message.
pub(super) fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

fn json(text: &str) -> Option<serde_json::Value> {
    serde_json::from_str(text).ok()
}

fn from_json(value: serde_json::Value, at: &Origin) -> Node {
    let value = match value {
        serde_json::Value::String(text) => Value::Text(text),
        serde_json::Value::Bool(flag) => Value::Flag(flag),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(whole), _) => Value::Integer(whole.into()),
            (None, Some(decimal)) => Value::Float(decimal),
            (None, None) => Value::Float(f64::NAN),
        },
        serde_json::Value::Array(items) => {
            Value::List(items.into_iter().map(|item| from_json(item, at)).collect())
        }
        serde_json::Value::Object(members) => Value::Table(
            members.into_iter().map(|(key, value)| (key, from_json(value, at))).collect(),
        ),
        serde_json::Value::Null => Value::Null,
    };
    Node { value, at: at.clone() }
}

/// The value of a section, and the keys that it may have.
pub(super) type Read<T> = (T, Vec<&'static str>);

/// Reads `listen_addr`.
pub(super) fn address(s: &mut Section<'_>, default: IpAddr) -> IpAddr {
    s.parsed("listen_addr", |text| {
        text.parse()
            .ok()
            .ok_or_else(|| "is not an IP address such as `127.0.0.1` or `::`".to_owned())
    })
    .unwrap_or(default)
}
