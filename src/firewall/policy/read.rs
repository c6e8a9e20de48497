//! From TOML to policies. Every mistake is reported with its line, not only the first one.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

mod constraint;

#[cfg(test)]
pub(super) use constraint::CONSTRAINT_KEYS;

use super::Source;
use super::bound::Bound;
use super::error::{Lines, PolicyError, nearest};
use super::model::{AgentMatch, Effect, IntentMatch, Policy, PrincipalMatch};
use super::name::Name;
use super::regexes::Regexes;
use super::words::Phrase;
use crate::firewall::agent::AgentId;
use crate::firewall::call::{Entry, unknown_upstream};

const PRIORITY_MAX: u32 = 1000;

const FILE_KEYS: &[&str] = &["policies"];
pub(super) const POLICY_KEYS: &[&str] = &[
    "id",
    "effect",
    "allowed_tools",
    "allowed_resources",
    "allowed_prompts",
    "allowed_methods",
    "data_sensitivity",
    "priority",
    "agent_match",
    "principal_match",
    "intent_match",
    "parameter_constraints",
];
pub(super) const AGENT_KEYS: &[&str] = &["agent_id", "trust_level", "capabilities"];
pub(super) const PRINCIPAL_KEYS: &[&str] = &["sub", "groups", "scopes"];
pub(super) const INTENT_KEYS: &[&str] = &["keywords", "regex"];
/// One value and its byte offset.
struct At<T> {
    value: T,
    at: usize,
}

/// One table of the file.
type Table<'t> = At<&'t DeTable<'t>>;

/// Purpose of reading files, and bounds of the work they may cause.
#[derive(Clone, Copy)]
pub struct Limits<'l> {
    /// The names of all upstreams, if they are known: names of others are mistakes.
    pub upstreams: Option<&'l [Box<str>]>,
    /// Most bytes that all compiled regexes take together.
    pub regex_bytes: usize,
    /// True as soon as no further regex may be compiled.
    pub is_late: &'l dyn Fn() -> bool,
}

/// Most bytes of all regexes of a set: thousands of usual ones, a few hundred of the largest ones.
const SET_REGEX_BYTES: usize = 512 << 20;

impl Default for Limits<'_> {
    fn default() -> Self {
        Self { upstreams: None, regex_bytes: SET_REGEX_BYTES, is_late: &|| false }
    }
}

/// Contents of the files.
pub(super) struct Found {
    pub(super) policies: Vec<Policy>,
    pub(super) errors: Vec<PolicyError>,
    pub(super) warnings: Vec<PolicyError>,
}

/// Reads all files. A policy with a mistake is left out, but the rest is still read.
pub(super) fn read(sources: &[Source<'_>], limits: &Limits<'_>) -> Found {
    let mut found = Found { policies: Vec::new(), errors: Vec::new(), warnings: Vec::new() };
    let mut ids = HashMap::new();
    let mut regexes = Regexes::new(limits.regex_bytes, limits.is_late);
    for source in sources {
        let mut reader = Reader {
            source,
            lines: Lines::of(source.text),
            limits,
            errors: Vec::new(),
            warnings: Vec::new(),
            ids: &mut ids,
            regexes: &mut regexes,
        };
        reader.file(&mut found.policies);
        for (from, to) in
            [(&mut reader.errors, &mut found.errors), (&mut reader.warnings, &mut found.warnings)]
        {
            from.sort_by_key(|error| (error.line, error.column));
            to.append(from);
        }
    }
    found
}

struct Reader<'s, 'l> {
    source: &'s Source<'s>,
    lines: Lines<'s>,
    limits: &'s Limits<'l>,
    errors: Vec<PolicyError>,
    warnings: Vec<PolicyError>,
    /// Each id and the place where it was given.
    ids: &'s mut HashMap<String, String>,
    regexes: &'s mut Regexes<'l>,
}

impl Reader<'_, '_> {
    fn fail(&mut self, at: usize, message: impl Into<String>) {
        let error = self.note(at, message);
        self.errors.push(error);
    }

    fn warn(&mut self, at: usize, message: impl Into<String>) {
        let warning = self.note(at, message);
        self.warnings.push(warning);
    }

    fn note(&self, at: usize, message: impl Into<String>) -> PolicyError {
        let (line, column) = self.lines.locate(at);
        PolicyError { source: self.source.name.to_owned(), line, column, message: message.into() }
    }

    fn file(&mut self, policies: &mut Vec<Policy>) {
        let (document, errors) = DeTable::parse_recoverable(self.source.text);
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            self.fail(at, error.message());
        }
        // Content guessed around a syntax error would only cause false alarms.
        if !errors.is_empty() {
            return;
        }
        let file = At { value: document.get_ref(), at: 0 };
        self.only(&file, FILE_KEYS);
        for table in self.tables(&file, "policies") {
            policies.extend(self.policy(&table));
        }
    }

    fn policy(&mut self, table: &Table<'_>) -> Option<Policy> {
        let before = self.errors.len();
        self.only(table, POLICY_KEYS);
        let id = self.id(table);
        let effect = self.effect(table);
        let before_lists = self.errors.len();
        let mut lists = [
            self.parsed(table, "allowed_tools", Name::parse_tool),
            self.parsed(table, "allowed_resources", Name::parse_uri),
            self.parsed(table, "allowed_prompts", Name::parse),
            self.parsed(table, "allowed_methods", Name::parse),
        ];
        if let Some(effect) = effect {
            self.check_upstreams(table, effect);
        }
        if lists.iter().all(Vec::is_empty) && self.errors.len() == before_lists {
            match effect {
                Some(Effect::Allow) => self.fail(
                    table.at,
                    "an allow policy must say what it allows: give `allowed_tools`, \
                     `allowed_resources`, `allowed_prompts` or `allowed_methods` (`*` is everything)",
                ),
                Some(Effect::Deny | Effect::Escalate) => lists = lists.map(|_| vec![Name::every()]),
                None => {}
            }
        }
        let [allowed_tools, allowed_resources, allowed_prompts, allowed_methods] = lists;
        let data_sensitivity = self.word(table, "data_sensitivity").unwrap_or_default();
        let priority = self.priority(table);
        let agent_match = self.agent(table);
        let principal_match = self.principal(table);
        let intent_match = self.intent(table);
        let constraints = self.tables(table, "parameter_constraints");
        let parameter_constraints =
            constraints.iter().filter_map(|table| self.constraint(table, effect)).collect();
        let (id, effect) = (id?, effect?);
        (self.errors.len() == before).then_some(Policy {
            id,
            effect,
            allowed_tools,
            allowed_resources,
            allowed_prompts,
            allowed_methods,
            data_sensitivity,
            priority,
            agent_match,
            principal_match,
            intent_match,
            parameter_constraints,
        })
    }

    /// Reports tools of upstreams that do not exist: a refusal that applies to nothing is a hole.
    fn check_upstreams(&mut self, table: &Table<'_>, effect: Effect) {
        let Some(known) = self.limits.upstreams else { return };
        let Some(DeValue::Array(items)) = get(table, "allowed_tools").map(Spanned::get_ref) else {
            return;
        };
        for item in items {
            let DeValue::String(text) = item.get_ref() else { continue };
            let Some(name) = Entry::of(text).upstream else { continue };
            if known.iter().any(|known| **known == *name) {
                continue;
            }
            let message = format!("`{text}` in `allowed_tools`: {}", unknown_upstream(text, known));
            let at = item.span().start;
            match effect {
                Effect::Allow => self.warn(at, message + "; until then it allows nothing"),
                Effect::Escalate | Effect::Deny => self.fail(at, message),
            }
        }
    }

    fn id(&mut self, table: &Table<'_>) -> Option<Arc<str>> {
        let id = self.needed(table, "id")?;
        let (line, _) = self.lines.locate(id.at);
        let here = format!("{}:{line}", self.source.name);
        if let Some(first) = self.ids.get(id.value) {
            let message = format!("`id` `{}` was given before, at {first}", id.value);
            self.fail(id.at, message);
            return None;
        }
        self.ids.insert(id.value.to_owned(), here);
        Some(id.value.into())
    }

    fn effect(&mut self, table: &Table<'_>) -> Option<Effect> {
        let effect = self.needed(table, "effect")?;
        match effect.value {
            "allow" => Some(Effect::Allow),
            "deny" => Some(Effect::Deny),
            "escalate" => Some(Effect::Escalate),
            other => {
                let message =
                    format!("unknown `effect` `{other}`: expected allow, deny or escalate");
                self.fail(effect.at, message);
                None
            }
        }
    }

    fn priority(&mut self, table: &Table<'_>) -> u32 {
        let Some(value) = get(table, "priority") else { return 0 };
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(value, "priority", "an integer");
            return 0;
        };
        let priority = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
        priority.filter(|priority| *priority <= PRIORITY_MAX).unwrap_or_else(|| {
            let message = format!("`priority` must lie between 0 and {PRIORITY_MAX}");
            self.fail(value.span().start, message);
            0
        })
    }

    fn agent(&mut self, table: &Table<'_>) -> AgentMatch {
        let Some(table) = self.table(table, "agent_match", AGENT_KEYS) else {
            return AgentMatch::default();
        };
        let agent_id = self.string(&table, "agent_id").and_then(|id| {
            let parsed = AgentId::parse(id.value);
            if parsed.is_none() {
                self.fail(id.at, "`agent_id` must be a UUID of 36 characters");
            }
            parsed
        });
        let trust_level = self.word(&table, "trust_level");
        AgentMatch { agent_id, trust_level, capabilities: self.texts(&table, "capabilities") }
    }

    fn principal(&mut self, table: &Table<'_>) -> PrincipalMatch {
        let Some(table) = self.table(table, "principal_match", PRINCIPAL_KEYS) else {
            return PrincipalMatch::default();
        };
        PrincipalMatch {
            sub: self.string(&table, "sub").map(|sub| sub.value.to_owned()),
            groups: self.texts(&table, "groups"),
            scopes: self.texts(&table, "scopes"),
        }
    }

    fn intent(&mut self, table: &Table<'_>) -> IntentMatch {
        let Some(table) = self.table(table, "intent_match", INTENT_KEYS) else {
            return IntentMatch::default();
        };
        let keywords = self.parsed(&table, "keywords", |text| {
            Phrase::parse(text).ok_or("must hold a word (letters or digits)")
        });
        let regex = self.string(&table, "regex").and_then(|text| {
            let built = self.regexes.anywhere(text.value);
            built.map_err(|why| self.fail(text.at, format!("`regex` {why}"))).ok()
        });
        IntentMatch { keywords, regex }
    }

    /// Reports the keys of a table that mean nothing.
    fn only(&mut self, table: &Table<'_>, known: &[&str]) {
        for (key, _) in table.value {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let hint = match nearest(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here are `{}`", known.join("`, `")),
            };
            self.fail(key.span().start, format!("unknown key `{name}`; {hint}"));
        }
    }

    fn wrong_type(&mut self, value: &Spanned<DeValue<'_>>, key: &str, wanted: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.fail(value.span().start, format!("`{key}` must be {wanted}, not {found}"));
    }

    fn string<'t>(&mut self, table: &Table<'t>, key: &str) -> Option<At<&'t str>> {
        let value = get(table, key)?;
        self.text(value, key, "a string")
    }

    /// Reads a required string.
    fn needed<'t>(&mut self, table: &Table<'t>, key: &str) -> Option<At<&'t str>> {
        if get(table, key).is_none() {
            self.fail(table.at, format!("`{key}` is missing"));
        }
        self.string(table, key)
    }

    fn text<'t>(
        &mut self,
        value: &'t Spanned<DeValue<'_>>,
        key: &str,
        wanted: &str,
    ) -> Option<At<&'t str>> {
        match value.get_ref() {
            DeValue::String(text) if text.is_empty() => {
                self.fail(value.span().start, format!("`{key}` must not be empty"));
                None
            }
            DeValue::String(text) => Some(At { value: text, at: value.span().start }),
            _ => {
                self.wrong_type(value, key, wanted);
                None
            }
        }
    }

    /// Reads a string that `T` can be parsed from.
    fn word<T: std::str::FromStr<Err = &'static str>>(
        &mut self,
        table: &Table<'_>,
        key: &str,
    ) -> Option<T> {
        let text = self.string(table, key)?;
        text.value.parse().map_err(|why| self.fail(text.at, format!("`{key}`: {why}"))).ok()
    }

    fn boolean(&mut self, table: &Table<'_>, key: &str) -> Option<bool> {
        let value = get(table, key)?;
        let DeValue::Boolean(value) = value.get_ref() else {
            self.wrong_type(value, key, "true or false");
            return None;
        };
        Some(*value)
    }

    fn array<'t>(&mut self, table: &Table<'t>, key: &str) -> Option<At<&'t DeArray<'t>>> {
        let value = get(table, key)?;
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(value, key, "a list");
            return None;
        };
        Some(At { value: items, at: value.span().start })
    }

    fn texts(&mut self, table: &Table<'_>, key: &str) -> Vec<String> {
        self.parsed(table, key, |text| Ok::<_, Infallible>(text.to_owned()))
    }

    /// A list of strings, each read by `parse`; what is listed twice counts once.
    fn parsed<T: PartialEq, E: fmt::Display>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let Some(items) = self.array(table, key) else { return Vec::new() };
        let mut parsed = Vec::new();
        for item in items.value {
            let Some(text) = self.text(item, key, "a list of strings") else { continue };
            match parse(text.value) {
                Ok(value) if parsed.contains(&value) => {}
                Ok(value) => parsed.push(value),
                Err(why) => self.fail(text.at, format!("`{}` in `{key}` {why}", text.value)),
            }
        }
        parsed
    }

    fn table<'t>(&mut self, table: &Table<'t>, key: &str, known: &[&str]) -> Option<Table<'t>> {
        let value = get(table, key)?;
        let DeValue::Table(inner) = value.get_ref() else {
            self.wrong_type(value, key, "a table");
            return None;
        };
        let inner = At { value: inner, at: value.span().start };
        self.only(&inner, known);
        Some(inner)
    }

    fn tables<'t>(&mut self, table: &Table<'t>, key: &str) -> Vec<Table<'t>> {
        let Some(items) = get(table, key) else { return Vec::new() };
        let DeValue::Array(array) = items.get_ref() else {
            self.wrong_type(items, key, &format!("a list of tables (`[[…{key}]]`)"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in array {
            match item.get_ref() {
                DeValue::Table(inner) => {
                    tables.push(At { value: inner, at: item.span().start });
                }
                _ => self.wrong_type(item, key, "a list of tables"),
            }
        }
        tables
    }
}

fn get<'t>(table: &Table<'t>, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
    table.value.get(key)
}

/// A number by its text; none if the value is something else.
fn number(value: &DeValue<'_>) -> Option<Result<Bound, &'static str>> {
    match value {
        DeValue::Integer(value) => Some(Bound::from_integer(value.as_str(), value.radix())),
        DeValue::Float(value) => Some(Bound::from_float(value.as_str())),
        DeValue::String(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => None,
    }
}
