//! Searches in a large log: each request reads a bounded part, and few read at once.

use super::*;
use crate::admin::Code;
use crate::admin::records::record_of;

/// An admin whose log has closed files of 4 MB in all that no index knows.
async fn with_large_log() -> (Bench, Vec<String>) {
    let bench = Bench::new().await;
    let ids: Vec<String> = (1..=4_000_u128).map(|n| uuid::Uuid::from_u128(n).to_string()).collect();
    for (file, ids) in (1..).zip(ids.chunks(1_000)) {
        let line = |id: &String| {
            let rest = "x".repeat(900);
            format!(
                "{{\"timestamp\":\"2026-11-22T10:00:00.000000Z\",\"request_id\":\"{id}\",\"rest\":\"{rest}\"}}\n"
            )
        };
        let text: String = ids.iter().map(line).collect();
        std::fs::write(bench.dir.path().join(format!("audit.jsonl.{file:06}")), text).unwrap();
    }
    (bench, ids)
}

#[tokio::test]
async fn a_proof_of_an_old_record_reads_a_bounded_part_at_each_request() {
    let (bench, ids) = with_large_log().await;
    let log = bench.admin.audit.path().unwrap().to_owned();
    let find = |id: &str| record_of(&bench.admin, &log, id.parse().unwrap());
    // 64 KiB a request: some 66 records.
    for (id, least, most) in [(&ids[3_999], 0, 0), (&ids[3_000], 14, 16), (&ids[0], 55, 62)] {
        let mut unfinished = 0;
        let line = loop {
            match find(id) {
                Ok(line) => break line,
                Err(error) => {
                    assert_eq!(
                        (error.code, error.retry_after_secs),
                        (Code::SearchUnfinished, Some(1))
                    );
                    unfinished += 1;
                }
            }
        };
        assert!(String::from_utf8(line).unwrap().contains(id.as_str()));
        assert!((least..=most).contains(&unfinished), "{unfinished}");
    }
    let nobody = uuid::Uuid::from_u128(9_999).to_string();
    let mut last = find(&nobody).unwrap_err();
    for _ in 0..70 {
        if last.code == Code::SearchUnfinished {
            last = find(&nobody).unwrap_err();
        }
    }
    assert_eq!(last.code, Code::NotFound);
    assert_eq!(find(&nobody).unwrap_err().code, Code::SearchUnfinished, "begun again");
}

#[tokio::test]
async fn searches_that_are_left_unfinished_take_bounded_memory() {
    let (bench, _) = with_large_log().await;
    let log = bench.admin.audit.path().unwrap().to_owned();
    for n in 10_000..10_200_u128 {
        let error = record_of(&bench.admin, &log, uuid::Uuid::from_u128(n)).unwrap_err();
        assert_eq!(error.code, Code::SearchUnfinished);
    }
    assert_eq!(bench.admin.searches.unfinished_count(), 64);
}

#[tokio::test(start_paused = true)]
async fn a_search_waits_a_moment_for_its_turn_and_no_longer() {
    let bench = Bench::new().await;
    let held =
        [bench.admin.searches.turn().await.unwrap(), bench.admin.searches.turn().await.unwrap()];
    let told = bench.get("/audit/records").await;
    told.is(429, "TooManySearches");
    assert_eq!(told.retry_after.as_deref(), Some("1"));
    drop(held);
    assert_eq!(bench.get("/audit/records").await.status.as_u16(), 200);
}
