//! From what is asked to the few policies that may speak of it.
//!
//! Policies are found by exact name and by the beginnings of the name, so those that name other
//! tools cost nothing. Each list is sorted by the highest rank its policies can reach, so a search
//! ends at the first policy that cannot win any more. A long list is cut once more, by the one
//! criterion of each policy that fewest callers meet: ten thousand policies for ten thousand
//! agents cost what one does.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;

use super::evaluate::Rank;
use super::model::{AgentMatch, Effect, IntentMatch, Name, Policy, PrincipalMatch};
use super::words::{push_lower, words};
use super::{Facts, Target};
use crate::firewall::agent::AgentId;
use crate::firewall::call::Place;

/// Lists up to this length are searched from end to end.
const SHORT_LIST: usize = 16;

/// Places of policies in the set, best rank first.
type List = Vec<usize>;

/// Where to look for the policies of one set.
#[derive(Debug, Default)]
pub(super) struct Index {
    tools: ByName,
    resources: ByName,
    prompts: ByName,
    methods: ByName,
    /// One allow policy for each combination of agent, principal and intent.
    allows: Candidates,
}

impl Index {
    pub(super) fn of(policies: &[Policy]) -> Self {
        let by_name = |names: fn(&Policy) -> &[Name]| ByName::of(policies, names);
        Self {
            tools: by_name(|policy| &policy.allowed_tools),
            resources: by_name(|policy| &policy.allowed_resources),
            prompts: by_name(|policy| &policy.allowed_prompts),
            methods: by_name(|policy| &policy.allowed_methods),
            allows: Candidates::of(policies, distinct_allows(policies)),
        }
    }

    /// Shows `visit` every list in which a policy for this call and caller can stand, best rank
    /// first within each. A policy may stand in more than one.
    pub(super) fn lists(
        &self,
        target: Target<'_>,
        facts: &Facts<'_>,
        visit: &mut dyn FnMut(&[usize]),
    ) {
        let by_name = match target {
            Target::Tool(_) | Target::ToolAt(..) => &self.tools,
            Target::Resource(_) => &self.resources,
            Target::Prompt(_) => &self.prompts,
            Target::Method(_) => &self.methods,
        };
        let mut show = |candidates: &Candidates| candidates.lists(facts, visit);
        match target {
            Target::ToolAt(place, name) => by_name.candidates_at(place, name, show),
            Target::Tool(name)
            | Target::Resource(name)
            | Target::Prompt(name)
            | Target::Method(name) => by_name.candidates(name, 0..=name.len(), &mut show),
        }
    }

    /// The same for the allow policies, whatever they allow.
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
    fn of(policies: &[Policy], names: fn(&Policy) -> &[Name]) -> Self {
        let mut exact: HashMap<Box<str>, List> = HashMap::new();
        let mut prefixes: HashMap<Box<str>, List> = HashMap::new();
        for (place, policy) in policies.iter().enumerate() {
            for name in names(policy) {
                match name {
                    Name::Exact(name) => exact.entry(name.clone()).or_default().push(place),
                    Name::Prefix(start) => prefixes.entry(start.clone()).or_default().push(place),
                }
            }
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

    /// Those that name the tool alone, and those that name it for this upstream. Entries that name
    /// an upstream are told from others by their beginning, so it must not be taken for a name.
    fn candidates_at(&self, place: Place<'_>, tool: &str, mut visit: impl FnMut(&Candidates)) {
        match place.qualified(tool) {
            None => self.candidates(tool, 0..=tool.len(), &mut visit),
            // Only entries that end before the colon speak of this tool by its own name.
            Some((looks_like, _)) => self.prefixed(tool, 0..=looks_like.len(), &mut visit),
        }
        if let Some(upstream) = place.upstream {
            let qualified = format!("{upstream}:{tool}");
            self.candidates(&qualified, upstream.len() + 1..=qualified.len(), &mut visit);
        }
    }

    fn candidates(
        &self,
        name: &str,
        prefixes: RangeInclusive<usize>,
        visit: &mut impl FnMut(&Candidates),
    ) {
        if let Some(candidates) = self.exact.get(name) {
            visit(candidates);
        }
        self.prefixed(name, prefixes, visit);
    }

    /// Those that name a beginning of `name` whose length is among `lengths`.
    fn prefixed(
        &self,
        name: &str,
        lengths: RangeInclusive<usize>,
        visit: &mut impl FnMut(&Candidates),
    ) {
        for length in self.prefix_lengths.iter().filter(|length| lengths.contains(length)) {
            // A length that cuts a character in two is no beginning of this name.
            let start = name.get(..*length);
            if let Some(candidates) = start.and_then(|start| self.prefixes.get(start)) {
                visit(candidates);
            }
        }
    }
}

/// Policies that speak of the same thing.
#[derive(Debug, Default)]
struct Candidates {
    /// Those that are looked at for every caller.
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
