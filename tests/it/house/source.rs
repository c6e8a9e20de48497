//! Rust sources as text: without comments, literals and tests, and what they import.

use std::path::Path;

/// One file of the house.
pub struct Source {
    pub file: String,
    pub module: Vec<String>,
    /// The text with everything that is no code of the program blanked out, line for line.
    pub code: String,
}

/// Every file under `root` that is not a test.
pub fn sources(root: &Path) -> Vec<Source> {
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
    pub fn read(file: &str, text: &str) -> Self {
        let module: Vec<String> =
            file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        let is_test = module.iter().any(|name| name == "tests");
        let code = if is_test { String::new() } else { without_tests(&plain(text)) };
        Self { file: file.to_owned(), module, code }
    }

    /// Every path that begins with `crate` or `super`, from the crate's root on, with its line.
    pub fn imports(&self) -> Vec<(usize, Vec<String>)> {
        let mut found = Vec::new();
        for start in ["crate::", "super::"] {
            for (at, _) in self.code.match_indices(start) {
                let before = self.code[..at].chars().next_back();
                // Part of a longer word or path, as the second `super` of two.
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                let line = self.code[..at].matches('\n').count() + 1;
                let mut paths = Vec::new();
                expand(&self.code[at..], &[], &mut paths);
                found.extend(paths.into_iter().filter_map(|p| Some((line, self.absolute(&p)?))));
            }
        }
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

/// The paths that a path with groups stands for; gives how much of the text it took.
fn expand(text: &str, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    let mut at = 0;
    loop {
        at += blanks(&text[at..]);
        let rest = &text[at..];
        if rest.starts_with('{') {
            at += 1;
            loop {
                at += blanks(&text[at..]);
                match text[at..].chars().next() {
                    Some(',') => at += 1,
                    Some('}') | None => return at + 1,
                    Some(_) => {
                        let taken = expand(&text[at..], &path, found);
                        if taken == 0 {
                            return at;
                        }
                        at += taken;
                    }
                }
            }
        }
        let length =
            rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(rest.len());
        if length == 0 {
            return at;
        }
        let name = &rest[..length];
        if name != "self" {
            path.push(name.to_owned());
        }
        at += length;
        if text[at..].starts_with("::") {
            at += 2;
            continue;
        }
        found.push(path);
        // A new name given to it.
        let renamed = text[at..].trim_start().strip_prefix("as ");
        if let Some(renamed) = renamed {
            at = text.len() - renamed.len();
            at += text[at..].find([',', '}', ';']).unwrap_or(0);
        }
        return at;
    }
}

fn blanks(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

/// The text with comments and what is inside literals turned into blanks.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = literal(rest, out.chars().next_back());
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[length..];
    }
    out
}

/// Returns the length of the comment or literal at the start of `text`; 0 if there is none.
fn literal(text: &str, before: Option<char>) -> usize {
    let until = |from: usize, mark: &str| {
        text[from..].find(mark).map_or(text.len(), |at| from + at + mark.len())
    };
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return until(2, "*/");
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if !in_word {
        let raw = text.strip_prefix('b').unwrap_or(text);
        if let Some(raw) = raw.strip_prefix('r') {
            let hashes = raw.len() - raw.trim_start_matches('#').len();
            if raw[hashes..].starts_with('"') {
                let start = text.len() - raw.len() + hashes + 1;
                return until(start, &format!("\"{}", "#".repeat(hashes)));
            }
        }
    }
    if text.starts_with('"') {
        return quoted(text, '"');
    }
    // A character, not a lifetime.
    let mut characters = text.chars();
    match (characters.next(), characters.next(), characters.next()) {
        (Some('\''), Some('\\'), _) => quoted(text, '\''),
        (Some('\''), Some(one), Some('\'')) => 2 + one.len_utf8(),
        _ => 0,
    }
}

fn quoted(text: &str, end: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if !escaped && c == end {
            return at + 1;
        }
        escaped = !escaped && c == '\\';
    }
    text.len()
}

/// The text with every item behind `#[cfg(test)]` turned into blanks.
fn without_tests(text: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        let end = at + item(&rest[at..]);
        out.extend(rest[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[end..];
    }
    out + rest
}

/// Returns the length of an item: to its semicolon or its last brace, or to the comma of a variant
/// or field.
fn item(text: &str) -> usize {
    let mut depth = 0_i32;
    for (at, c) in text.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth -= 1;
                if depth < 0 {
                    return at;
                }
                if depth == 0 && c == '}' {
                    return at + 1;
                }
            }
            ';' | ',' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    text.len()
}
