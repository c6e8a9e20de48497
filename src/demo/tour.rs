//! The guided tour: real calls to a real gateway, each with the answer it must get.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::Scene;

/// One stop of the tour.
pub(super) struct Stop {
    pub name: &'static str,
    pub request: String,
    pub answer: String,
    pub stage: String,
    pub as_expected: bool,
}

/// Expected result of a call.
#[derive(Clone, Copy)]
enum Expect {
    Allowed,
    Refused(u16, &'static str),
}

/// A session of the demo's agent.
pub(super) struct Session {
    pub id: String,
}

/// Walks through everything; what the stops found is for the caller to print.
pub(super) async fn walk(scene: &Scene) -> Result<Vec<Stop>> {
    let mut stops = Vec::new();
    let reading = ["read_file", "list_files", "get_transfer_quote", "get_report"];
    let intent = "read files and get a report";
    let work = scene.session(intent, &reading, json!({})).await?;

    let read = call("read_file", &json!({"path": "a.txt"}));
    stops.push(scene.visit("allowed: read a file", Some(&work), &read, Expect::Allowed).await?);
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}).to_string();
    stops.push(scene.visit("allowed: list the tools", Some(&work), &list, Expect::Allowed).await?);
    let quote = call("get_transfer_quote", &json!({"amount": 50, "to": "ACME"}));
    stops.push(
        scene.visit("allowed: a quote within bounds", Some(&work), &quote, Expect::Allowed).await?,
    );

    stops.push(approved_call(scene).await?);

    let refused = Expect::Refused;
    stops.push(scene.visit("1 no session", None, &read, refused(403, "SessionRequired")).await?);
    let not_mcp = json!({"command": "read", "path": "/etc/passwd"}).to_string();
    stops.push(
        scene
            .visit("2 body that is not MCP", Some(&work), &not_mcp, refused(403, "NotMcp"))
            .await?,
    );
    let wipe = call("wipe_disk", &json!({}));
    stops.push(
        scene
            .visit(
                "3 tool not on the whitelist",
                Some(&work),
                &wipe,
                refused(403, "ToolNotAuthorized"),
            )
            .await?,
    );

    let short = scene.session(intent, &reading, json!({"call_budget": 1})).await?;
    scene.visit("", Some(&short), &read, Expect::Allowed).await?;
    stops.push(
        scene
            .visit("4a budget exceeded", Some(&short), &read, refused(429, "BudgetExhausted"))
            .await?,
    );
    let slow = scene.session(intent, &reading, json!({"rate_limit_per_minute": 1})).await?;
    scene.visit("", Some(&slow), &read, Expect::Allowed).await?;
    stops.push(
        scene.visit("4b rate exceeded", Some(&slow), &read, refused(429, "RateLimited")).await?,
    );

    let brief = scene.session(intent, &reading, json!({"time_limit_secs": 1})).await?;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    stops.push(
        scene
            .visit("5 expired session reused", Some(&brief), &read, refused(408, "SessionExpired"))
            .await?,
    );

    let admin = scene.session("manage and wipe old disks", &["wipe_disk"], json!({})).await?;
    stops.push(
        scene
            .visit("6 no policy allows it", Some(&admin), &wipe, refused(403, "PolicyDenied"))
            .await?,
    );
    let tampered = call("get_transfer_quote", &json!({"amount": "1000000", "to": "ACME"}));
    stops.push(
        scene
            .visit("7 tampered parameters", Some(&work), &tampered, refused(403, "PolicyDenied"))
            .await?,
    );

    let reader = scene.session("read the logs", &["read_file", "write_file"], json!({})).await?;
    let write = call("write_file", &json!({"path": "a.txt"}));
    stops.push(
        scene.visit("8 intent drift", Some(&reader), &write, refused(403, "DriftDetected")).await?,
    );
    stops.push(multiply_sessions(scene, intent, &reading).await?);
    stops.push(echoed_credential(scene).await?);
    Ok(stops)
}

fn call(tool: &str, arguments: &Value) -> String {
    let params = json!({"name": tool, "arguments": arguments});
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string()
}

/// Sends a call that waits for a person, approves it, and sends it twice more.
async fn approved_call(scene: &Scene) -> Result<Stop> {
    let session = scene.session("manage shared files", &["write_file"], json!({})).await?;
    let write = call("write_file", &json!({"path": "shared/plan.txt"}));
    let (asked, text) = scene.post(&scene.agent, Some(&session), &write).await?;
    let refusal: Value = serde_json::from_str(&text).unwrap_or_default();
    let id = text_at(&refusal, "/error/data/approval_id");
    let decision = json!({"decision": "approve", "reason": "the demo's operator agrees"});
    let (decided, _) = scene.admin(&format!("/approvals/{id}"), &decision).await?;
    let (passed, _) = scene.post(&scene.agent, Some(&session), &write).await?;
    let (again, _) = scene.post(&scene.agent, Some(&session), &write).await?;
    Ok(Stop {
        name: "allowed: approved by a person",
        request: summary(&write),
        answer: format!("{asked}, {passed} once, {again}"),
        stage: text_at(&refusal, "/error/data/stage").to_owned(),
        as_expected: (asked, decided, passed, again) == (403, 200, 200, 403),
    })
}

/// Opens sessions until the cap stops it, as an agent would that wants many budgets.
async fn multiply_sessions(scene: &Scene, intent: &str, tools: &[&str]) -> Result<Stop> {
    for opened in 1..=20 {
        let (status, body) = scene.open(intent, tools, json!({})).await?;
        if status != 201 {
            return Ok(Stop {
                name: "9 session multiplication",
                request: format!("POST /sessions, {opened} times"),
                answer: format!("{status} {}", text_at(&body, "/error")),
                stage: "admin".to_owned(),
                as_expected: status == 429 && text_at(&body, "/error") == "TooManySessions",
            });
        }
    }
    bail!("twenty more sessions were opened and nothing stopped it")
}

/// Calls a tool that gives its key away in twelve ways.
async fn echoed_credential(scene: &Scene) -> Result<Stop> {
    let other = scene.register("report-bot").await?;
    let session = scene
        .session_of(
            &other,
            "get a report",
            &["get_report"],
            json!({"authorized_credentials": ["report_key"]}),
        )
        .await?;
    let request = call("get_report", &json!({"token": "${CRED:report_key}"}));
    let (status, text) = scene.post(&other, Some(&session), &request).await?;
    let leaked = scene.leaks(&text);
    let echoed = text.matches("debug ").count();
    let hidden = text.matches("[CREDENTIAL]").count();
    Ok(Stop {
        name: "10 credential echoed in 12 ways",
        request: "tools/call get_report, key=${CRED:report_key}".to_owned(),
        answer: match leaked {
            Some(way) => format!("{status} leaks as {way}"),
            None => format!("{status} {hidden} of {echoed} hidden"),
        },
        stage: "scrubbed".to_owned(),
        as_expected: status == 200 && leaked.is_none() && (echoed, hidden) == (12, 12),
    })
}

impl Scene {
    async fn visit(
        &self,
        name: &'static str,
        session: Option<&Session>,
        body: &str,
        expect: Expect,
    ) -> Result<Stop> {
        let (status, text) = self.post(&self.agent, session, body).await?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let code = text_at(&answer, "/error/data/code");
        let as_expected = match expect {
            Expect::Allowed => status == 200 && answer.get("result").is_some(),
            Expect::Refused(wanted, wanted_code) => status == wanted && code == wanted_code,
        };
        if name.is_empty() && !as_expected {
            bail!("a call that prepares a stop of the tour was answered {status}: {text}");
        }
        let stage = text_at(&answer, "/error/data/stage");
        let stage = if stage.is_empty() { "-" } else { stage }.to_owned();
        let answer =
            if code.is_empty() { format!("{status} result") } else { format!("{status} {code}") };
        Ok(Stop { name, request: summary(body), answer, stage, as_expected })
    }

    async fn session(&self, intent: &str, tools: &[&str], more: Value) -> Result<Session> {
        self.session_of(&self.agent, intent, tools, more).await
    }

    async fn session_of(
        &self,
        agent: &super::Agent,
        intent: &str,
        tools: &[&str],
        more: Value,
    ) -> Result<Session> {
        let (status, body) = self.open_for(agent, intent, tools, more).await?;
        let id = text_at(&body, "/session_id");
        anyhow::ensure!(!id.is_empty(), "{status}: {body}");
        Ok(Session { id: id.to_owned() })
    }

    async fn open(&self, intent: &str, tools: &[&str], more: Value) -> Result<(u16, Value)> {
        self.open_for(&self.agent, intent, tools, more).await
    }

    async fn open_for(
        &self,
        agent: &super::Agent,
        intent: &str,
        tools: &[&str],
        more: Value,
    ) -> Result<(u16, Value)> {
        let mut order = json!({
            "agent_id": agent.id, "declared_intent": intent, "authorized_tools": tools,
        });
        if let (Some(order), Value::Object(more)) = (order.as_object_mut(), more) {
            order.extend(more);
        }
        self.admin("/sessions", &order).await
    }
}

fn summary(body: &str) -> String {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    let arguments = value.pointer("/params/arguments").cloned().unwrap_or_default();
    match (text_at(&value, "/method"), text_at(&value, "/params/name")) {
        ("", _) => body.to_owned(),
        (method, "") => method.to_owned(),
        (method, tool) => format!("{method} {tool} {arguments}"),
    }
}

/// The text at a JSON pointer; empty if there is none.
pub(super) fn text_at<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
