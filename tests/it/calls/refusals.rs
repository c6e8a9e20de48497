//! Every refusal of the table, asked for by a real request, and all that must come with it: status,
//! codes, stage, the id echoed, the headers, one audit record, one more in the metric, and nothing
//! upstream.

mod causes;
mod outages;
mod styles;

use std::fmt::Write;

use arbiter::firewall::denial::Code;
use serde_json::Value;

use crate::support::golden;
use crate::support::harness::{Answer, Gateway, eventually};

const GOLDEN: &str = "refusals.txt";

/// Requests to one gateway so far.
pub(crate) struct Table<'g> {
    gateway: &'g Gateway,
    rows: Vec<String>,
}

impl<'g> Table<'g> {
    pub(crate) fn of(gateway: &'g Gateway) -> Self {
        Self { gateway, rows: Vec::new() }
    }

    /// Sends a request that must be refused with `code` and looks at everything.
    pub(crate) async fn add(
        &mut self,
        code: Code,
        id: Value,
        answer: impl Future<Output = Answer>,
    ) {
        self.add_after(code, id, 0, answer).await;
    }

    /// Adds a refusal that follows this number of upstream calls.
    pub(crate) async fn add_after(
        &mut self,
        code: Code,
        id: Value,
        upstream_calls: usize,
        answer: impl Future<Output = Answer>,
    ) {
        let gateway = self.gateway;
        let counter = format!("arbiter_denials_total{{code=\"{}\"}}", code.name());
        let (denied, seen) = (gateway.metric(&counter).await, gateway.upstream.calls());
        let answer = answer.await;
        let name = code.row().name;
        let body = answer.json();
        assert!(!body.is_null(), "{name}: {answer:?}");
        assert_eq!(body["error"]["data"]["code"], code.name(), "{name}: {body}");
        assert_eq!(body["id"], id, "{name}: {body}");
        assert_eq!(body["jsonrpc"], "2.0");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let data = &body["error"]["data"];
        assert_eq!(data["request_id"], answer.request_id(), "{name}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.len() > 15, "{name}: {message}");
        if code == Code::EscalationRequired {
            assert_eq!(data["escalation_id"], answer.request_id());
        }
        assert_eq!(gateway.upstream.calls() - seen, upstream_calls, "{name}");

        let (decision, category) = self.record(code, &answer).await;
        // The metric of a call that failed upstream follows its answer.
        let counted =
            eventually(|| async { (gateway.metric(&counter).await > denied).then_some(()) });
        counted.await.unwrap_or_else(|| panic!("{name} is not counted"));
        let now = gateway.metric(&counter).await;
        assert!((now - denied - 1.0).abs() < 0.1, "{name}: {now} after {denied}");

        let mut row = format!(
            "{name} {} {} {} {category} {decision}",
            answer.status,
            body["error"]["code"],
            data["stage"].as_str().unwrap(),
        );
        for header in ["allow", "retry-after", "www-authenticate"] {
            if let Some(value) = answer.header(header) {
                write!(row, " {header}={}", without_ports(value, &gateway.proxy)).unwrap();
            }
        }
        self.rows.push(row);
    }

    /// Checks the one record of a request: its decision and its category.
    async fn record(&self, code: Code, answer: &Answer) -> (String, String) {
        if code == Code::AuditUnavailable {
            return ("-".to_owned(), "-".to_owned());
        }
        let record = if code == Code::TooManyRefusals {
            self.folded(code).await
        } else {
            self.gateway.record_of(answer.request_id()).await
        };
        assert_eq!(record["denial_code"], code.name(), "{record}");
        let text = |key: &str| record[key].as_str().unwrap_or("null").to_owned();
        (text("authorization_decision"), text("failure_category"))
    }

    /// The record that counts refusals of one agent and cause.
    async fn folded(&self, code: Code) -> Value {
        let found = eventually(|| async {
            self.gateway.records().into_iter().find(|record| {
                record["event"] == "refusals_folded"
                    && record["detail"]["cause"] == code.name()
                    && record["agent_id"] == self.gateway.agent.id
            })
        });
        found.await.unwrap_or_else(|| panic!("{code:?} is not on record"))
    }

    pub(crate) fn compare(self) {
        golden::compare_rows(GOLDEN, &self.rows);
    }
}

/// Headers may quote the address that a client used, which differs from run to run.
fn without_ports(value: &str, address: &str) -> String {
    value.replace(address, "ADDRESS").replace(' ', "_")
}

#[test]
fn the_guide_has_a_row_for_every_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/refusals.md");
    let guide = std::fs::read_to_string(path).unwrap();
    let rows: Vec<&str> = guide.lines().filter(|line| line.starts_with('|')).collect();
    for code in Code::ALL {
        let name = format!("`{}`", code.name());
        assert!(
            rows.iter().any(|row| row.contains(&name)),
            "conf/refusals.md has no row for {name}"
        );
    }
}

#[test]
fn every_code_has_a_real_cause() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/calls/refusals");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let text: String = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let text: String = text.split_whitespace().collect();
    for code in Code::ALL {
        let caused = ["add", "add_after"].map(|add| format!("table.{add}(Code::{code:?},"));
        assert!(
            caused.iter().any(|call| text.contains(call)),
            "no request of tests/it/calls/refusals is refused with {code:?}: add one to causes.rs"
        );
    }
}

#[test]
fn the_golden_table_has_every_row_with_what_the_code_says() {
    let rows = golden::rows(GOLDEN);
    assert_eq!(rows.len(), Code::ALL.len());
    for code in Code::ALL {
        let expected = code.row();
        let row = rows.iter().find(|row| row.split(' ').next() == Some(expected.name)).unwrap();
        let start = format!(
            "{} {} {} {} ",
            expected.name,
            expected.status,
            expected.rpc,
            expected.stage.as_str()
        );
        assert!(row.starts_with(&start), "{row}\n{start}");
        let category =
            if *code == Code::AuditUnavailable { "-" } else { expected.category.as_str() };
        assert_eq!(row.split(' ').nth(4), Some(category), "{row}");
        let limited = matches!(
            code,
            Code::RateLimited
                | Code::TooManyRefusals
                | Code::TooManyInFlight
                | Code::TooManyApprovals
        );
        assert_eq!(row.contains("retry-after="), expected.status == 503 || limited, "{row}");
        assert_eq!(row.contains("allow="), expected.status == 405, "{row}");
        let asks = expected.status == 401 || *code == Code::InsufficientScope;
        assert_eq!(row.contains("www-authenticate=Bearer"), asks, "{row}");
    }
}
