//! Rust sources as tokens: without comments and tests, and what they import.

use std::path::Path;
use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One file of the house.
pub(crate) struct Source {
    pub file: String,
    pub module: Vec<String>,
    /// The tokens of the program, without those that only tests have.
    tokens: Vec<TokenTree>,
}

/// Every file under `root` that is not a test.
pub(crate) fn sources(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push(Source::read(&file, &std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

impl Source {
    pub(crate) fn read(file: &str, text: &str) -> Self {
        let module: Vec<String> =
            file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        let is_test = module.iter().any(|name| name == "tests" || name == "testkit");
        let tokens = if is_test {
            Vec::new()
        } else {
            let tokens = TokenStream::from_str(text);
            without_tests(tokens.unwrap_or_else(|error| panic!("{file}: {error}")))
        };
        Self { file: file.to_owned(), module, tokens }
    }

    /// Every path that begins with `crate` or `super`, from the crate's root on, with its line.
    pub(crate) fn imports(&self) -> Vec<(usize, Vec<String>)> {
        let found = self.paths_from(&["crate", "super"]).into_iter();
        found.filter_map(|(line, path)| Some((line, self.absolute(&path)?))).collect()
    }

    /// Every path that begins with one of these names, its groups expanded, with its line.
    pub(crate) fn paths_from(&self, roots: &[&str]) -> Vec<(usize, Vec<String>)> {
        let mut found = Vec::new();
        collect_paths(&self.tokens, roots, &mut found);
        found
    }

    /// Every word of the program with its line.
    pub(crate) fn words(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        collect_words(&self.tokens, &mut found);
        found
    }

    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        if path.first()? == "crate" {
            return Some(path[1..].to_vec());
        }
        let ups = path.iter().take_while(|name| *name == "super").count();
        let here = self.module.len().checked_sub(ups)?;
        Some([&self.module[..here], &path[ups..]].concat())
    }
}

/// Removes every item, statement, field and variant behind `#[cfg(test)]`, at any depth.
fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut rest = tokens.into_iter().peekable();
    while let Some(token) = rest.next() {
        let marked = is_punct(&token, '#')
            && rest.peek().is_some_and(|next| next.to_string().replace(' ', "") == "[cfg(test)]");
        if marked {
            // Up to its semicolon or its braces, or to the comma of a variant or field.
            for token in rest.by_ref() {
                let braces = matches!(&token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
                if braces || is_punct(&token, ';') || is_punct(&token, ',') {
                    break;
                }
            }
            continue;
        }
        kept.push(match token {
            TokenTree::Group(group) => {
                let inside = without_tests(group.stream()).into_iter().collect();
                let mut lean = proc_macro2::Group::new(group.delimiter(), inside);
                lean.set_span(group.span());
                TokenTree::Group(lean)
            }
            token => token,
        });
    }
    kept
}

fn is_punct(token: &TokenTree, mark: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == mark)
}

fn is_path_separator(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [first, second, ..] if is_punct(first, ':') && is_punct(second, ':'))
}

fn inside(group: &proc_macro2::Group) -> Vec<TokenTree> {
    group.stream().into_iter().collect()
}

/// Finds paths from these roots on, with their groups expanded.
fn collect_paths(tokens: &[TokenTree], roots: &[&str], found: &mut Vec<(usize, Vec<String>)>) {
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => collect_paths(&inside(group), roots, found),
            TokenTree::Ident(name) if roots.iter().any(|root| name == root) => {
                // The second `super` of two belongs to the path of the first.
                let goes_on = at >= 2 && is_path_separator(&tokens[at - 2..]);
                if !goes_on && is_path_separator(&tokens[at + 1..]) {
                    let line = name.span().start().line;
                    let mut paths = Vec::new();
                    expand(&tokens[at..], &[], &mut paths);
                    found.extend(paths.into_iter().map(|path| (line, path)));
                }
            }
            _ => {}
        }
    }
}

/// Adds the paths at the start of `tokens`, each with `before` in front.
fn expand(tokens: &[TokenTree], before: &[String], found: &mut Vec<Vec<String>>) {
    let mut path = before.to_vec();
    let mut rest = tokens;
    loop {
        match rest {
            [TokenTree::Group(group), ..] if group.delimiter() == Delimiter::Brace => {
                let members = inside(group);
                for member in members.split(|token| is_punct(token, ',')) {
                    if !member.is_empty() {
                        expand(member, &path, found);
                    }
                }
                return;
            }
            [TokenTree::Ident(name), after @ ..] => {
                if name != "self" {
                    path.push(name.to_string());
                }
                if !is_path_separator(after) {
                    return found.push(path);
                }
                rest = &after[2..];
            }
            [token, ..] if is_punct(token, '*') => {
                path.push("*".to_owned());
                return found.push(path);
            }
            // Arguments of a type, `path::<…>`.
            _ => return found.push(path),
        }
    }
}

fn collect_words(tokens: &[TokenTree], found: &mut Vec<(usize, String)>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => collect_words(&inside(group), found),
            TokenTree::Ident(name) => found.push((name.span().start().line, name.to_string())),
            _ => {}
        }
    }
}
