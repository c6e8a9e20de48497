//! `[[tools]]`: the operations of tools whose names do not show them.

use super::check::Section;
use super::file::{Node, Origin, Table, Value};
use super::{ConfigError, Tool};
use crate::firewall::call::{Entry, unknown_upstream};
use crate::firewall::checks::drift::Operation;

/// Most tools.
const MOST: usize = 4_096;

const MAX_NAME_BYTES: usize = 256;

/// Reads all tables; returns the keys that they have as well. `upstreams` are the names of all upstreams.
pub(super) fn read(
    root: &mut Table,
    upstreams: &[Box<str>],
    problems: &mut Vec<ConfigError>,
) -> (Vec<Tool>, Vec<&'static str>) {
    let mut known = vec!["name", "operation"];
    let mut tools: Vec<Tool> = Vec::new();
    let Some(Node { value, at }) = root.remove("tools") else { return (tools, known) };
    let mut complain = |key: String, at: Origin, problem: &str| {
        problems.push(ConfigError { key, at: Some(at), problem: problem.to_owned() });
    };
    let Value::List(items) = value else {
        complain("tools".to_owned(), at, "expected tables `[[tools]]`");
        return (tools, known);
    };
    if items.len() > MOST {
        complain("tools".to_owned(), at, "has more than 4096 tables");
        return (tools, known);
    }
    for (n, item) in items.into_iter().enumerate() {
        let Value::Table(table) = item.value else {
            let key = format!("tools[{n}]");
            let problem = "expected a table `[[tools]]`".to_owned();
            problems.push(ConfigError { key, at: Some(item.at), problem });
            continue;
        };
        let section = Section::new(format!("tools[{n}]"), table, problems);
        let (tool, keys) = tool(section, upstreams, &tools);
        known = keys;
        tools.extend(tool);
    }
    (tools, known)
}

fn tool(
    mut s: Section<'_>,
    upstreams: &[Box<str>],
    before: &[Tool],
) -> (Option<Tool>, Vec<&'static str>) {
    let (name_at, operation_at) = (s.origin("name"), s.origin("operation"));
    let name = s.parsed("name", |text| name(text, upstreams).map(|()| text.to_owned()));
    let operation = s.parsed("operation", |text| {
        Operation::parse(text)
            .ok_or_else(|| "is not `read`, `write`, `delete` or `admin`".to_owned())
    });
    if name.is_none() && name_at.is_none() {
        s.problem("name", None, "is missing; give a tool's exact name");
    }
    if operation.is_none() && operation_at.is_none() {
        s.problem("operation", None, "is missing; give `read`, `write`, `delete` or `admin`");
    }
    if name.as_ref().is_some_and(|name| before.iter().any(|tool| tool.name == *name)) {
        s.problem("name", name_at, "is given to two tables; names must differ");
    }
    let tool = name.zip(operation).map(|(name, operation)| Tool { name, operation });
    (tool, s.finish())
}

fn name(text: &str, upstreams: &[Box<str>]) -> Result<(), String> {
    let entry = Entry::of(text);
    if entry.tool.is_empty() || text.len() > MAX_NAME_BYTES || entry.tool.contains('*') {
        return Err("is not an exact name of 1 to 256 bytes".to_owned());
    }
    if entry.upstream.is_some_and(|name| !upstreams.iter().any(|known| **known == *name)) {
        return Err(format!("names no upstream: {}", unknown_upstream(text, upstreams)));
    }
    Ok(())
}
