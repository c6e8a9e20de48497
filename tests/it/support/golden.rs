//! Golden files: what the outside relies on, compared line by line.

use std::path::PathBuf;

/// Compares rows with those of a golden file that begin with the same words. Rows that a test does
/// not produce are another test's.
pub(crate) fn compare_rows(file: &str, produced: &[String]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut differences = Vec::new();
    for row in produced {
        match lines.iter_mut().find(|line| word(line) == word(row)) {
            Some(line) if line == row => {}
            Some(line) => {
                differences.push(format!("- {line}\n+ {row}"));
                line.clone_from(row);
            }
            None => {
                differences.push(format!("+ {row}"));
                lines.push(row.clone());
            }
        }
    }
    if differences.is_empty() {
        return;
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        return;
    }
    let differences = differences.join("\n");
    panic!(
        "tests/golden/{file} differs; accept with UPDATE_GOLDEN=1 if this is meant\n{differences}"
    );
}

/// The lines of a golden file.
pub(crate) fn rows(file: &str) -> Vec<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn word(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}
