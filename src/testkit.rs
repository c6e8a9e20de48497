//! Agents, callers, work orders and policies that tests decide about.
//!
//! One file for the library's unit tests, which have it as a module, and for integration tests, fuzz targets
//! and benches, which include it by its path: hence `arbiter::` instead of `crate::`.

use std::sync::Arc;

use arbiter::config::Secret;
use arbiter::firewall::agent::{Agent, AgentId, Caller, Principal, TrustLevel};
use arbiter::firewall::granted::Grants;
use arbiter::firewall::policy::{PolicySet, Source};
use arbiter::firewall::session::{IntentTier, Sensitivity, SessionId, WorkOrder};
use arbiter::firewall::time::Timestamp;
use arbiter::identity::mint::Minter;
use arbiter::registry::NewAgent;

/// Returns a registered agent with basic trust and no capability.
pub(crate) fn agent(id: AgentId) -> Agent {
    Agent {
        id,
        owner: "u".to_owned(),
        model: "m".to_owned(),
        capabilities: Vec::new(),
        trust: TrustLevel::Basic,
        active: true,
        created_at: Timestamp(0),
        expires_at: None,
        registered_by: None,
    }
}

/// Returns an agent with a value in every field, as backends have to keep it.
pub(crate) fn full_agent(trust: TrustLevel) -> Arc<Agent> {
    Arc::new(Agent {
        id: AgentId::random(),
        owner: "Zoë \"ops\"".to_owned(),
        model: "m-1".to_owned(),
        capabilities: vec!["read".to_owned(), "write".to_owned()],
        trust,
        active: true,
        created_at: Timestamp(5),
        expires_at: Some(Timestamp(i64::MAX)),
        registered_by: Some("orchestrator".into()),
    })
}

/// Returns a request to register an agent with these capabilities and basic trust.
pub(crate) fn new_agent(capabilities: &[&str]) -> NewAgent {
    NewAgent {
        owner: "u".to_owned(),
        model: "m".to_owned(),
        capabilities: capabilities.iter().map(|&name| name.to_owned()).collect(),
        trust: TrustLevel::Basic,
        expires_at: None,
        registered_by: None,
    }
}

/// Returns a principal whose token names no agent, group or scope.
pub(crate) fn principal() -> Principal {
    Principal {
        subject: "u".into(),
        groups: Vec::new(),
        scopes: Vec::new(),
        issuer: "arbiter".into(),
        agent: None,
        token_id: None,
        expires_at: Timestamp(i64::MAX),
    }
}

/// Returns an agent that acts for itself, with a token of its own.
pub(crate) fn caller(agent: Agent) -> Caller {
    let principal = Principal { agent: Some(agent.id), ..principal() };
    let chain = [agent.id].into();
    Caller { agent: Arc::new(agent), principal: Arc::new(principal), chain }
}

/// Returns terms of a session that grant nothing and have no end.
pub(crate) fn order(agent: AgentId) -> WorkOrder {
    WorkOrder {
        id: SessionId::random(),
        agent,
        declared_intent: "read".into(),
        intent_tier: IntentTier::Read,
        grants: Arc::default(),
        call_budget: 0,
        rate_limit: None,
        ceiling: Sensitivity::Internal,
        refusal_style: None,
        delegation_chain: [agent].into(),
        created_at: Timestamp(0),
        expires_at: Timestamp(i64::MAX),
    }
}

/// Returns terms of a session that begins now, lasts so long, and may call these tools.
pub(crate) fn order_for(agent: AgentId, now: Timestamp, secs: u64, tools: &[&str]) -> WorkOrder {
    let (created_at, expires_at) = (now, now.plus_secs(secs));
    WorkOrder { grants: granted(tools), created_at, expires_at, ..order(agent) }
}

/// Returns terms of a session with a value in most fields, as backends have to keep them.
pub(crate) fn full_order(agent: AgentId, call_budget: u64) -> WorkOrder {
    let grants = Grants {
        tools: names(&["read_file", "list"]),
        credentials: names(&["db"]),
        opened_by: Some("corporate:alice".into()),
        ..Grants::default()
    };
    WorkOrder {
        declared_intent: "read the \"quarterly\" reports\n".into(),
        grants: Arc::new(grants),
        call_budget,
        rate_limit: Some(7),
        ceiling: Sensitivity::Confidential,
        created_at: Timestamp(1_000_000_000),
        expires_at: Timestamp(9_000_000_000),
        ..order(agent)
    }
}

/// Returns the right to call these tools.
pub(crate) fn granted(tools: &[&str]) -> Arc<Grants> {
    Arc::new(Grants { tools: names(tools), ..Grants::default() })
}

pub(crate) fn names(names: &[&str]) -> Arc<[String]> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Reads policies that are right.
pub(crate) fn policies(text: &str) -> PolicySet {
    let source = Source { name: "test.toml", text };
    PolicySet::parse(&[source]).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// Returns a token of Arbiter's own for an agent, good for an hour.
pub(crate) fn token(secret: &str, agent: &Agent, now: Timestamp) -> String {
    let minter = Minter::new(&Secret::new(secret.to_owned()));
    let minted = minter.mint(agent, 3_600, now);
    minted.unwrap_or_else(|error| panic!("{error:?}")).token
}
