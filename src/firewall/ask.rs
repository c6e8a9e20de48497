//! The question that a decision answers: calls, with everything that was looked up for them.

use super::agent::Caller;
use super::call::{Call, UpstreamRef};
use super::checks::continuation::RequestState;
use super::checks::owner;
use super::checks::session::{AgentHeader, Claimed, Found};
use super::checks::task::Owned;
use super::freeze::Frozen;
use super::policy::{Facts, PolicySet};
use super::terms::Terms;
use super::time::Now;

/// A message to decide, with everything that was looked up for it.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub policies: &'a PolicySet,
    pub terms: &'a Terms,
    pub frozen: Frozen<'a>,
    pub caller: &'a Caller,
    pub header: AgentHeader,
    pub claimed: Claimed<'a>,
    pub calls: &'a [Call<'a>],
    /// Tasks that the calls are about, as far as the session owns them.
    pub tasks: &'a [Owned<'a>],
    /// State by which the calls go on with the round before.
    pub state: RequestState,
    pub upstream: UpstreamRef<'a>,
    /// The instant of the look-ups.
    pub now: Now,
}

impl<'a> Ask<'a> {
    /// The session, if there is one and the caller may use it.
    pub fn session(&self) -> Option<&Found<'a>> {
        let owned = owner::check(self.caller.agent.id, self.header, &self.claimed).is_ok();
        self.claimed.found().filter(|_| owned)
    }

    /// The caller and the intent, as the policies are asked about them.
    pub fn facts(&self) -> Facts<'a> {
        Facts {
            agent: &self.caller.agent,
            principal: &self.caller.principal,
            intent: self.claimed.found().map(|found| &*found.order.declared_intent),
        }
    }
}
