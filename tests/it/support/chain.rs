//! Two checkers of an audit log's chain: one in Python that shares no code with Arbiter, and
//! Arbiter's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use arbiter::audit::verify::{Options, Start, verify};

/// Checks a log by both; gives the number of its records.
pub(crate) fn check(log: &Path) -> u64 {
    let options = Options { start: Start::Genesis, known: &[], threads: 2 };
    let report = verify(std::fs::File::open(log).unwrap(), &options).unwrap();
    assert!(report.is_intact(), "{report:?}");
    let (by_python, said) = ask_python(log);
    assert!(by_python, "{said}");
    let head = report.head.unwrap();
    let expected = format!("{} records, head {} {}", report.records, head.sequence, head.hash);
    assert_eq!(said.trim(), expected);
    report.records
}

/// Returns the result and output of the independent checker.
pub(crate) fn ask_python(log: &Path) -> (bool, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(python(root))
        .arg(root.join("conf/audit/verify_audit.py"))
        .arg(log)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// The interpreter that `tests/run` has given its Python package `blake3`, or the machine's own.
pub(crate) fn python(root: &Path) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let prepared = target.join("tools/python/bin/python");
    if prepared.exists() { prepared } else { "python3".into() }
}
