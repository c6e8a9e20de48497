//! Paths into the arguments of a call: `options.limit`, `recipients[]`, `files[].path`, and
//! `@input.<key>.content.<path>` into what a client answered to a question of the server.

use std::fmt;

use super::Asked;
use crate::json::{Kind, Likeness, Value};

/// A dotted path. `[]` behind a name enters a list, and lists in it.
#[derive(Clone, Debug)]
pub(super) struct Path {
    document: Document,
    segments: Box<[Segment]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Document {
    Arguments,
    /// The client's answers, by key.
    Inputs,
}

#[derive(Clone, Debug)]
struct Segment {
    name: Box<str>,
    is_list: bool,
}

/// The end of a path, or why it was not reached.
#[derive(Clone, Copy, Debug)]
pub(super) enum End<'d> {
    Value(Value<'d>),
    Nothing,
    /// A list, a null or a plain value where an object or list should be, or a key that is the wanted
    /// one but for its case or form.
    Obstacle,
}

const INPUTS: &str = "@input";

impl Path {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut segments: Vec<Segment> =
            text.split('.').map(Segment::parse).collect::<Result<_, _>>()?;
        let document = match segments.first() {
            Some(first) if &*first.name == INPUTS => {
                let content = segments.get(2).is_some_and(|segment| &*segment.name == "content");
                let plain = segments.iter().take(3).all(|segment| !segment.is_list);
                if segments.len() < 4 || !content || !plain {
                    return Err(format!("must be `{INPUTS}.<key>.content.<path>`"));
                }
                segments.remove(0);
                Document::Inputs
            }
            Some(first) if first.name.starts_with('@') => {
                return Err(format!("may begin with `@` only as `{INPUTS}.<key>.content.<path>`"));
            }
            Some(_) | None => Document::Arguments,
        };
        Ok(Self { document, segments: segments.into() })
    }

    /// True if the path leads into what a client answered.
    pub(super) fn is_of_inputs(&self) -> bool {
        self.document == Document::Inputs
    }

    /// True if the path leads to any number of values.
    pub(super) fn enters_list(&self) -> bool {
        self.segments.iter().any(|segment| segment.is_list)
    }

    /// Follows a path that enters no list, or another one up to its first list.
    pub(super) fn end<'d>(&self, asked: &Asked<'d>) -> End<'d> {
        let root = match self.document {
            Document::Arguments => asked.arguments,
            Document::Inputs => asked.inputs,
        };
        let Some(root) = root else { return End::Nothing };
        let to_list = self.segments.iter().position(|segment| segment.is_list);
        let names = to_list.map_or(self.segments.len(), |at| at.saturating_add(1));
        follow(root, self.segments.get(..names).unwrap_or_default())
    }

    /// Shows `visit` the ends of the path behind its first list, one for each item.
    pub(super) fn each<'d>(&self, list: Value<'d>, visit: &mut dyn FnMut(End<'d>)) {
        let to_list = self.segments.iter().position(|segment| segment.is_list);
        let behind = to_list.map_or(self.segments.len(), |at| at.saturating_add(1));
        items(list, self.segments.get(behind..).unwrap_or_default(), visit);
    }
}

/// Enters a list and the lists in it.
fn items<'d>(list: Value<'d>, rest: &[Segment], visit: &mut dyn FnMut(End<'d>)) {
    if list.kind() != Kind::Array {
        return visit(End::Obstacle);
    }
    for item in list.items() {
        if item.kind() == Kind::Array {
            items(item, rest, visit);
            continue;
        }
        let to_list = rest.iter().position(|segment| segment.is_list);
        match to_list.map(|at| rest.split_at(at.saturating_add(1))) {
            None => visit(follow(item, rest)),
            Some((names, rest)) => match follow(item, names) {
                End::Value(inner) => items(inner, rest, visit),
                end @ (End::Nothing | End::Obstacle) => visit(end),
            },
        }
    }
}

fn follow<'d>(mut value: Value<'d>, names: &[Segment]) -> End<'d> {
    for Segment { name, .. } in names {
        if value.kind() != Kind::Object {
            return End::Obstacle;
        }
        let mut found = None;
        for entry in value.entries() {
            match entry.likeness(name) {
                Likeness::Same => found = Some(entry.value),
                Likeness::Disguised => return End::Obstacle,
                Likeness::Other => {}
            }
        }
        match found {
            Some(inner) => value = inner,
            None => return End::Nothing,
        }
    }
    End::Value(value)
}

impl Segment {
    fn parse(text: &str) -> Result<Self, String> {
        let (name, is_list) = match text.strip_suffix("[]") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.is_empty() {
            return Err("must be names joined by single dots".to_owned());
        }
        if name.contains(['[', ']', '*']) {
            return Err("enters a list by `[]` behind its name, such as `files[].path`".to_owned());
        }
        let odd = |c: char| c.is_control() || matches!(c, '"' | '\'' | '\\');
        if name == "$" || name.starts_with('/') || name.trim() != name || name.contains(odd) {
            return Err(
                "must be names as they stand in the arguments, joined by single dots".to_owned()
            );
        }
        Ok(Self { name: name.into(), is_list })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.document == Document::Inputs {
            write!(f, "{INPUTS}.")?;
        }
        for (n, Segment { name, is_list }) in self.segments.iter().enumerate() {
            let (dot, list) = (if n > 0 { "." } else { "" }, if *is_list { "[]" } else { "" });
            write!(f, "{dot}{name}{list}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_names_joined_by_single_dots() {
        for good in [
            "a",
            "a.b",
            "a[]",
            "files[].path",
            "a[].b[].c",
            "@input.k.content.a[].b",
            "x-y.z_1",
            "$ref",
        ] {
            assert_eq!(Path::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            ".",
            "a..b",
            ".a",
            "a.",
            "[]",
            "[].a",
            "a[*]",
            "a[0]",
            "a[",
            "a]",
            "a[][]",
            "*",
            "a.*",
            "$",
            "$.a",
            "/a/b",
            "a .b",
            "'a'",
            "a\\b",
            "@input",
            "@input.k",
            "@input.k.content",
            "@input.k.other.a",
            "@input.k[].content.a",
            "@other.a",
        ] {
            assert!(Path::parse(bad).is_err(), "{bad}");
        }
    }
}
