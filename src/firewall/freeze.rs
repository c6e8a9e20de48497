//! Freezes: what operators have stopped, until they let it go on.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::agent::{Agent, AgentId};
use super::call::{Entry, UpstreamRef};
use super::time::{Mono, Now, Timestamp};

/// Freezes that may be in force at once; one of everything comes on top.
pub const MAX_FREEZES: usize = 1_000;

/// Calls that a freeze stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "scope", content = "value", rename_all = "lowercase")]
pub enum Scope {
    All,
    /// Calls of this agent, and of the agents that act for it.
    Agent(AgentId),
    /// Calls of this owner's agents, and of the agents that act for one of them.
    Owner(Box<str>),
    /// Calls of tools with this name; the entry reads as in policies.
    Tool(Box<str>),
    /// Everything that goes to the upstream with this name.
    Upstream(Box<str>),
}

impl Scope {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Agent(_) => "agent",
            Self::Owner(_) => "owner",
            Self::Tool(_) => "tool",
            Self::Upstream(_) => "upstream",
        }
    }

    /// Returns the agent, owner, tool or upstream that is stopped.
    pub fn value(&self) -> Option<String> {
        match self {
            Self::All => None,
            Self::Agent(id) => Some(id.to_string()),
            Self::Owner(name) | Self::Tool(name) | Self::Upstream(name) => Some(name.to_string()),
        }
    }
}

/// Words for the agent that meets a freeze, without its value.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all calls",
            Self::Agent(_) => "this agent",
            Self::Owner(_) => "this owner's agents",
            Self::Tool(_) => "this tool",
            Self::Upstream(_) => "this server",
        })
    }
}

/// An operator's stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    pub id: Uuid,
    #[serde(flatten)]
    pub scope: Scope,
    pub reason: Box<str>,
    /// Name of the key or person that set it.
    pub by: Box<str>,
    pub frozen_at: Timestamp,
    /// Without it the freeze lasts until it is lifted.
    pub until: Option<Timestamp>,
}

/// A freeze as this run holds it.
#[derive(Clone, Debug)]
pub struct Held {
    pub freeze: Arc<Freeze>,
    /// End by the monotonic clock, so that a wall clock set forward ends nothing early.
    deadline: Option<Mono>,
}

impl Held {
    pub fn new(freeze: Arc<Freeze>, now: Now) -> Self {
        let deadline = freeze.until.map(|until| now.mono_at(until));
        Self { freeze, deadline }
    }

    pub fn is_over(&self, now: Now) -> bool {
        match (self.freeze.until, self.deadline) {
            (Some(until), Some(deadline)) => now.wall >= until && now.mono >= deadline,
            (None, _) | (_, None) => false,
        }
    }
}

/// Every freeze of one moment: immutable, and replaced whole.
#[derive(Debug, Default)]
pub struct Freezes {
    all: Vec<Held>,
    agents: HashMap<AgentId, Vec<Held>>,
    owners: HashMap<Box<str>, Vec<Held>>,
    upstreams: HashMap<Box<str>, Vec<Held>>,
    /// By the tool's name, whatever upstream has it.
    tools: HashMap<Box<str>, Vec<Held>>,
    /// Freezes of tools whose names begin alike.
    prefixes: Vec<Held>,
    any: bool,
}

impl Freezes {
    pub fn of(held: impl IntoIterator<Item = Held>) -> Self {
        let mut freezes = Self::default();
        for held in held {
            freezes.any = true;
            let freeze = Arc::clone(&held.freeze);
            match &freeze.scope {
                Scope::All => freezes.all.push(held),
                Scope::Agent(id) => put(&mut freezes.agents, *id, held),
                Scope::Owner(name) => put(&mut freezes.owners, name.clone(), held),
                Scope::Upstream(name) => put(&mut freezes.upstreams, name.clone(), held),
                Scope::Tool(entry) => match Entry::of(entry).tool {
                    tool if tool.ends_with('*') => freezes.prefixes.push(held),
                    tool => put(&mut freezes.tools, tool.into(), held),
                },
            }
        }
        freezes
    }

    /// Returns a freeze of whatever the agent would do at this upstream. `above` are the agents that it
    /// acts for.
    pub fn of_caller(
        &self,
        agent: &Agent,
        above: &[Arc<Agent>],
        upstream: UpstreamRef<'_>,
        now: Now,
    ) -> Option<&Freeze> {
        if !self.any {
            return None;
        }
        let agents = || above.iter().map(|agent| &**agent).chain([agent]);
        let by_agent = agents().filter_map(|agent| self.agents.get(&agent.id));
        let by_owner = agents().filter_map(|agent| self.owners.get(&*agent.owner));
        let by_upstream = upstream.name.and_then(|name| self.upstreams.get(name));
        let lists = by_agent.chain(by_owner).chain(by_upstream);
        first(&self.all, now).or_else(|| first(lists.flatten(), now))
    }

    /// Returns a freeze of a tool of this upstream.
    pub fn of_tool(&self, tool: &str, upstream: UpstreamRef<'_>, now: Now) -> Option<&Freeze> {
        if !self.any {
            return None;
        }
        let named = self.tools.get(tool).into_iter().flatten();
        let alike = self.prefixes.iter().filter(|held| match &held.freeze.scope {
            Scope::Tool(entry) => {
                Entry::of(entry).tool.strip_suffix('*').is_some_and(|start| tool.starts_with(start))
            }
            Scope::All | Scope::Agent(_) | Scope::Owner(_) | Scope::Upstream(_) => false,
        });
        let here = named.chain(alike).filter(|held| match &held.freeze.scope {
            Scope::Tool(entry) => Entry::of(entry).at(upstream).is_some(),
            Scope::All | Scope::Agent(_) | Scope::Owner(_) | Scope::Upstream(_) => false,
        });
        first(here, now)
    }
}

fn put<K: Eq + Hash>(map: &mut HashMap<K, Vec<Held>>, key: K, held: Held) {
    map.entry(key).or_default().push(held);
}

fn first<'a>(held: impl IntoIterator<Item = &'a Held>, now: Now) -> Option<&'a Freeze> {
    held.into_iter().find(|held| !held.is_over(now)).map(|held| &*held.freeze)
}

/// The freezes that a decision looks at, and the agents that its caller acts for.
#[derive(Clone, Copy, Debug)]
pub struct Frozen<'a> {
    pub freezes: &'a Freezes,
    pub above: &'a [Arc<Agent>],
}

impl<'a> Frozen<'a> {
    /// For a caller that acts for nobody.
    pub fn alone(freezes: &'a Freezes) -> Self {
        Self { freezes, above: &[] }
    }
}
