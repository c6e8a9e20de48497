use std::sync::Arc;

use proptest::prelude::*;

use super::super::Live;
use super::super::index::Index;
use crate::firewall::agent::AgentId;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::{Mono, Now, Timestamp};
use crate::testkit::full_order as order;

const BEGAN: Now = Now { wall: Timestamp(0), mono: Mono(0) };

/// A session that expires at this instant.
fn until(agent: AgentId, deadline: u64) -> Arc<Live> {
    let expires_at = Timestamp(i64::try_from(deadline).unwrap());
    Arc::new(Live::of(WorkOrder { expires_at, ..order(agent, 1) }.into(), false, BEGAN))
}

#[test]
fn many_that_expire_at_once_are_counted_a_few_at_a_time() {
    let mut index = Index::default();
    for _ in 0..1_000 {
        index.insert(&until(AgentId::random(), 50));
    }
    assert_eq!(index.active_count(Mono(49), 300), Some(1_000));
    for _ in 0..3 {
        assert_eq!(index.active_count(Mono(50), 300), None, "more than a step has ended");
    }
    assert_eq!(index.active_count(Mono(50), 300), Some(0));
    index.insert(&until(AgentId::random(), 40));
    index.insert(&until(AgentId::random(), 60));
    assert_eq!(index.active_count(Mono(50), 300), Some(1));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert { deadline: u64 },
    Close { nth: usize },
    Wait { by: u64 },
    Forget { limit: usize },
    Load,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u64..20).prop_map(|deadline| Step::Insert { deadline }),
        (0_usize..40).prop_map(|nth| Step::Close { nth }),
        (0_u64..4).prop_map(|by| Step::Wait { by }),
        (1_usize..4).prop_map(|limit| Step::Forget { limit }),
        Just(Step::Load),
    ]
}

/// A session as the plain list has it.
struct Known {
    live: Arc<Live>,
    closed_at: Option<Mono>,
}

impl Known {
    fn ends_at(&self) -> Mono {
        self.closed_at.unwrap_or(self.live.deadline)
    }
}

proptest! {
    #[test]
    fn the_index_says_what_a_plain_list_says(steps in prop::collection::vec(step(), 1..60)) {
        let agents = [AgentId::random(), AgentId::random()];
        let (mut index, mut list, mut now): (_, Vec<Known>, _) = (Index::default(), vec![], Mono(0));
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Insert { deadline } => {
                    let live = until(agents[n % 2], deadline);
                    index.insert(&live);
                    list.push(Known { live, closed_at: None });
                }
                Step::Close { nth } => {
                    if let Some(known) = list.get_mut(nth) {
                        index.end(&known.live, now);
                        known.closed_at = Some(known.ends_at().min(now));
                    }
                }
                Step::Wait { by } => now = Mono(now.0 + by),
                Step::Forget { limit } => {
                    let ended = index.ended(now, 0, limit);
                    let expected = list.iter().filter(|known| known.ends_at() <= now).count();
                    prop_assert_eq!(ended.len(), expected.min(limit));
                    for (at, live) in ended {
                        index.forget(&live, at, now);
                        let gone = list.iter().position(|k| Arc::ptr_eq(&k.live, &live)).unwrap();
                        prop_assert_eq!(list.swap_remove(gone).ends_at(), at);
                    }
                }
                Step::Load => {
                    let loaded: Vec<_> =
                        list.iter().map(|k| (Arc::clone(&k.live), k.closed_at)).collect();
                    index = Index::load(&loaded);
                }
            }
            let active = |agent: AgentId| {
                let of = list.iter().filter(|k| k.live.order.agent == agent && now < k.ends_at());
                let mut ids: Vec<SessionId> = of.map(|known| known.live.order.id).collect();
                ids.sort_unstable();
                ids
            };
            let mut count = None;
            while count.is_none() {
                count = index.active_count(now, 3);
            }
            prop_assert_eq!(count, Some(agents.map(active).iter().map(Vec::len).sum()));
            for agent in agents {
                let told = index.active_of(&[agent], now);
                let mut told: Vec<SessionId> = told.iter().map(|live| live.order.id).collect();
                told.sort_unstable();
                prop_assert_eq!(told, active(agent));
                let of_agent = list.iter().filter(|known| known.live.order.agent == agent).count();
                prop_assert_eq!(index.page(Some(agent), None, 100).len(), of_agent);
            }
            prop_assert_eq!(index.page(None, None, 100).len(), list.len());
        }
        for known in &list {
            index.end(&known.live, now);
            index.forget(&known.live, known.ends_at().min(now), now);
        }
        prop_assert!(index.is_empty());
    }
}
