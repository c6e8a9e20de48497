//! Circles: modules of one parent that import each other, whatever the way round.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Source;

/// Imports between the children of one module, each with a place where it is made.
type Arrows<'s> = BTreeMap<(&'s str, &'s str), String>;

/// Finds the imports that lie on a circle, as `file:line: parent: from -> to`.
pub(crate) fn circles(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for (parent, arrows) in &arrows(sources) {
        for ((from, to), place) in arrows {
            if reaches(arrows, to, from) {
                found.push(format!("{place}: {}: {from} -> {to}", parent.join("::")));
            }
        }
    }
    found
}

/// Collects the imports by the parent that importer and imported have in common. A module and what is
/// within it belong together: arrows between them are none.
fn arrows(sources: &[Source]) -> BTreeMap<&[String], Arrows<'_>> {
    let modules: BTreeSet<&[String]> = sources.iter().map(|one| one.module.as_slice()).collect();
    let mut found: BTreeMap<_, Arrows<'_>> = BTreeMap::new();
    for source in sources {
        for (line, path) in source.imports() {
            let known = (1..=path.len()).rev().find_map(|length| modules.get(&path[..length]));
            let Some(to) = known.copied() else { continue };
            let from = source.module.as_slice();
            let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
            if let (Some(one), Some(other)) = (from.get(common), to.get(common)) {
                let place = format!("{}:{line}", source.file);
                found.entry(&from[..common]).or_default().entry((one, other)).or_insert(place);
            }
        }
    }
    found
}

fn reaches(arrows: &Arrows<'_>, from: &str, wanted: &str) -> bool {
    let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
    while let Some(here) = next.pop() {
        if here == wanted {
            return true;
        }
        let onward = arrows.keys().filter(|(start, _)| *start == here).map(|(_, end)| *end);
        next.extend(onward.filter(|end| seen.insert(end)));
    }
    false
}

#[test]
fn circles_are_found_at_any_depth_and_length() {
    let check = |files: &[(&str, &str)], expected: &[&str]| {
        let sources: Vec<_> = files.iter().map(|(file, text)| Source::read(file, text)).collect();
        assert_eq!(circles(&sources), expected, "{files:?}");
    };
    check(&[("a.rs", "use crate::b::X;"), ("b.rs", "use crate::c::X;"), ("c.rs", "")], &[]);
    check(
        &[
            ("a.rs", "use crate::b::X;"),
            ("b.rs", "\nuse crate::c::{self, X};"),
            ("c/d.rs", "fn f() { super::super::a::g() }"),
            ("c.rs", ""),
        ],
        &["a.rs:1: : a -> b", "b.rs:2: : b -> c", "c/d.rs:1: : c -> a"],
    );
    // Between the files of one room, by whatever path.
    check(
        &[
            ("r.rs", ""),
            ("r/a.rs", "use super::b;"),
            ("r/b/deep.rs", "use crate::r::a::X;"),
            ("r/b.rs", ""),
        ],
        &["r/a.rs:1: r: a -> b", "r/b/deep.rs:1: r: b -> a"],
    );
    // A module and its own parts.
    check(&[("r.rs", "use crate::r::a::X;"), ("r/a.rs", "use super::Y;")], &[]);
    // What only tests import.
    check(&[("a.rs", "use crate::b::X;"), ("b.rs", "#[cfg(test)]\nuse crate::a::X;")], &[]);
}
