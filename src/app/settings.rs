//! Settings of the rooms, as the configuration has them.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::node;
use crate::audit;
use crate::audit::checkpoint::SigningKey;
use crate::audit::redact::Redactor;
use crate::config::{self, Config};
use crate::firewall::checks::drift::{Tools, UnknownIntent};
use crate::firewall::checks::whitelist::Wildcard;
use crate::firewall::elicitation::Elicitation;
use crate::firewall::terms::Terms;
use crate::gate::asking::Asking;
use crate::gate::shares::Limits;
use crate::secrets::Secrets;
use crate::sessions;
use crate::store::SealKey;

/// Rules for the questions of servers.
pub(super) fn asking(
    proxy: &config::Proxy,
    secrets: &Arc<Secrets>,
    redactor: &Redactor,
) -> Result<Asking> {
    let hosts: Vec<&str> = proxy.allowed_elicitation_hosts.iter().map(String::as_str).collect();
    Ok(Asking {
        elicitation: Elicitation::parse(&hosts).map_err(anyhow::Error::msg)?,
        secrets: Arc::clone(secrets),
        secret_names: proxy.refuse_secret_forms.then(|| redactor.clone()),
    })
}

pub(super) fn session_limits(config: &Config) -> Result<sessions::Settings> {
    Ok(sessions::Settings {
        max_per_agent: usize::try_from(config.sessions.max_concurrent_sessions_per_agent)?,
        rate_window_secs: config.sessions.rate_limit_window_secs,
    })
}

/// Secrets that key what is kept of tasks and states.
pub(super) fn mark_secrets(secrets: &config::SigningSecrets) -> impl Iterator<Item = &[u8]> {
    secrets.all().map(|secret| secret.expose().as_bytes())
}

pub(super) fn limits_of_agents(config: &Config) -> Limits {
    Limits {
        max_calls: config.proxy.max_calls_in_flight,
        share_pct: config.proxy.max_share_per_agent_pct,
        refusals_per_sec: config.proxy.max_refusals_per_agent_per_sec,
        log_bytes_per_sec: config.audit.max_bytes_per_agent_per_sec,
    }
}

pub(super) fn terms(config: &Config) -> Terms {
    let sessions = &config.sessions;
    Terms {
        require_session: config.proxy.require_session,
        rate_window_secs: sessions.rate_limit_window_secs,
        wildcard: if sessions.allow_wildcard_tools {
            Wildcard::Honoured
        } else {
            Wildcard::Literal
        },
        escalate_anomalies: sessions.escalate_anomalies,
        unknown_intent: match sessions.unknown_intent {
            config::UnknownIntent::Off => UnknownIntent::Off,
            config::UnknownIntent::Flag => UnknownIntent::Flag,
            config::UnknownIntent::Enforce => UnknownIntent::Enforce,
        },
        warning_threshold_pct: sessions.warning_threshold_pct,
        upstreams: config.upstream_names().into(),
        tools: drift_tools(config),
    }
}

/// Operations of tools whose names do not show them.
pub(crate) fn drift_tools(config: &Config) -> Tools {
    Tools::of(config.tools.iter().map(|tool| (tool.name.clone(), tool.operation)))
}

pub(crate) fn audit_settings(config: &Config) -> Result<audit::Settings> {
    let audit = &config.audit;
    let node_id = match (&audit.node_id, &audit.checkpoint_key_file) {
        (Some(name), _) => name.clone(),
        (None, _) if !audit.enabled => String::new(),
        (None, Some(key)) => SigningKey::load(key)
            .with_context(|| format!("`audit.checkpoint_key_file` {}", key.display()))?
            .name()
            .to_owned(),
        (None, None) => node::id(&audit.file_path)?,
    };
    Ok(audit::Settings {
        enabled: audit.enabled,
        path: audit.file_path.clone(),
        require_healthy: audit.require_healthy,
        hash_chain: audit.hash_chain,
        durability: match audit.durability {
            config::Durability::Write => audit::Durability::Write,
            config::Durability::Sync => audit::Durability::Sync,
        },
        node_id,
        max_argument_bytes: audit.max_argument_bytes,
        max_calls_in_flight: config.proxy.max_calls_in_flight,
        rotation: audit::Rotation {
            bytes: audit.rotate_bytes,
            secs: audit.rotate_secs,
            compress: audit.compress_rotated,
            keep_files: audit.keep_files,
        },
        checkpoints: audit.checkpoint_key_file.clone().map(|key_file| audit::CheckpointSettings {
            key_file,
            every_records: audit.checkpoint_records,
            every_secs: audit.checkpoint_secs,
        }),
        max_unauthenticated_records_per_sec: audit.max_unauthenticated_records_per_sec,
    })
}

pub(super) fn seal_key(config: &Config) -> Result<Option<SealKey>> {
    let Some(key) = &config.storage.encryption_key else { return Ok(None) };
    let key = SealKey::from_hex(key.expose());
    Ok(Some(key.context("ARBITER_STORAGE_ENCRYPTION_KEY must be 64 hexadecimal characters")?))
}
