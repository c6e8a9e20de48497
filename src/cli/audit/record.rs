//! Fields that the commands read of a record, and the filters on records.

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use crate::audit::ADMIN_UNAUTHORIZED;
use crate::firewall::time::Timestamp;

/// The members that people look for.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    pub(super) timestamp: String,
    pub(super) request_id: String,
    pub(super) agent_id: Option<String>,
    pub(super) task_session_id: Option<String>,
    pub(super) mcp_method: Option<String>,
    pub(super) tool_called: Option<String>,
    #[serde(default)]
    pub(super) tools_called: Vec<String>,
    pub(super) authorization_decision: String,
    pub(super) denial_code: Option<String>,
    pub(super) policy_matched: Option<String>,
    pub(super) outcome: Option<String>,
    pub(super) tool_outcome: Option<String>,
    pub(super) event: Option<String>,
    pub(super) detail: Option<Value>,
}

impl Record {
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    fn count(&self) -> Option<u64> {
        self.detail.as_ref()?.get("count")?.as_u64()
    }

    /// Number of requests that the record covers: one, except for records that count several.
    pub(super) fn stands_for(&self) -> u64 {
        match self.event.as_deref() {
            Some("refusals_folded" | "audit_gap") => self.count().unwrap_or(0),
            // A record of one request has no count.
            Some(ADMIN_UNAUTHORIZED) => self.count().unwrap_or(1),
            Some(_) | None => 1,
        }
    }
}

/// Filters; a record must satisfy all that are given.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Filter {
    /// Only of this agent.
    #[arg(long)]
    agent: Option<String>,
    /// Only within this session.
    #[arg(long)]
    session: Option<String>,
    /// Only calls of this tool.
    #[arg(long)]
    tool: Option<String>,
    /// Only what was decided so: allow, deny or escalate.
    #[arg(long, value_parser = ["allow", "deny", "escalate"])]
    decision: Option<String>,
    /// Only from this time on, such as 2026-11-22T10:00:00Z.
    #[arg(long, value_parser = time)]
    since: Option<Timestamp>,
    /// Only before this time.
    #[arg(long, value_parser = time)]
    until: Option<Timestamp>,
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "expected a time such as 2026-11-22T10:00:00Z".to_owned())
}

impl Filter {
    pub(super) fn is_empty(&self) -> bool {
        let Self { agent, session, tool, decision, since, until } = self;
        [agent, session, tool, decision].iter().all(|wanted| wanted.is_none())
            && since.is_none()
            && until.is_none()
    }

    pub(super) fn wants(&self, record: &Record) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        let tool = self.tool.as_ref().is_none_or(|tool| {
            record.tool_called.as_ref() == Some(tool) || record.tools_called.contains(tool)
        });
        let at = || Timestamp::parse(&record.timestamp);
        is(&self.agent, record.agent_id.as_deref())
            && is(&self.session, record.task_session_id.as_deref())
            && is(&self.decision, Some(&record.authorization_decision))
            && tool
            && self.since.is_none_or(|since| at().is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| at().is_some_and(|at| at < until))
    }
}
