//! The caller: the token, the agent behind it, and its right to act at this instant.

use std::sync::Arc;

use tracing::warn;

use super::phases::{Arrived, Contents, Denied, Identified, Read};
use super::ticket::Ticket;
use super::{Gate, store_unavailable};
use crate::firewall::agent::{Agent, AgentId, Caller, Principal};
use crate::firewall::checks::{agent, token};
use crate::firewall::delegation::Lapse;
use crate::firewall::denial::{Code, Denial};
use crate::firewall::time::Now;
use crate::identity::TokenError;
use crate::registry::Acting;
use crate::telemetry::Causes;

impl Gate {
    /// Proves the caller, and charges the request to that agent.
    pub async fn identify(
        &self,
        mut arrived: Arrived,
        token: Option<&str>,
    ) -> Result<Identified, Box<Denied>> {
        let ticket = arrived.ticket();
        let proved = match self.prove(ticket, token).await {
            // Only now: a token that has expired or was revoked must not use up its agent's part.
            Ok(caller) => ticket.charge(caller.agent.id).map(|()| caller),
            Err(denial) => Err(denial),
        };
        match proved {
            Ok(caller) => Ok(arrived.by(caller)),
            Err(denial) => Err(arrived.denied(denial)),
        }
    }

    async fn prove(&self, ticket: &mut Ticket, token: Option<&str>) -> Result<Caller, Denial> {
        let token = token.ok_or_else(|| {
            Denial::new(Code::TokenMissing, "send one Authorization header with a Bearer token")
        })?;
        let verified = match self.state.identity.remembered(token, ticket.arrived()) {
            Some(known) => known,
            // Boxed, because few requests come this way and all would carry its room.
            None => Box::pin(self.state.identity.verify(token, ticket.arrived())).await,
        };
        let principal = verified.map_err(|error| {
            if let TokenError::Claim(name) = &error {
                ticket.entry_mut().claim = Some(name.clone());
            }
            token_denial(&error)
        })?;
        ticket.entry_mut().principal = Some(principal.subject.clone());
        ticket.entry_mut().agent_id = principal.agent;
        let now = ticket.arrived();
        if let Some(caller) = self.authorization(ticket, &principal, now)? {
            return Ok(caller);
        }
        if self.state.freshness.has_others() {
            // Another node may have registered it a moment ago.
            Box::pin(self.catch_up()).await?;
            if let Some(caller) = self.authorization(ticket, &principal, now)? {
                return Ok(caller);
            }
        }
        let agent = Box::pin(self.enrol(ticket, &principal)).await?;
        let chain: Arc<[AgentId]> = [agent.id].into();
        ticket.entry_mut().delegation_chain = Arc::clone(&chain);
        Ok(Caller { agent, principal, chain })
    }

    async fn catch_up(&self) -> Result<(), Denial> {
        self.state.freshness.catch_up(&self.state.clock).await.map_err(|error| {
            warn!(error = %Causes(&error), "store did not answer; call refused");
            store_unavailable()
        })
    }

    /// Looks up the agent of a principal as it is now, with its delegators; `None` if the agent
    /// is not known.
    fn authorization(
        &self,
        ticket: &mut Ticket,
        principal: &Arc<Principal>,
        now: Now,
    ) -> Result<Option<Caller>, Denial> {
        let Some(Acting { agent, chain }) = self.acting(principal, now)? else { return Ok(None) };
        ticket.entry_mut().delegation_chain = Arc::clone(&chain);
        let agent = agent::check(Some(agent))?;
        Ok(Some(Caller { agent, principal: principal.clone(), chain }))
    }

    /// Looks up how the agent of a principal may act right now; `None` if it is not known.
    pub(super) fn acting(&self, principal: &Principal, now: Now) -> Result<Option<Acting>, Denial> {
        let revoked =
            principal.token_id.as_deref().is_some_and(|jti| self.state.registry.is_revoked(jti));
        let token = token::check(principal.expires_at, revoked, now.wall);
        if self.state.freshness.is_stale(now.mono) {
            // What a node that lags knows is enough to refuse, never to let pass.
            token?;
            return Err(store_unavailable());
        }
        token?;
        Ok(principal.agent.and_then(|id| self.state.registry.acting(id, now.wall)))
    }

    /// Looks the caller up again, now that the whole request is here: a body may take its time to
    /// arrive, and what was revoked meanwhile is revoked.
    pub(super) fn recheck_caller(&self, read: &mut Read) -> Result<(), Denial> {
        let now = self.state.clock.now();
        let Contents { ticket, caller, .. } = read.contents();
        ticket.judged_from(now.mono);
        let caller = self.caller_now(ticket, caller, now)?;
        read.by(caller);
        Ok(())
    }

    /// Returns the caller as it may act now.
    pub(super) fn caller_now(
        &self,
        ticket: &mut Ticket,
        caller: &Caller,
        now: Now,
    ) -> Result<Caller, Denial> {
        self.authorization(ticket, &caller.principal, now)?.ok_or_else(agent::unknown)
    }

    /// The scopes that policies ask tokens for.
    pub fn scopes_asked(&self) -> Vec<String> {
        self.state.rulebook.rules().policies.scopes_asked().map(str::to_owned).collect()
    }

    /// Registers an agent that is not known, where its issuer may bring agents in.
    async fn enrol(
        &self,
        ticket: &mut Ticket,
        principal: &Principal,
    ) -> Result<Arc<Agent>, Denial> {
        let Some(id) = principal.agent else {
            let claim = self.state.identity.agent_claim(&principal.issuer);
            ticket.entry_mut().claim = Some(claim.into());
            return Err(agent::unnamed(claim));
        };
        if self.state.registry.is_tombstone(id) {
            return Err(Lapse::Agent.into());
        }
        let now = ticket.arrived().wall;
        let enrolled = self.state.enrolment.enrol(&self.state.registry, id, principal, now).await;
        let agent = enrolled.map_err(|error| {
            warn!(agent = %id, error = %Causes(&error), "store did not answer; agent not registered, call refused");
            store_unavailable()
        })?;
        let agent = agent.ok_or_else(agent::unknown)?;
        ticket.entry_mut().anomaly_flags.push("auto_registered");
        Ok(agent)
    }
}

/// Delay after which an agent may ask again while its issuer cannot be asked.
const ISSUER_RETRY_SECS: u64 = 5;

fn token_denial(error: &TokenError) -> Denial {
    if error.is_passing() {
        // No fault of the token's: a challenge would send its client to an issuer that is down.
        let message = format!("{error}: keep the token and try again later");
        return Denial::new(Code::IdentityUnavailable, message).retry_after(ISSUER_RETRY_SECS);
    }
    let expired = *error == TokenError::Expired;
    let code = if expired { Code::TokenExpired } else { Code::TokenInvalid };
    Denial::new(code, format!("{error}: get a new token"))
}
