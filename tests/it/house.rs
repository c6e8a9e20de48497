//! The house's order, read from its sources: who may enter which room, that no imports go in a circle, and
//! that the rooms that decide do nothing else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

mod circles;
mod documents;
mod source;

use source::{Source, sources};

/// Rooms that decide, in order: each may use those before it and none behind it.
const PURE: &[&str] = &[
    "saturate",
    "json",
    "firewall",
    "mcp",
    "decode",
    "credentials",
    "audit::redact",
    "audit::chain",
    "audit::record",
];
const GROUND: &[&str] =
    &["clock", "config", "holder", "http_client", "metrics", "telemetry", "traces"];
/// Rooms with state: not each other, but for the store.
const KEEPING: &[&str] = &[
    "identity",
    "rulebook",
    "store",
    "sessions",
    "registry",
    "audit",
    "secrets",
    "approvals",
    "continuations",
    "freezer",
    "recent",
];

/// Returns the rooms that a room may import, besides itself; none for rooms that may enter all.
fn may_enter(room: &str) -> Option<Vec<&'static str>> {
    let all = |lists: &[&[&'static str]]| Some(lists.concat());
    match room {
        _ if PURE.contains(&room) => {
            Some(PURE.iter().copied().take_while(|&before| before != room).collect())
        }
        _ if GROUND.contains(&room) => all(&[PURE, GROUND]),
        "sessions" | "registry" | "freezer" | "approvals" | "continuations" => {
            all(&[PURE, GROUND, &["store"]])
        }
        _ if KEEPING.contains(&room) => all(&[PURE, GROUND]),
        "gate" | "reload" => all(&[PURE, GROUND, KEEPING]),
        "proxy" => all(&[
            &["gate", "saturate", "json", "firewall", "mcp", "credentials", "decode"],
            &["config", "metrics", "clock"],
        ]),
        "admin" => all(&[PURE, GROUND, KEEPING, &["gate", "reload"]]),
        "console" => all(&[PURE, GROUND, KEEPING, &["gate", "admin"]]),
        "app" | "cli" | "demo" | "main" | "lib" | "testkit" => None,
        unknown => panic!("`{unknown}` has no place in the table of layers: give it one"),
    }
}

/// The room that a module path belongs to.
fn room(path: &[String]) -> String {
    let two = path.iter().take(2).cloned().collect::<Vec<_>>().join("::");
    if PURE.contains(&two.as_str()) { two } else { path.first().cloned().unwrap_or_default() }
}

/// Every import that the table forbids, as `file:line: from -> to`.
fn forbidden(sources: &[Source]) -> Vec<String> {
    let mut found = BTreeSet::new();
    for source in sources {
        let from = room(&source.module);
        let Some(allowed) = may_enter(&from) else { continue };
        for (line, path) in source.imports() {
            let to = room(&path);
            // `crate::X` in a macro or a doc link may name no module at all.
            let known = sources.iter().any(|source| room(&source.module) == to);
            if known && to != from && to != "lib" && !allowed.contains(&to.as_str()) {
                found.insert(format!("{}:{line}: {from} -> {}", source.file, path.join("::")));
            }
        }
    }
    found.into_iter().collect()
}

const IMPURE: &[&str] = &[
    "async",
    "await",
    "tokio",
    "Instant",
    "SystemTime",
    "Mutex",
    "RwLock",
    "tracing",
    "println",
    "eprintln",
];
const IMPURE_PATHS: &[&str] = &["std::fs", "std::net", "std::env", "std::process", "std::thread"];

/// Every word of doing in the rooms that decide.
fn impure(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| PURE.contains(&room(&source.module).as_str())) {
        let words = source.words().into_iter().filter(|(_, word)| IMPURE.contains(&word.as_str()));
        let paths = source.paths_from(&["std"]).into_iter();
        let paths = paths.map(|(line, path)| (line, path.join("::")));
        let paths = paths.filter(|(_, path)| IMPURE_PATHS.iter().any(|hit| path.starts_with(hit)));
        let hits = words.chain(paths);
        found.extend(hits.map(|(line, hit)| format!("{}:{line}: `{hit}`", source.file)));
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn nobody_enters_a_room_that_is_closed_to_them() {
    let sources = sources(&root());
    assert!(sources.len() > 100, "{}", sources.len());
    let found = forbidden(&sources);
    assert!(found.is_empty(), "{} forbidden imports:\n{}", found.len(), found.join("\n"));
}

#[test]
fn nobody_is_imported_by_what_they_import() {
    let found = circles::circles(&sources(&root()));
    assert!(found.is_empty(), "{} imports on circles:\n{}", found.len(), found.join("\n"));
}

#[test]
fn what_decides_does_nothing_else() {
    let found = impure(&sources(&root()));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_reader_of_sources_finds_what_it_looks_for() {
    let check = |file: &str, text: &str, expected: &[&str]| {
        let others = [
            "gate.rs",
            "store.rs",
            "proxy.rs",
            "json.rs",
            "firewall.rs",
            "mcp.rs",
            "audit.rs",
            "audit/chain.rs",
        ];
        let mut all: Vec<_> = others.iter().map(|other| Source::read(other, "")).collect();
        all.push(Source::read(file, text));
        let found: Vec<_> = forbidden(&all)
            .into_iter()
            .map(|hit| hit.split_once(": ").unwrap().1.to_owned())
            .collect();
        assert_eq!(found, expected, "{file}: {text}");
    };
    check("proxy/reply.rs", "use crate::store::Store;", &["proxy -> store::Store"]);
    check(
        "proxy/reply.rs",
        "use crate::{gate::Gate, audit::{self, Audit}};",
        &["proxy -> audit", "proxy -> audit::Audit"],
    );
    check("proxy/reply.rs", "use super::super::audit::Audit;", &["proxy -> audit::Audit"]);
    check("proxy/reply.rs", "fn f() -> crate::audit::Audit {}", &["proxy -> audit::Audit"]);
    check("proxy/reply.rs", "use super::intake; use crate::gate::Gate;", &[]);
    check(
        "proxy/reply.rs",
        "// crate::store\nconst A: &str = \"crate::store\"; /* crate::store */",
        &[],
    );
    check("proxy/reply.rs", "#[cfg(test)]\nmod tests {\n use crate::store::Store; { }\n}", &[]);
    check("proxy/reply.rs", "#[cfg(test)]\nuse crate::store::Store;\nuse crate::gate::Gate;", &[]);
    check("proxy/reply/tests.rs", "use crate::store::Store;", &[]);
    check("audit/chain.rs", "use crate::json; use crate::firewall::admit;", &[]);
    check(
        "firewall/admit.rs",
        "use crate::json; use crate::audit::chain::Link;",
        &["firewall -> audit::chain::Link"],
    );
    check("json.rs", "use crate::firewall::admit;", &["json -> firewall::admit"]);
    check("firewall/admit.rs", "use crate::audit::Audit;", &["firewall -> audit::Audit"]);
    check("audit/chain.rs", "use super::Audit;", &["audit::chain -> audit::Audit"]);
    check("store.rs", "use crate::gate;", &["store -> gate"]);
    let impure_words = |text: &str| impure(&[Source::read("firewall/x.rs", text)]).len();
    assert_eq!(impure_words("async fn f() {}"), 1);
    assert_eq!(impure_words("use std::sync::Mutex; use std::fs::File;"), 2);
    assert_eq!(impure_words("use std::{fmt, net::{IpAddr, TcpStream}, env as surroundings};"), 3);
    assert_eq!(impure_words("// async\nlet c = '\"'; let s = r#\"Mutex\"#; // tokio"), 0);
    assert_eq!(impure_words("#[cfg(test)]\nmod tests { async fn f() {} }"), 0);
}

/// First words that make a doc comment a clause, which a reader has to complete first.
const CLAUSES: [&str; 21] = [
    "What ",
    "Whether ",
    "Who ",
    "How ",
    "Where ",
    "Which ",
    "Why ",
    "When ",
    "So many ",
    "The same ",
    "Likewise",
    "It ",
    "Of ",
    "Those ",
    "That ",
    "Whose ",
    "Whom ",
    "Whatever ",
    "However ",
    "For how long ",
    "And ",
];

#[test]
fn doc_comments_begin_with_the_thing_they_name() {
    let mut found = Vec::new();
    let mut folders = vec![root(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let mut before = false;
                for line in text.lines().map(str::trim_start) {
                    let doc = line.strip_prefix("/// ").or_else(|| line.strip_prefix("//! "));
                    if let Some(doc) = doc.filter(|_| !before)
                        && CLAUSES.iter().any(|clause| doc.starts_with(clause))
                    {
                        found.push(format!("{}: {doc}", path.display()));
                    }
                    before = line.starts_with("///") || line.starts_with("//!");
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn each_test_that_the_guide_names_is_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let known = documents::names(&[&root.join("src"), &root.join("tests/it")]);
    assert!(known.len() > 5_000, "{}", known.len());
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    let (guide, between) = (read("tests/README.md"), read("tests/clients/between.py"));
    let wrong = documents::wrong_names(&guide, root, &known, &between);
    assert!(wrong.is_empty(), "tests/README.md, {}", wrong.join("\n"));

    let row =
        "| a claim | `json::tests::no_such`; `…::nor_this`; `between.py` `nobody`; `src/not.rs` |";
    let wrong = documents::wrong_names(row, root, &known, &between);
    assert_eq!(wrong.len(), 4, "{wrong:?}");
}
