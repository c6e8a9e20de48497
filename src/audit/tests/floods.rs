//! Refusals that nobody proved to be his: counted beyond a rate, and the counts add up.

use super::*;
use crate::firewall::agent::AgentId;

fn limited(max: u32) -> Bench {
    Bench::with(|s| s.max_unauthenticated_records_per_sec = max)
}

async fn refuse_for(audit: &Audit, code: &'static str) -> Result<(), AuditUnavailable> {
    let entry = Entry { denial_code: Some(code), ..refusal("-") };
    audit.record(entry, Outcome::refused(9)).await
}

/// Returns the number of refusals with this cause on record: one by one, folded, and lost.
fn counted(bench: &Bench, code: &str) -> (u64, u64, u64) {
    let mut counts = (0, 0, 0);
    for record in bench.records() {
        let count = record["detail"]["count"].as_u64();
        match record["event"].as_str() {
            Some("refusals_folded") if record["detail"]["cause"] == code => {
                assert_eq!(record["denial_code"], code);
                assert_eq!(record["outcome"], "refused");
                counts.1 += count.unwrap();
            }
            Some("audit_gap") => counts.2 += count.unwrap(),
            None if record["denial_code"] == code => counts.0 += 1,
            _ => {}
        }
    }
    counts
}

#[tokio::test]
async fn beyond_the_rate_refusals_are_counted_by_cause() {
    let bench = limited(10);
    let audit = bench.open();
    for _ in 0..200 {
        refuse_for(&audit, "TokenMissing").await.unwrap();
        refuse_for(&audit, "TokenInvalid").await.unwrap();
    }
    assert_eq!(bench.records().len(), 10);
    bench.clock.advance_us(1_000_000);
    refuse_for(&audit, "TokenMissing").await.unwrap();
    audit.close();
    assert_eq!(counted(&bench, "TokenMissing"), (6, 195, 0));
    assert_eq!(counted(&bench, "TokenInvalid"), (5, 195, 0));
    assert_eq!(bench.records().len(), 10 + 2 + 1);
    bench.assert_intact();
}

#[tokio::test]
async fn each_second_has_its_own_count() {
    let bench = limited(0);
    let audit = bench.open();
    for _ in 0..3 {
        for _ in 0..50 {
            refuse_for(&audit, "TokenMissing").await.unwrap();
        }
        bench.clock.advance_us(1_000_000);
        audit.reopen().await.unwrap();
    }
    assert_eq!(bench.records().len(), 3);
    audit.close();
    assert_eq!(counted(&bench, "TokenMissing"), (0, 150, 0));
}

#[tokio::test]
async fn who_has_proven_who_he_is_is_never_folded() {
    let bench = limited(0);
    let audit = bench.open();
    for _ in 0..50 {
        let entry = Entry { principal: Some("alice".into()), ..refusal("a") };
        audit.record(entry, Outcome::refused(1)).await.unwrap();
    }
    let mut escalated = refusal("a");
    escalated.decision = Decision::Escalate;
    audit.record(escalated, Outcome::refused(1)).await.unwrap();
    let known = Entry { principal: Some("alice".into()), ..refusal("a") };
    audit.note(&known, Outcome::default(), Weight::Single);
    audit.close();
    assert_eq!(bench.records().len(), 52);
    assert!(bench.records().iter().all(|record| record["event"].is_null()));
}

#[tokio::test]
async fn a_count_outlives_a_kill_and_is_not_told_twice() {
    for durability in [Durability::Write, Durability::Sync] {
        let bench = limited(5);
        let bench = Bench { settings: Settings { durability, ..bench.settings.clone() }, ..bench };
        let audit = bench.open();
        for _ in 0..40 {
            refuse_for(&audit, "TokenMissing").await.unwrap();
        }
        let gone = Entry { denial_code: None, ..refusal("gone") };
        audit.note(&gone, Outcome::default(), Weight::Stranger);
        let copy = limited(5);
        fs::create_dir_all(copy.path().parent().unwrap()).unwrap();
        for suffix in ["", ".journal"] {
            fs::copy(beside(&bench.path(), suffix), beside(&copy.path(), suffix)).unwrap();
        }
        drop(copy.open());
        assert_eq!(counted(&copy, "TokenMissing"), (5, 35, 0));
        let folded = copy.records().into_iter().filter(|r| r["detail"]["cause"] == "broken_off");
        assert_eq!(folded.map(|r| r["detail"]["count"].as_u64().unwrap()).sum::<u64>(), 1);
        copy.assert_intact();
        drop(copy.open());
        assert_eq!(counted(&copy, "TokenMissing"), (5, 35, 0));
        // The process that was not killed after all tells the same.
        audit.close();
        assert_eq!(counted(&bench, "TokenMissing"), (5, 35, 0));
    }
}

#[tokio::test]
async fn counts_add_up_across_a_failure_too() {
    let bench = limited(5);
    let (audit, fault) = bench.try_open().unwrap();
    let mut told = 0_u64;
    for n in 0..60 {
        if n == 20 {
            fault.full_after(0);
            bench.clock.advance_us(1_000_000);
        }
        if n == 40 {
            fault.mend();
            recovered(&audit).await;
        }
        told += u64::from(refuse_for(&audit, "TokenMissing").await.is_ok());
    }
    audit.close();
    let (single, folded, lost) = counted(&bench, "TokenMissing");
    assert_eq!(single + folded + lost, 60);
    assert!(single + folded >= told && lost > 0 && folded > 0, "{single} {folded} {lost} {told}");
    bench.assert_intact();
}

#[tokio::test]
async fn an_agents_refusals_are_counted_under_its_name() {
    let bench = limited(100);
    let audit = bench.open();
    let (first, second) = (AgentId::random(), AgentId::random());
    for n in 0..30 {
        let agent = if n % 3 == 0 { second } else { first };
        let entry = Entry {
            agent_id: Some(agent),
            principal: Some("alice".into()),
            denial_code: Some("TooManyRefusals"),
            ..refusal("-")
        };
        audit.record_as(entry, Outcome::refused(9), Weight::Folded).await.unwrap();
    }
    audit.close();
    let folds: BTreeMap<_, _> = bench
        .records()
        .iter()
        .map(|record| {
            assert_eq!(record["event"], "refusals_folded", "{record}");
            assert_eq!(record["detail"]["cause"], "TooManyRefusals");
            (record["agent_id"].as_str().unwrap().to_owned(), record["detail"]["count"].as_u64())
        })
        .collect();
    let expected = [(first.to_string(), Some(20)), (second.to_string(), Some(10))];
    assert_eq!(folds, BTreeMap::from(expected));
    bench.assert_intact();
}

fn from(address: &str) -> RequestHead {
    let client_addr = Some(address.parse().unwrap());
    RequestHead::of(&HeadParts { client_addr, ..HeadParts::default() })
}

/// A count says where its refusals came from: one address, or the first few and how many others.
#[tokio::test]
async fn a_count_names_its_sources_and_no_more_than_fit() {
    let bench = limited(0);
    let audit = bench.open();
    for code in ["TokenMissing", "TokenInvalid", "TokenExpired"] {
        for n in 0..300_u32 {
            let address = match code {
                "TokenMissing" => "192.0.2.7".to_owned(),
                "TokenInvalid" => ["192.0.2.7", "2001:db8::1"][usize::from(n == 5)].to_owned(),
                _ => format!("2001:db8:ffff:ffff:ffff:ffff:ffff:{n:x}"),
            };
            let head = from(&address);
            let entry = Entry { denial_code: Some(code), head, ..refusal("-") };
            audit.record(entry, Outcome::refused(9)).await.unwrap();
        }
    }
    refuse_for(&audit, "HostDenied").await.unwrap();
    audit.close();
    let sources: BTreeMap<_, _> = bench
        .records()
        .into_iter()
        .map(|record| {
            let sources = record["detail"]["sources"].as_str().unwrap().to_owned();
            (
                record["denial_code"].as_str().unwrap().to_owned(),
                (record["client_addr"].clone(), sources),
            )
        })
        .collect();
    let named = |address: Value, sources: &str| (address, sources.to_owned());
    assert_eq!(sources["TokenMissing"], named("192.0.2.7".into(), "192.0.2.7=300"));
    assert_eq!(sources["TokenInvalid"], named(Value::Null, "192.0.2.7=299 2001:db8::1=1"));
    let many = &sources["TokenExpired"].1;
    assert!(many.starts_with("2001:db8:ffff:ffff:ffff:ffff:ffff:0=1 "), "{many}");
    assert!(many.ends_with(":3=1 others=296"), "{many}");
    assert_eq!(sources["HostDenied"], named(Value::Null, "others=1"));
    bench.assert_intact();
}

/// Refusals of any number of agents at once: the counts take a bounded part of the journal.
#[tokio::test]
async fn counts_of_too_many_agents_share_one() {
    let bench = Bench { slots: 1_024, ..limited(100) };
    let audit = bench.open();
    for _ in 0..400 {
        let entry = Entry {
            agent_id: Some(AgentId::random()),
            principal: Some("alice".into()),
            denial_code: Some("TooManyRefusals"),
            ..refusal("-")
        };
        audit.record_as(entry, Outcome::refused(9), Weight::Folded).await.unwrap();
    }
    audit.close();
    let records = bench.records();
    assert_eq!(records.len(), 257);
    let shared: Vec<_> = records.iter().filter(|record| record["agent_id"].is_null()).collect();
    assert_eq!(shared.len(), 1);
    assert_eq!(shared[0]["detail"]["count"], 400 - 256);
}
