//! Over random graphs that change: at no time may an agent do more than anyone above it, and what it
//! may do is what a plain reading of the rules says. Judged by `admit` itself.

use proptest::prelude::*;

use super::*;
use crate::firewall::admit::admit;
use crate::firewall::agent::{Agent, Caller};
use crate::firewall::ask::Ask;
use crate::firewall::call::{Call, CallKind, UpstreamRef};
use crate::firewall::checks::continuation::RequestState;
use crate::firewall::checks::session::{AgentHeader, Claimed};
use crate::firewall::freeze::{Freezes, Frozen};
use crate::firewall::rules::Rules;
use crate::firewall::terms::Terms;
use crate::testkit;

const AGENTS: usize = 7;
const CAPABILITIES: [&str; 3] = ["a", "b", "c"];
const LEVELS: [TrustLevel; 4] =
    [TrustLevel::Untrusted, TrustLevel::Basic, TrustLevel::Verified, TrustLevel::Trusted];

/// One tool for each capability and each level, which an agent may call if it has that.
const POLICIES: &str = r#"
[[policies]]
id = "cap-a"
effect = "allow"
allowed_tools = ["a"]
agent_match = { capabilities = ["a"] }
[[policies]]
id = "cap-b"
effect = "allow"
allowed_tools = ["b"]
agent_match = { capabilities = ["b"] }
[[policies]]
id = "cap-c"
effect = "allow"
allowed_tools = ["c"]
agent_match = { capabilities = ["c"] }
[[policies]]
id = "basic"
effect = "allow"
allowed_tools = ["basic"]
agent_match = { trust_level = "basic" }
[[policies]]
id = "verified"
effect = "allow"
allowed_tools = ["verified"]
agent_match = { trust_level = "verified" }
[[policies]]
id = "trusted"
effect = "allow"
allowed_tools = ["trusted"]
agent_match = { trust_level = "trusted" }
"#;
const TOOLS: [&str; 6] = ["a", "b", "c", "basic", "verified", "trusted"];

#[derive(Clone, Debug)]
enum Step {
    Delegate { from: usize, to: usize, scopes: Vec<&'static str>, lasts: Option<i64> },
    Trust(usize, TrustLevel),
    Drift(usize),
    Deactivate(usize),
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let agent = 0..AGENTS;
    let scopes = prop::sample::subsequence(CAPABILITIES.to_vec(), 1..=3);
    let lasts = prop::option::of(1_i64..40);
    prop_oneof![
        12 => (agent.clone(), agent.clone(), scopes, lasts)
            .prop_map(|(from, to, scopes, lasts)| Step::Delegate { from, to, scopes, lasts }),
        3 => (agent.clone(), prop::sample::select(LEVELS.to_vec()))
            .prop_map(|(agent, level)| Step::Trust(agent, level)),
        2 => agent.clone().prop_map(Step::Drift),
        1 => agent.prop_map(Step::Deactivate),
        5 => (1_i64..12).prop_map(Step::Pass),
    ]
}

#[derive(Clone, Debug)]
struct Plain {
    capabilities: BTreeSet<&'static str>,
    trust: TrustLevel,
    active: bool,
    ends_at: Option<i64>,
}

#[derive(Clone, Debug)]
struct Link {
    from: usize,
    to: usize,
    scopes: BTreeSet<&'static str>,
    ends_at: Option<i64>,
}

/// Reference model: the graph in its plainest form.
#[derive(Default)]
struct Oracle {
    agents: Vec<Plain>,
    links: Vec<Link>,
    now: i64,
}

impl Oracle {
    fn lasts(&self, end: Option<i64>) -> bool {
        end.is_none_or(|end| self.now < end)
    }

    fn rights(&self, id: usize) -> Option<Plain> {
        let mut rights = self.agents[id].clone();
        if !rights.active || !self.lasts(rights.ends_at) {
            return None;
        }
        let to_it: Vec<&Link> =
            self.links.iter().filter(|link| link.to == id && self.lasts(link.ends_at)).collect();
        let mut some = to_it.is_empty();
        for link in to_it {
            let Some(from) = self.rights(link.from) else { continue };
            some = true;
            rights.capabilities = rights
                .capabilities
                .iter()
                .filter(|c| link.scopes.contains(*c) && from.capabilities.contains(*c))
                .copied()
                .collect();
            rights.trust = rights.trust.min(from.trust);
            rights.ends_at =
                [rights.ends_at, link.ends_at, from.ends_at].into_iter().flatten().min();
        }
        some.then_some(rights)
    }

    /// Everyone above that stands behind an agent now.
    fn above(&self, id: usize) -> BTreeSet<usize> {
        let mut all = BTreeSet::new();
        for link in self.links.iter().filter(|link| link.to == id && self.lasts(link.ends_at)) {
            if self.rights(link.from).is_some() {
                all.insert(link.from);
                all.extend(self.above(link.from));
            }
        }
        all
    }

    fn deactivate(&mut self, id: usize) {
        self.agents[id].active = false;
        let in_force = self.links.iter().filter(|l| l.from == id && self.lasts(l.ends_at));
        let below: Vec<usize> = in_force.map(|link| link.to).collect();
        for id in below {
            self.deactivate(id);
        }
    }

    fn holds(&self, chain: &[usize]) -> bool {
        chain.windows(2).all(|pair| {
            let from = &self.agents[pair[0]];
            let linked = |link: &Link| {
                (link.from, link.to) == (pair[0], pair[1]) && self.lasts(link.ends_at)
            };
            from.active && self.lasts(from.ends_at) && self.links.iter().any(linked)
        })
    }
}

struct World {
    registry: Registry,
    clock: Clock,
    ids: Vec<AgentId>,
    oracle: Oracle,
    rules: Rules,
    /// The chains of sessions that were opened, and of whom.
    opened: BTreeSet<Vec<usize>>,
}

impl World {
    async fn new(agents: Vec<Plain>) -> Self {
        let clock = Clock::manual(Timestamp(0));
        let store = Arc::new(Store::memory());
        let registry = Registry::load(store, clock.clone()).await.unwrap();
        let mut ids = Vec::new();
        for agent in &agents {
            let capabilities: Vec<&str> = agent.capabilities.iter().copied().collect();
            let new = NewAgent { trust: agent.trust, ..new(&capabilities, agent.ends_at) };
            ids.push(registry.register(new, Timestamp(0)).await.unwrap().id);
        }
        let rules = Rules {
            policies: testkit::policies(POLICIES),
            terms: Terms { require_session: false, ..Terms::default() },
        };
        let oracle = Oracle { agents, ..Oracle::default() };
        Self { registry, clock, ids, oracle, rules, opened: BTreeSet::new() }
    }

    async fn take(&mut self, step: Step) {
        let at = Timestamp(self.oracle.now);
        match step {
            Step::Delegate { from, to, scopes, lasts } => {
                let ends_at = lasts.map(|lasts| self.oracle.now + lasts);
                let (a, b) = (self.ids[from], self.ids[to]);
                let end = ends_at.map(Timestamp);
                let made = self.registry.delegate(a, b, texts(&scopes), end, at).await;
                self.check_made(from, to, &scopes, ends_at, made.map(drop));
            }
            Step::Trust(id, trust) => {
                self.registry.set_trust(self.ids[id], trust).await.unwrap();
                self.oracle.agents[id].trust = trust;
            }
            Step::Drift(id) => {
                let demoted = flag(&self.registry, self.ids[id], 5, now(0));
                if let Some(level) = demoted {
                    assert!(level < self.oracle.agents[id].trust);
                    self.oracle.agents[id].trust = level;
                }
            }
            Step::Deactivate(id) => {
                self.registry.deactivate(self.ids[id]).await.unwrap();
                self.oracle.deactivate(id);
            }
            Step::Pass(us) => {
                self.oracle.now += us;
                self.clock.advance_us(us.unsigned_abs());
            }
        }
    }

    fn check_made(
        &mut self,
        from: usize,
        to: usize,
        scopes: &[&'static str],
        ends_at: Option<i64>,
        made: Result<(), DelegateError>,
    ) {
        let given = self.oracle.rights(from);
        let circle = from == to || self.oracle.links_below(to).contains(&from);
        match made {
            Ok(()) => {
                let given = given.expect("only who may act delegates");
                assert!(!circle && scopes.iter().all(|scope| given.capabilities.contains(scope)));
                let ends = |end: Option<i64>| end.unwrap_or(i64::MAX);
                assert!(ends(ends_at) <= ends(given.ends_at));
                let scopes: BTreeSet<_> = scopes.iter().copied().collect();
                // One like it gives way.
                let like =
                    |link: &Link| (link.from, link.to) == (from, to) && link.scopes == scopes;
                self.oracle.links.retain(|link| !like(link));
                self.oracle.links.push(Link { from, to, scopes, ends_at });
            }
            Err(DelegateError::Cycle) => assert!(circle),
            Err(DelegateError::Inactive(id)) => {
                let plain = &self.oracle.agents[to];
                let to_is_over = !plain.active || !self.oracle.lasts(plain.ends_at);
                assert!(
                    id == self.ids[from] && given.is_none() || id == self.ids[to] && to_is_over
                );
            }
            Err(DelegateError::ScopeNarrowing { extra }) => {
                let has = given.unwrap().capabilities;
                assert!(!extra.is_empty());
                assert!(extra.iter().all(|scope| !has.contains(scope.as_str())));
            }
            Err(DelegateError::ExpiryWidening(bound)) => {
                assert_eq!(Some(bound.0), given.unwrap().ends_at);
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// Asks `admit` if a caller may call a tool.
    fn may_call(&self, caller: &Caller, tool: &str) -> bool {
        let call = Call {
            method: None,
            id: None,
            params: None,
            meta: None,
            kind: CallKind::Tool { name: tool.into(), arguments: None },
        };
        let freezes = Freezes::default();
        let ask = Ask {
            policies: &self.rules.policies,
            terms: &self.rules.terms,
            frozen: Frozen::alone(&freezes),
            caller,
            header: AgentHeader::Absent,
            claimed: Claimed::Nothing,
            calls: &[call],
            tasks: &[],
            state: RequestState::Absent,
            upstream: UpstreamRef::default(),
            now: now(0),
        };
        admit(ask, None, &mut ()).expect("there is no session to lease for").outcome.is_ok()
    }

    fn caller(&self, id: usize) -> Option<Caller> {
        let acting = self.registry.acting(self.ids[id], Timestamp(self.oracle.now)).unwrap();
        let agent = acting.agent.ok()?;
        Some(Caller { chain: acting.chain, ..testkit::caller(Agent::clone(&agent)) })
    }

    fn check(&mut self) {
        let callable: Vec<Option<BTreeSet<&str>>> = (0..AGENTS)
            .map(|id| {
                let caller = self.caller(id)?;
                let tools = TOOLS.into_iter().filter(|tool| self.may_call(&caller, tool));
                Some(tools.collect())
            })
            .collect();
        for id in 0..AGENTS {
            let rights = self.oracle.rights(id);
            let expected = rights.as_ref().map(|rights| {
                let mut tools = rights.capabilities.clone();
                let levels = LEVELS.into_iter().filter(|level| *level <= rights.trust);
                tools.extend(levels.map(TrustLevel::as_str).filter(|&name| name != "untrusted"));
                tools
            });
            assert_eq!(callable[id], expected, "agent {id}");
            let ends_at = self.caller(id).map(|caller| caller.agent.expires_at.map(|end| end.0));
            assert_eq!(ends_at, rights.map(|rights| rights.ends_at));
            if let Some(tools) = &callable[id] {
                for above in self.oracle.above(id) {
                    let most = callable[above].as_ref().expect("who stands behind it may act");
                    assert!(tools.is_subset(most), "{id} may more than {above}");
                }
                self.check_chain(id);
            }
        }
        let at = Timestamp(self.oracle.now);
        for chain in &self.opened {
            let ids: Vec<AgentId> = chain.iter().map(|&id| self.ids[id]).collect();
            assert_eq!(
                self.registry.holds(&ids, at).is_ok(),
                self.oracle.holds(chain),
                "{chain:?}"
            );
        }
    }

    /// The chain that a session opened now would have.
    fn check_chain(&mut self, id: usize) {
        let chain = self.caller(id).unwrap().chain;
        let chain: Vec<usize> =
            chain.iter().map(|id| self.ids.iter().position(|known| known == id).unwrap()).collect();
        assert_eq!(chain.last(), Some(&id));
        assert!(self.oracle.holds(&chain));
        let above = |link: &Link| link.to == chain[0] && self.oracle.lasts(link.ends_at);
        let has_links = self.oracle.links.iter().any(above);
        assert!(!has_links, "the top is a top");
        self.opened.insert(chain);
    }
}

impl Oracle {
    fn links_below(&self, id: usize) -> BTreeSet<usize> {
        let mut all = BTreeSet::new();
        for link in self.links.iter().filter(|link| link.from == id) {
            all.insert(link.to);
            all.extend(self.links_below(link.to));
        }
        all
    }
}

fn agents() -> impl Strategy<Value = Vec<Plain>> {
    let capabilities = prop::sample::subsequence(CAPABILITIES.to_vec(), 1..=3);
    let trust = prop::sample::select(LEVELS.to_vec());
    let ends_at = prop_oneof![3 => Just(None), 1 => (20_i64..80).prop_map(Some)];
    let agent = (capabilities, trust, ends_at).prop_map(|(capabilities, trust, ends_at)| Plain {
        capabilities: capabilities.into_iter().collect(),
        trust,
        active: true,
        ends_at,
    });
    prop::collection::vec(agent, AGENTS)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nobody_may_do_more_than_anyone_above(
        agents in agents(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(agents).await;
            for step in steps {
                world.take(step).await;
                world.check();
            }
        });
    }
}
