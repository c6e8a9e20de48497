//! Index from what is asked to the few policies that may apply to it.
//!
//! Policies are found by exact name and by the beginnings of the name, so those that name other
//! tools cost nothing. Each list is sorted by the highest rank its policies can reach, so a search
//! ends at the first policy that cannot win any more. A long list is cut once more, by the one
//! criterion of each policy that fewest callers meet: ten thousand policies for ten thousand
//! agents cost what one does.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};

use super::Facts;
use super::evaluate::Rank;
use super::model::{AgentMatch, Effect, IntentMatch, Policy, PrincipalMatch};
use super::name::Name;
use super::wanted::Wanted;
use super::words::{push_lower, words};
use crate::firewall::agent::AgentId;

/// Lists up to this length are searched from end to end.
const SHORT_LIST: usize = 16;

/// Places of policies in the set, best rank first.
type List = Vec<usize>;

/// Index of the policies of one set.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Tools of any upstream.
    tools: ByName,
    /// Tools of one upstream, as `upstream:tool`.
    tools_at: ByName,
    resources: ByName,
    /// Refusals of resources: all of them apply to a doubtful URI.
    resource_refusals: Candidates,
    prompts: ByName,
    methods: ByName,
    /// One allow policy for each combination of agent, principal and intent.
    allows: Candidates,
}

impl Index {
    pub(super) fn of(policies: &[Policy]) -> Self {
        let by_name = |names: fn(&Policy) -> &[Name]| ByName::of(policies, names);
        let refusals = policies.iter().enumerate().filter(|(_, policy)| policy.refuses());
        let of_resources = refusals.filter(|(_, policy)| !policy.allowed_resources.is_empty());
        let of_resources = of_resources.map(|(place, _)| place).collect();
        Self {
            tools: by_name(|policy| &policy.allowed_tools),
            tools_at: ByName::at_upstreams(policies),
            resources: by_name(|policy| &policy.allowed_resources),
            resource_refusals: Candidates::of(policies, of_resources),
            prompts: by_name(|policy| &policy.allowed_prompts),
            methods: by_name(|policy| &policy.allowed_methods),
            allows: Candidates::of(policies, distinct_allows(policies)),
        }
    }

    /// Shows `visit` every list that can hold a policy for this call and caller, best rank first
    /// within each. A policy may be in more than one.
    pub(super) fn lists(
        &self,
        wanted: &Wanted<'_>,
        facts: &Facts<'_>,
        visit: &mut dyn FnMut(&[usize]),
    ) {
        let mut show = |candidates: &Candidates| candidates.lists(facts, visit);
        match wanted {
            Wanted::Tool(upstream, tool) => {
                self.tools.candidates(tool, &mut show);
                if let Some(upstream) = upstream
                    && !self.tools_at.is_empty()
                {
                    self.tools_at.candidates(&format!("{upstream}:{tool}"), &mut show);
                }
            }
            Wanted::Resource(Err(_)) => show(&self.resource_refusals),
            Wanted::Resource(Ok(uri)) => {
                self.resources.candidates_of_uri(uri.text(), &mut show);
                for other in uri.others() {
                    self.resources.candidates_of_uri(other, &mut show);
                }
            }
            Wanted::Prompt(name) => self.prompts.candidates(name, &mut show),
            Wanted::Method(name) => self.methods.candidates(name, &mut show),
        }
    }

    /// Shows `visit` the allow policies for this caller, regardless of what they allow.
    pub(super) fn allows(&self, facts: &Facts<'_>, visit: &mut dyn FnMut(&[usize])) {
        self.allows.lists(facts, visit);
    }
}

/// The best rank that the policy at `place` can reach.
pub(super) fn best_rank(policies: &[Policy], place: usize) -> Option<Rank> {
    policies.get(place).map(|policy| (policy.score(), policy.effect, Reverse(place)))
}

#[expect(clippy::mutable_key_type, reason = "a regex is compared by its text, not by its caches")]
fn distinct_allows(policies: &[Policy]) -> List {
    let mut seen: HashSet<(&AgentMatch, &PrincipalMatch, &IntentMatch)> = HashSet::new();
    let allows = policies.iter().enumerate().filter(|(_, policy)| policy.effect == Effect::Allow);
    allows
        .filter(|(_, p)| seen.insert((&p.agent_match, &p.principal_match, &p.intent_match)))
        .map(|(place, _)| place)
        .collect()
}

#[derive(Debug, Default)]
struct ByName {
    exact: HashMap<Box<str>, Candidates>,
    prefixes: HashMap<Box<str>, Candidates>,
    /// The lengths that prefixes have, in bytes, shortest first.
    prefix_lengths: Vec<usize>,
}

impl ByName {
    /// Files policies under their names that are limited to no upstream.
    fn of(policies: &[Policy], names: fn(&Policy) -> &[Name]) -> Self {
        let named = policies.iter().enumerate().flat_map(|(place, policy)| {
            let names = names(policy).iter().filter(|name| name.upstream().is_none());
            names.map(move |name| (place, name.fixed().into(), name.is_prefix()))
        });
        Self::filed(policies, named)
    }

    /// Files policies under their tools of one upstream. A name ends behind its colon or later, so
    /// no upstream's name begins another one's.
    fn at_upstreams(policies: &[Policy]) -> Self {
        let named = policies.iter().enumerate().flat_map(|(place, policy)| {
            policy.allowed_tools.iter().filter_map(move |name| {
                let key = format!("{}:{}", name.upstream()?, name.fixed());
                Some((place, key.into(), name.is_prefix()))
            })
        });
        Self::filed(policies, named)
    }

    fn filed(policies: &[Policy], named: impl Iterator<Item = (usize, Box<str>, bool)>) -> Self {
        let mut exact: HashMap<Box<str>, List> = HashMap::new();
        let mut prefixes: HashMap<Box<str>, List> = HashMap::new();
        for (place, key, is_prefix) in named {
            let lists = if is_prefix { &mut prefixes } else { &mut exact };
            lists.entry(key).or_default().push(place);
        }
        let lengths: BTreeSet<usize> = prefixes.keys().map(|start| start.len()).collect();
        let candidates = |lists: HashMap<Box<str>, List>| {
            lists.into_iter().map(|(name, list)| (name, Candidates::of(policies, list))).collect()
        };
        Self {
            exact: candidates(exact),
            prefixes: candidates(prefixes),
            prefix_lengths: lengths.into_iter().collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    /// Shows `visit` the policies that name `name` or a beginning of it.
    fn candidates(&self, name: &str, visit: &mut impl FnMut(&Candidates)) {
        if let Some(candidates) = self.exact.get(name) {
            visit(candidates);
        }
        for length in self.prefix_lengths.iter().take_while(|length| **length <= name.len()) {
            // A length that cuts a character in two is no beginning of this name.
            let start = name.get(..*length);
            if let Some(candidates) = start.and_then(|start| self.prefixes.get(start)) {
                visit(candidates);
            }
        }
    }

    /// Shows also those whose beginning is the URI and a `/`.
    fn candidates_of_uri(&self, uri: &str, visit: &mut impl FnMut(&Candidates)) {
        self.candidates(uri, visit);
        if !self.prefixes.is_empty()
            && let Some(candidates) = self.prefixes.get(format!("{uri}/").as_str())
        {
            visit(candidates);
        }
    }
}

/// Policies that name one thing.
#[derive(Debug, Default)]
struct Candidates {
    /// Policies considered for every caller.
    open: List,
    /// The rest of a long list.
    cut: Option<Box<Cut>>,
}

/// Policies by a criterion without which they cannot match.
#[derive(Debug, Default)]
struct Cut {
    agents: HashMap<AgentId, List>,
    subjects: HashMap<Box<str>, List>,
    groups: HashMap<Box<str>, List>,
    capabilities: HashMap<Box<str>, List>,
    /// In lower case.
    words: HashMap<Box<str>, List>,
}

impl Candidates {
    fn of(policies: &[Policy], mut list: List) -> Self {
        list.sort_by_cached_key(|place| Reverse(best_rank(policies, *place)));
        if list.len() <= SHORT_LIST {
            return Self { open: list, cut: None };
        }
        let mut open = List::new();
        let mut cut = Cut::default();
        for place in list {
            if !policies.get(place).is_some_and(|policy| cut.take(policy, place)) {
                open.push(place);
            }
        }
        Self { open, cut: Some(Box::new(cut)) }
    }

    fn lists(&self, facts: &Facts<'_>, visit: &mut dyn FnMut(&[usize])) {
        if !self.open.is_empty() {
            visit(&self.open);
        }
        if let Some(cut) = &self.cut {
            cut.lists(facts, visit);
        }
    }
}

impl Cut {
    /// Files a policy under its narrowest criterion; false if it has none that can be looked up.
    fn take(&mut self, policy: &Policy, place: usize) -> bool {
        let (agent, principal) = (&policy.agent_match, &policy.principal_match);
        if let Some(id) = agent.agent_id {
            self.agents.entry(id).or_default().push(place);
        } else if let Some(sub) = &principal.sub {
            put(&mut self.subjects, sub, place);
        } else if !principal.groups.is_empty() {
            for group in &principal.groups {
                put(&mut self.groups, group, place);
            }
        } else if let Some(capability) = agent.capabilities.first() {
            put(&mut self.capabilities, capability, place);
        } else if let (Effect::Allow, Some(keyword)) =
            (policy.effect, policy.intent_match.keywords.first())
        {
            // Only allow policies: the others match without an intent too.
            put(&mut self.words, keyword.first(), place);
        } else {
            return false;
        }
        true
    }

    fn lists(&self, facts: &Facts<'_>, visit: &mut dyn FnMut(&[usize])) {
        let Facts { agent, principal, intent } = *facts;
        if let Some(list) = self.agents.get(&agent.id) {
            visit(list);
        }
        show(&self.subjects, [&principal.subject], visit);
        show(&self.groups, &principal.groups, visit);
        show(&self.capabilities, &agent.capabilities, visit);
        if self.words.is_empty() {
            return;
        }
        let mut lower = String::new();
        for word in words(intent.unwrap_or_default()) {
            lower.clear();
            push_lower(&mut lower, word);
            show(&self.words, [&lower], visit);
        }
    }
}

fn put(map: &mut HashMap<Box<str>, List>, key: &str, place: usize) {
    map.entry(key.into()).or_default().push(place);
}

fn show(
    map: &HashMap<Box<str>, List>,
    keys: impl IntoIterator<Item = impl AsRef<str>>,
    visit: &mut dyn FnMut(&[usize]),
) {
    if map.is_empty() {
        return;
    }
    for list in keys.into_iter().filter_map(|key| map.get(key.as_ref())) {
        visit(list);
    }
}
