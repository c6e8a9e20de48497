//! Reads credentials out of TOML, JSON and environment variables.
//!
//! Errors name the line or the field and never quote the text, as the parsers' own do: it is full
//! of secrets.

use std::collections::HashMap;
use std::ffi::OsString;

use serde::Deserialize;

use super::SecretsError;
use crate::credentials::{Secret, SecretText};

/// Reason why a source cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("line {line} is not valid TOML or not of the expected form")]
    Toml { line: usize },
    #[error("not valid JSON at line {line}, column {column}")]
    Json { line: usize, column: usize },
    #[error("`{field}` {problem}")]
    Field { field: String, problem: &'static str },
}

const FIELDS: &str =
    "must be a string, or a table with `value` and, if wanted, `tools`, `upstreams`, `allow_short`";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Full {
    value: String,
    tools: Option<Vec<String>>,
    upstreams: Option<Vec<String>>,
    #[serde(default)]
    allow_short: bool,
}

impl Full {
    fn named(self, name: String) -> Secret {
        Secret {
            name,
            value: SecretText::new(self.value),
            tools: self.tools,
            upstreams: self.upstreams,
            allow_short: self.allow_short,
        }
    }
}

/// The content of a credentials file.
pub(super) fn toml(text: &str) -> Result<Vec<Secret>, ParseError> {
    let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let at = e.span().map_or(0, |span| span.start).min(text.len());
        let before = text.as_bytes().get(..at).unwrap_or_default();
        ParseError::Toml { line: before.split(|&b| b == b'\n').count() }
    })?;
    let credentials = table.remove("credentials");
    if let Some(key) = table.keys().next() {
        return Err(field(key, "is not known here; credentials stand under `[credentials]`"));
    }
    match credentials {
        None => Ok(Vec::new()),
        Some(toml::Value::Table(credentials)) => credentials
            .into_iter()
            .map(|(name, value)| match value {
                toml::Value::String(value) => Ok(Secret::plain(name, value)),
                value @ toml::Value::Table(_) => value
                    .try_into::<Full>()
                    .map(|full| full.named(name.clone()))
                    .map_err(|_quotes_the_value| credential(&name)),
                _ => Err(credential(&name)),
            })
            .collect(),
        Some(_) => Err(field("credentials", "must be a table")),
    }
}

/// Parses the output of a command.
pub(super) fn json(text: &[u8]) -> Result<Vec<Secret>, ParseError> {
    let value: serde_json::Value = serde_json::from_slice(text)
        .map_err(|e| ParseError::Json { line: e.line(), column: e.column() })?;
    let serde_json::Value::Object(mut object) = value else {
        return Err(field("credentials", "must be an object"));
    };
    let credentials = match object.remove("credentials") {
        Some(serde_json::Value::Object(inner)) if object.is_empty() => inner,
        Some(other) => {
            object.insert("credentials".to_owned(), other);
            object
        }
        None => object,
    };
    credentials
        .into_iter()
        .map(|(name, value)| match value {
            serde_json::Value::String(value) => Ok(Secret::plain(name, value)),
            value @ serde_json::Value::Object(_) => serde_json::from_value::<Full>(value)
                .map(|full| full.named(name.clone()))
                .map_err(|_quotes_the_value| credential(&name)),
            _ => Err(credential(&name)),
        })
        .collect()
}

/// The variables that start with `prefix`, each under its name as written and in lower case.
pub(super) fn environment(
    prefix: &str,
    variables: &[(OsString, OsString)],
) -> Result<Vec<Secret>, SecretsError> {
    let mut secrets: HashMap<String, Secret> = HashMap::new();
    for (variable, value) in variables {
        let problem = |problem| SecretsError::Variable {
            variable: variable.to_string_lossy().into_owned(),
            problem,
        };
        let name = variable.to_str().ok_or_else(|| problem("has a name that is not UTF-8"))?;
        let Some(name) = name.strip_prefix(prefix) else { continue };
        let value = value.to_str().ok_or_else(|| problem("is not UTF-8"))?;
        if value.is_empty() {
            return Err(problem("is empty"));
        }
        let lower = name.to_ascii_lowercase();
        let spellings = if lower == name { vec![lower] } else { vec![lower, name.to_owned()] };
        for spelling in spellings {
            let secret = Secret::plain(spelling.clone(), value);
            if secrets.insert(spelling, secret).is_some() {
                return Err(problem("differs from another one in letter case only"));
            }
        }
    }
    Ok(secrets.into_values().collect())
}

fn credential(name: &str) -> ParseError {
    field(&format!("credentials.{name}"), FIELDS)
}

fn field(name: &str, problem: &'static str) -> ParseError {
    // A name that is none could be a value in the wrong place.
    let shown: String = name.chars().take(80).filter(|c| !c.is_control()).collect();
    ParseError::Field { field: shown, problem }
}
