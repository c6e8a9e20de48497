//! From TOML to one constraint.

use toml::Spanned;
use toml::de::DeValue;

use super::{At, Reader, Table, get, number};
use crate::firewall::policy::bound::Bound;
use crate::firewall::policy::constraint::{Constraint, Items, Scalar};
use crate::firewall::policy::lint;
use crate::firewall::policy::matcher::{Domains, Folders, Hosts, Ids, Matcher, Meaning};
use crate::firewall::policy::model::Effect;
use crate::firewall::policy::path::Path;
use crate::firewall::policy::regexes::Pattern;

pub(in super::super) const CONSTRAINT_KEYS: &[&str] = &[
    "key",
    "required",
    "min_value",
    "max_value",
    "allowed_values",
    "max_length",
    "min_items",
    "max_items",
    "regex",
    "path_under",
    "not_path_under",
    "host_in",
    "not_host_in",
    "schemes",
    "ports",
    "domain_in",
    "not_domain_in",
    "id_in",
    "not_id_in",
    "from_intent",
];

/// Keys of which a constraint has at most one.
const MATCHER_KEYS: &[&str] = &[
    "regex",
    "path_under",
    "not_path_under",
    "host_in",
    "not_host_in",
    "domain_in",
    "not_domain_in",
    "id_in",
    "not_id_in",
    "from_intent",
];

impl Reader<'_, '_> {
    pub(super) fn constraint(
        &mut self,
        table: &Table<'_>,
        effect: Option<Effect>,
    ) -> Option<Constraint> {
        self.only(table, CONSTRAINT_KEYS);
        let key = self.needed(table, "key").and_then(|key| {
            Path::parse(key.value).map_err(|why| self.fail(key.at, format!("`key` {why}"))).ok()
        });
        let min = self.number(table, "min_value");
        let max = self.number(table, "max_value");
        if let (Some(min), Some(max)) = (&min, &max)
            && min.value.compare_to(&max.value).is_gt()
        {
            let message = format!("`min_value` {} is above `max_value` {}", min.value, max.value);
            self.fail(min.at, message);
        }
        let allowed_values = self.scalars(table, "allowed_values");
        let max_length = self.size(table, "max_length").map(|most| most.value);
        let items = self.items(table, key.as_ref());
        self.one_matcher(table);
        let regex = self.regex(table, effect);
        let matcher = self.matcher(table);
        let required = self.boolean(table, "required").unwrap_or(true);
        Some(Constraint {
            key: key?,
            min_value: min.map(|min| min.value),
            max_value: max.map(|max| max.value),
            allowed_values,
            max_length,
            regex,
            matcher,
            items,
            required,
            shared_key: None,
            shared: None,
        })
    }

    fn regex(&mut self, table: &Table<'_>, effect: Option<Effect>) -> Option<Pattern> {
        let text = self.string(table, "regex")?;
        match self.regexes.whole(text.value) {
            Ok(pattern) => {
                if effect == Some(Effect::Allow)
                    && let Some(advice) = lint::advice(text.value, |value| pattern.is_match(value))
                {
                    self.warn(text.at, format!("`regex` {advice}"));
                }
                Some(pattern)
            }
            Err(why) => {
                self.fail(text.at, format!("`regex` {why}"));
                None
            }
        }
    }

    fn one_matcher(&mut self, table: &Table<'_>) {
        let mut given = MATCHER_KEYS.iter().filter_map(|key| Some((key, get(table, key)?)));
        let Some((first, _)) = given.next() else { return };
        if let Some((second, value)) = given.next() {
            let message = format!(
                "`{second}` cannot be given with `{first}`: one of `{}` for each constraint",
                MATCHER_KEYS.join("`, `")
            );
            self.fail(value.span().start, message);
        }
    }

    fn matcher(&mut self, table: &Table<'_>) -> Option<Matcher> {
        let schemes = self.schemes(table);
        let ports = self.ports(table);
        let mut found = None;
        for (key, negated) in [("path_under", false), ("not_path_under", true)] {
            let folders = self.meaning(table, key, Folders::parse).map(Meaning::PathUnder);
            found = found.or(folders.map(|meaning| Matcher { meaning, negated }));
        }
        let mut is_host = false;
        for (key, negated) in [("host_in", false), ("not_host_in", true)] {
            is_host |= get(table, key).is_some();
            if let Some(mut hosts) = self.meaning(table, key, Hosts::parse) {
                hosts.limit(schemes.clone(), ports.clone());
                found = found.or(Some(Matcher { meaning: Meaning::HostIn(hosts), negated }));
            }
        }
        for (key, negated) in [("domain_in", false), ("not_domain_in", true)] {
            let domains = self.meaning(table, key, Domains::parse).map(Meaning::DomainIn);
            found = found.or(domains.map(|meaning| Matcher { meaning, negated }));
        }
        for (key, negated) in [("id_in", false), ("not_id_in", true)] {
            let ids = self.meaning(table, key, Ids::parse).map(Meaning::IdIn);
            found = found.or(ids.map(|meaning| Matcher { meaning, negated }));
        }
        for key in ["schemes", "ports"] {
            if let Some(value) = get(table, key).filter(|_| !is_host) {
                self.fail(value.span().start, format!("`{key}` needs `host_in` or `not_host_in`"));
            }
        }
        match self.boolean(table, "from_intent") {
            Some(true) => found.or(Some(Matcher { meaning: Meaning::FromIntent, negated: false })),
            Some(false) => {
                let at = get(table, "from_intent").map_or(table.at, |value| value.span().start);
                self.fail(at, "`from_intent` must be true, or left out");
                None
            }
            None => found,
        }
    }

    /// Constructor of a matcher from its list.
    fn meaning<T>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        parse: fn(&[&str]) -> Result<T, String>,
    ) -> Option<T> {
        let entries = self.one_or_more(table, key)?;
        let texts: Vec<&str> = entries.value.iter().map(String::as_str).collect();
        parse(&texts).map_err(|why| self.fail(entries.at, format!("`{key}`: {why}"))).ok()
    }

    /// One string, or a list of strings; identifiers may be integers.
    fn one_or_more(&mut self, table: &Table<'_>, key: &str) -> Option<At<Vec<String>>> {
        let value = get(table, key)?;
        let at = value.span().start;
        let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![value],
        };
        if items.is_empty() {
            self.fail(at, format!("`{key}` must list at least one value"));
            return None;
        }
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref() {
                DeValue::Integer(number) if key.ends_with("id_in") && number.radix() == 10 => {
                    texts.push(number.as_str().to_owned());
                }
                _ => texts
                    .push(self.text(item, key, "a string or a list of strings")?.value.to_owned()),
            }
        }
        Some(At { value: texts, at })
    }

    fn schemes(&mut self, table: &Table<'_>) -> Vec<String> {
        if get(table, "schemes").is_none() {
            return Vec::new();
        }
        let Some(entries) = self.one_or_more(table, "schemes") else { return Vec::new() };
        let fine = |scheme: &String| {
            scheme.starts_with(|c: char| c.is_ascii_lowercase())
                && scheme
                    .bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'))
        };
        if let Some(bad) = entries.value.iter().find(|scheme| !fine(scheme)) {
            let message = format!("`{bad}` in `schemes` must be a scheme such as `https`");
            self.fail(entries.at, message);
        }
        entries.value
    }

    fn ports(&mut self, table: &Table<'_>) -> Vec<u16> {
        let Some(items) = self.array(table, "ports") else { return Vec::new() };
        let mut ports = Vec::new();
        for item in items.value {
            let port = match item.get_ref() {
                DeValue::Integer(number) => {
                    u16::from_str_radix(number.as_str(), number.radix()).ok()
                }
                _ => None,
            };
            match port.filter(|port| *port > 0) {
                Some(port) => ports.push(port),
                None => self.fail(item.span().start, "`ports` must list ports, from 1 to 65535"),
            }
        }
        if items.value.is_empty() {
            self.fail(items.at, "`ports` must list at least one value");
        }
        ports
    }

    fn items(&mut self, table: &Table<'_>, key: Option<&Path>) -> Items {
        let mut items = Items::default();
        let (min, max) = (self.size(table, "min_items"), self.size(table, "max_items"));
        for (name, given) in [("min_items", &min), ("max_items", &max)] {
            if let (Some(given), Some(key)) = (given, key)
                && !key.enters_list()
            {
                let message =
                    format!("`{name}` needs a `key` that enters a list, such as `{key}[]`");
                self.fail(given.at, message);
            }
        }
        if let Some(max) = max {
            items.max = max.value;
            items.min = items.min.min(max.value);
        }
        if let Some(min) = min {
            items.min = min.value;
            if min.value > items.max {
                self.fail(
                    min.at,
                    format!("`min_items` {} is above `max_items` {}", min.value, items.max),
                );
            }
        }
        items
    }

    /// A number of things.
    fn size(&mut self, table: &Table<'_>, key: &str) -> Option<At<usize>> {
        let value = get(table, key)?;
        let at = value.span().start;
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(value, key, "an integer");
            return None;
        };
        let size = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
        let Some(value) = size.and_then(|size| usize::try_from(size).ok()) else {
            self.fail(at, format!("`{key}` must lie between 0 and {}", u32::MAX));
            return None;
        };
        Some(At { value, at })
    }

    fn number(&mut self, table: &Table<'_>, key: &str) -> Option<At<Bound>> {
        let value = get(table, key)?;
        let at = value.span().start;
        match number(value.get_ref()) {
            Some(Ok(value)) => return Some(At { value, at }),
            Some(Err(why)) => self.fail(at, format!("`{key}` {why}")),
            None => self.wrong_type(value, key, "a number"),
        }
        None
    }

    fn scalars(&mut self, table: &Table<'_>, key: &str) -> Vec<Scalar> {
        let Some(items) = self.array(table, key) else { return Vec::new() };
        if items.value.is_empty() {
            self.fail(items.at, format!("`{key}` must list at least one value"));
        }
        let mut scalars = Vec::new();
        for item in items.value {
            match (item.get_ref(), number(item.get_ref())) {
                (DeValue::String(text), _) => scalars.push(Scalar::Text(text.to_string())),
                (DeValue::Boolean(value), _) => scalars.push(Scalar::Boolean(*value)),
                (_, Some(Ok(value))) => scalars.push(Scalar::Number(value)),
                (_, Some(Err(why))) => {
                    self.fail(item.span().start, format!("a value of `{key}` {why}"));
                }
                (_, None) => {
                    self.wrong_type(item, key, "a list of strings, numbers and booleans");
                }
            }
        }
        scalars
    }
}
