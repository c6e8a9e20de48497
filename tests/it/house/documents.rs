//! The tests that `tests/README.md` names: each must be one.

use std::collections::HashSet;
use std::path::Path;

/// Every test, function and module below a folder of sources, as `room::file::name`.
pub(crate) fn names(folders: &[&Path]) -> HashSet<String> {
    let mut found = HashSet::new();
    for folder in folders {
        collect(folder, folder, &mut found);
    }
    found
}

fn collect(root: &Path, folder: &Path, found: &mut HashSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(root).unwrap().with_extension("");
            let module = file.to_str().unwrap().replace('/', "::");
            found.extend(of_file(&module, &std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The module of a file, its inner modules and its functions; a law in a macro is one as well.
fn of_file(module: &str, text: &str) -> Vec<String> {
    let mut found = vec![module.to_owned()];
    // The inner modules around a line, with their depth of indentation.
    let mut inner: Vec<(usize, &str)> = Vec::new();
    for line in text.lines() {
        let code = line.trim_start();
        let depth = line.len() - code.len();
        if code == "}" {
            inner.retain(|(outer, _)| *outer < depth);
        }
        let code = ["pub(crate) ", "pub(super) ", "pub ", "async "]
            .iter()
            .fold(code, |code, word| code.strip_prefix(word).unwrap_or(code));
        let name = |rest: &'static str| {
            let name = code.strip_prefix(rest)?;
            Some(name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())
        };
        let path = inner.iter().map(|(_, name)| *name);
        let path = std::iter::once(module).chain(path).collect::<Vec<_>>().join("::");
        if let Some(name) = name("mod ").filter(|_| code.ends_with('{')) {
            found.push(format!("{path}::{name}"));
            inner.push((depth, name));
        } else if let Some(name) = name("fn ") {
            found.push(format!("{path}::{name}"));
        }
    }
    found
}

/// The names in backticks of a text's tables that lead nowhere, each with its line: files by their
/// path, tests by the end of theirs, and tests of `between.py` by its functions.
pub(crate) fn wrong_names(
    text: &str,
    root: &Path,
    known: &HashSet<String>,
    between: &str,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with('|')) {
        // The first column says what is held, not which test holds it.
        let cells = line.split(" | ").skip(1).collect::<Vec<_>>().join(" ");
        let mut module = "";
        for name in quoted(&cells) {
            let leads = if let Some(test) = name.strip_prefix("…::") {
                ends_one(known, &format!("{module}::{test}"))
            } else if name.contains("::") && !name.contains('/') && !starts_with_capital(name) {
                module = name.rsplit_once("::").map_or("", |(module, _)| module);
                ends_one(known, name)
            } else if name.contains('/') && !name.contains(' ') && !is_elsewhere(name) {
                is_there(root, name)
            } else if cells.contains(&format!("`between.py` `{name}`")) {
                between.contains(&format!("def {name}("))
            } else {
                true
            };
            if !leads {
                wrong.push(format!("line {}: no `{name}`", number + 1));
            }
        }
    }
    wrong
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Checks for a path of the program's, and for one that a build makes.
fn is_elsewhere(name: &str) -> bool {
    name.starts_with(['/', '*']) || name.starts_with("target/")
}

/// Checks for a type's path, which names no test.
fn starts_with_capital(name: &str) -> bool {
    let last = name.rsplit("::").next().unwrap_or_default();
    last.starts_with(char::is_uppercase)
}

fn ends_one(known: &HashSet<String>, name: &str) -> bool {
    let end = format!("::{name}");
    known.contains(name) || known.iter().any(|test| test.ends_with(&end))
}

/// Checks that a file, a folder, a module's file or something of a pattern is there.
fn is_there(root: &Path, name: &str) -> bool {
    let Some((folder, pattern)) = name.split_once('*') else {
        return root.join(name).exists() || root.join(format!("{name}.rs")).exists();
    };
    let (folder, start) = folder.rsplit_once('/').unwrap_or((".", folder));
    // Of `**` only the folder is looked at.
    let Ok(mut entries) = std::fs::read_dir(root.join(folder)) else { return false };
    pattern.starts_with('*')
        || entries.any(|entry| {
            let name = entry.unwrap().file_name();
            let name = name.to_str().unwrap();
            name.starts_with(start) && name.ends_with(pattern)
        })
}
