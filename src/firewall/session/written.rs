//! A work order as stores and nodes write it: every field by itself, in a fixed order.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{IntentTier, RefusalStyle, Sensitivity, SessionId, WorkOrder};
use crate::firewall::agent::AgentId;
use crate::firewall::granted::Grants;
use crate::firewall::time::Timestamp;

#[derive(Serialize, Deserialize)]
#[serde(rename = "WorkOrder")]
pub(super) struct WrittenOrder {
    id: SessionId,
    agent: AgentId,
    declared_intent: Box<str>,
    intent_tier: IntentTier,
    authorized_tools: Arc<[String]>,
    authorized_resources: Arc<[String]>,
    authorized_prompts: Arc<[String]>,
    authorized_methods: Arc<[String]>,
    authorized_credentials: Arc<[String]>,
    call_budget: u64,
    rate_limit: Option<u32>,
    ceiling: Sensitivity,
    refusal_style: Option<RefusalStyle>,
    delegation_chain: Arc<[AgentId]>,
    created_at: Timestamp,
    expires_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    opened_by: Option<Arc<str>>,
}

impl From<WorkOrder> for WrittenOrder {
    fn from(order: WorkOrder) -> Self {
        let Grants { tools, resources, prompts, methods, credentials, opened_by } =
            Arc::unwrap_or_clone(order.grants);
        Self {
            id: order.id,
            agent: order.agent,
            declared_intent: order.declared_intent,
            intent_tier: order.intent_tier,
            authorized_tools: tools,
            authorized_resources: resources,
            authorized_prompts: prompts,
            authorized_methods: methods,
            authorized_credentials: credentials,
            call_budget: order.call_budget,
            rate_limit: order.rate_limit,
            ceiling: order.ceiling,
            refusal_style: order.refusal_style,
            delegation_chain: order.delegation_chain,
            created_at: order.created_at,
            expires_at: order.expires_at,
            opened_by,
        }
    }
}

impl From<WrittenOrder> for WorkOrder {
    fn from(written: WrittenOrder) -> Self {
        let grants = Grants {
            tools: written.authorized_tools,
            resources: written.authorized_resources,
            prompts: written.authorized_prompts,
            methods: written.authorized_methods,
            credentials: written.authorized_credentials,
            opened_by: written.opened_by,
        };
        Self {
            id: written.id,
            agent: written.agent,
            declared_intent: written.declared_intent,
            intent_tier: written.intent_tier,
            grants: Arc::new(grants),
            call_budget: written.call_budget,
            rate_limit: written.rate_limit,
            ceiling: written.ceiling,
            refusal_style: written.refusal_style,
            delegation_chain: written.delegation_chain,
            created_at: written.created_at,
            expires_at: written.expires_at,
        }
    }
}
