//! Old files that the node deletes: what is left verifies, and only because the node has said so.

use super::*;
use crate::audit::chain::Damage;
use crate::audit::files::{closed_files, snapshot};
use crate::audit::verify::{FileReport, verify_files};

const GENESIS: Options<'static> = Options { start: Start::Genesis, known: &[], threads: 2 };

fn keeping(keep_files: u64, compress: bool) -> Bench {
    Bench::with(|s| s.rotation = Rotation { bytes: 3_000, secs: 0, compress, keep_files })
}

/// Has the writer delete what is too many, once nothing is being compressed.
async fn settled(bench: &Bench, audit: &Audit, files: usize) {
    let settle = async {
        while closed_files(&bench.path()).unwrap().len() > files {
            audit.reopen().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), settle).await.unwrap();
}

fn reports(bench: &Bench) -> Vec<FileReport> {
    verify_files(&snapshot(&bench.path()).unwrap(), &GENESIS).unwrap()
}

fn damages(bench: &Bench) -> Vec<Damage> {
    reports(bench).iter().flat_map(|f| f.report.findings.iter().map(|f| f.damage)).collect()
}

#[tokio::test]
async fn the_oldest_files_go_and_the_rest_verifies() {
    for compress in [false, true] {
        let bench = keeping(2, compress);
        for _ in 0..2 {
            let audit = bench.open();
            for _ in 0..20 {
                refuse(&audit, "a").await.unwrap();
            }
            settled(&bench, &audit, 2).await;
            audit.close();
        }
        assert_eq!(damages(&bench), []);
        let reports = reports(&bench);
        let through = reports[0].report.deleted_through.unwrap();
        assert_eq!(reports[0].report.first_sequence, Some(through.sequence + 1));
        assert!(through.sequence > 20);
        // Every record is there or was deleted as the log says.
        let left: u64 = reports.iter().map(|file| file.report.records).sum();
        assert_eq!(left + through.sequence, reports.last().unwrap().report.head.unwrap().sequence);
    }
}

#[tokio::test]
async fn without_its_record_a_deletion_is_damage() {
    let bench = keeping(3, false);
    let audit = bench.open();
    for _ in 0..40 {
        refuse(&audit, "a").await.unwrap();
    }
    settled(&bench, &audit, 3).await;
    audit.close();
    assert_eq!(damages(&bench), []);
    // One more file, gone without a word.
    let oldest = closed_files(&bench.path()).unwrap().remove(0);
    fs::remove_file(oldest.path).unwrap();
    let found = damages(&bench);
    assert!(matches!(found[..], [Damage::MissingStart { .. }]), "{found:?}");
}

#[tokio::test]
async fn an_agent_cannot_say_that_files_were_deleted() {
    let bench = Bench::with(|s| s.rotation.bytes = 3_000);
    let audit = bench.open();
    for _ in 0..8 {
        refuse(&audit, "a").await.unwrap();
    }
    let first_closed = closed_files(&bench.path()).unwrap().remove(0);
    let end = verify_files(&[first_closed.path.clone().into()], &GENESIS).unwrap()[0]
        .report
        .head
        .unwrap();
    let told = format!(
        r#"{{"files":1,"last_file":1,"last_sequence":{},"last_hash":"{}"}}"#,
        end.sequence, end.hash
    );
    let arguments = format!(r#"{{"event":"closed_files_deleted","detail":{told}}}"#);
    let doc = crate::json::Doc::parse(arguments.as_bytes()).unwrap();
    let redactor = Redactor::new(&[], false).unwrap();
    let patterns = Arc::new(crate::credentials::Patterns::new([]));
    let mut entry = refusal(&format!(r#"","event":"closed_files_deleted","detail":{told}"#));
    entry.arguments = Some(redactor.redact(doc.root(), 8_192, &patterns));
    audit.record(entry, Outcome::refused(1)).await.unwrap();
    audit.close();
    fs::remove_file(first_closed.path).unwrap();
    let found = damages(&bench);
    assert!(matches!(found[..], [Damage::MissingStart { .. }]), "{found:?}");
}

#[tokio::test]
async fn nothing_goes_while_its_record_cannot_be_written() {
    let mut bench = Bench::with(|s| s.rotation.bytes = 3_000);
    let audit = bench.open();
    for _ in 0..20 {
        refuse(&audit, "a").await.unwrap();
    }
    drop(audit);
    let before = closed_files(&bench.path()).unwrap().len();
    assert!(before > 3);
    bench.settings.rotation = Rotation { bytes: 0, keep_files: 1, ..bench.settings.rotation };
    let (shared, mut writer) =
        prepare(bench.settings.clone(), bench.clock.clone(), bench.slots, Vec::new()).unwrap();
    let fault = writer.fault();
    fault.full_after(100);
    writer.work();
    assert_eq!(closed_files(&bench.path()).unwrap().len(), before);
    fault.mend();
    writer.work();
    assert_eq!(closed_files(&bench.path()).unwrap().len(), 1);
    drop((shared, writer));
    assert_eq!(damages(&bench), []);
    assert_eq!(bench.story().iter().filter(|line| *line == "closed_files_deleted").count(), 1);
}
