//! The environment over the file: `ARBITER_<SECTION>__<KEY>`, and three secrets by their own names.
//!
//! This is the only file that reads the process's environment.

use std::collections::BTreeMap;

use super::ConfigError;
use super::file::{Node, Origin, Table, Value};

/// The secrets that have a variable of their own, and where they belong.
const NAMED: [(&str, &str, &str); 6] = [
    ("ARBITER_ADMIN_API_KEY", "admin", "api_key"),
    ("ARBITER_ADMIN_API_KEY_FILE", "admin", "api_key_file"),
    ("ARBITER_SIGNING_SECRET", "admin", "signing_secret"),
    ("ARBITER_SIGNING_SECRET_FILE", "admin", "signing_secret_file"),
    ("ARBITER_STORAGE_ENCRYPTION_KEY", "storage", "encryption_key"),
    ("ARBITER_STORAGE_ENCRYPTION_KEY_FILE", "storage", "encryption_key_file"),
];

/// Secrets that can be given as they are or by a file: section, key, and the file's key.
const IN_FILES: [(&str, &str, &str); 4] = [
    ("admin", "api_key", "api_key_file"),
    ("admin", "signing_secret", "signing_secret_file"),
    ("storage", "encryption_key", "encryption_key_file"),
    ("storage", "redis_url", "redis_url_file"),
];

/// Reports whether a variable is one of the secrets that have names of their own.
pub fn names_a_secret(variable: &str) -> bool {
    NAMED.iter().any(|row| row.0 == variable)
}

/// The process's environment, without variables that are not UTF-8.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Lays the variables over the file's tables.
pub(super) fn overlay(
    root: &mut Table,
    env: impl Iterator<Item = (String, String)>,
    problems: &mut Vec<ConfigError>,
) {
    // Sorted, so that a section given in two ways gives the same messages each time.
    let env: BTreeMap<String, String> =
        env.filter(|(name, _)| name.starts_with("ARBITER_")).collect();
    let named = |name: &str| NAMED.iter().find(|row| row.0 == name).map(|row| (row.1, row.2));
    // Variables of their own come last: they win over the general form.
    let (own, general): (Vec<_>, Vec<_>) = env.iter().partition(|(name, _)| named(name).is_some());
    for (name, value) in general.into_iter().chain(own) {
        let path = match named(name) {
            Some((section, key)) => Some((section.to_owned(), key.to_owned())),
            None => general_path(name, root),
        };
        let Some((section, key)) = path else { continue };
        let at = Origin::Variable(name.clone());
        if value.is_empty() {
            let problem = "is set but empty; give it a value or unset it".to_owned();
            problems.push(ConfigError { key: format!("{section}.{key}"), at: Some(at), problem });
            continue;
        }
        let table = root
            .entry(section)
            .or_insert_with(|| Node { value: Value::Table(Table::new()), at: at.clone() });
        // A section that is not a table in the file is reported when it is read.
        if let Value::Table(table) = &mut table.value {
            table.insert(key, Node { value: Value::Untyped(value.clone()), at });
        }
    }
    for (section, key, file_key) in IN_FILES {
        if let Some(Node { value: Value::Table(table), .. }) = root.get_mut(section) {
            outdo(table, key, file_key);
        }
    }
}

/// Leaves out the file's form of a secret where the environment gives the secret in the other form.
fn outdo(table: &mut Table, key: &str, file_key: &str) {
    let from_env =
        |table: &Table, key: &str| Some(matches!(table.get(key)?.at, Origin::Variable(_)));
    match (from_env(table, key), from_env(table, file_key)) {
        (Some(true), Some(false)) => drop(table.remove(file_key)),
        (Some(false), Some(true)) => drop(table.remove(key)),
        (Some(_) | None, Some(_) | None) => {}
    }
}

/// `ARBITER_PROXY__LISTEN_PORT` is `proxy.listen_port`; other names are not ours.
fn general_path(name: &str, root: &Table) -> Option<(String, String)> {
    if is_credential(name, root) {
        return None;
    }
    let (section, key) = name.strip_prefix("ARBITER_")?.split_once("__")?;
    Some((section.to_ascii_lowercase(), key.to_ascii_lowercase()))
}

/// Reports whether a variable holds a credential's value: those names are the operator's.
fn is_credential(name: &str, root: &Table) -> bool {
    let configured = match root.get("credentials").map(|node| &node.value) {
        Some(Value::Table(table)) => match table.get("env_prefix").map(|node| &node.value) {
            Some(Value::Text(prefix) | Value::Untyped(prefix)) => Some(prefix.as_str()),
            _ => None,
        },
        _ => None,
    };
    let prefix = configured.unwrap_or(super::DEFAULT_CREDENTIAL_PREFIX);
    !prefix.is_empty() && name.starts_with(prefix) && name != "ARBITER_CREDENTIALS__ENV_PREFIX"
}
