//! How far the audit log has got: what an operator writes down elsewhere to pin it.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::Admin;
use super::error::ApiError;
use super::routes::{Answer, Input};

#[derive(Serialize, JsonSchema)]
pub struct AuditHead {
    /// Of the last record; 0 before the first.
    sequence: u64,
    /// `chain_record_hash` of the last record.
    hash: String,
    healthy: bool,
}

pub(super) async fn head(admin: Arc<Admin>, _input: Input) -> Result<Answer, ApiError> {
    let head = admin.audit.head();
    Answer::of(&AuditHead { sequence: head.sequence, hash: head.hash, healthy: head.healthy })
}
