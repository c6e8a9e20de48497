//! Visits every state that a model can reach, nearest first, and says how the first bad one came about.
//!
//! States are remembered by a fingerprint of 128 bits, so that millions fit into memory; a bad state's
//! history is found by going from parent to parent, and is the shortest there is.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Model that can be explored.
pub(crate) trait Model {
    type State: Clone + Hash;
    type Action: Clone + fmt::Debug;

    fn start(&self) -> Self::State;
    /// Returns the possible next actions; some may turn out to be impossible.
    fn actions(&self, state: &Self::State) -> Vec<Self::Action>;
    /// Returns the resulting states; none if the action is not possible.
    fn step(&self, state: &Self::State, action: &Self::Action) -> Option<Self::State>;
    /// Checks a state.
    fn check(&self, state: &Self::State) -> Result<(), String>;
}

/// Statistics of an exploration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Explored {
    pub(crate) states: usize,
    pub(crate) steps: usize,
    pub(crate) depth: usize,
}

/// A state that must not be, and how it came about.
#[derive(Clone, Debug)]
pub(crate) struct Bad<A> {
    pub(crate) what: String,
    pub(crate) history: Vec<A>,
}

impl<A: fmt::Debug> fmt::Display for Bad<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, after", self.what)?;
        for (number, action) in self.history.iter().enumerate() {
            writeln!(f, "{:3}. {action:?}", number + 1)?;
        }
        Ok(())
    }
}

type Fingerprint = u128;

fn fingerprint(state: &impl Hash) -> Fingerprint {
    let half = |seed: u64| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        state.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

/// Explores all there is.
pub(crate) fn explore<M: Model>(model: &M) -> Result<Explored, Bad<M::Action>> {
    let start = model.start();
    let first = fingerprint(&start);
    let mut parents: HashMap<Fingerprint, Option<(Fingerprint, M::Action)>> =
        HashMap::from([(first, None)]);
    let bad = |what, parents: &HashMap<_, _>, at| Bad { what, history: history(parents, at) };
    model.check(&start).map_err(|what| bad(what, &parents, first))?;
    let mut explored = Explored { states: 1, steps: 0, depth: 0 };
    let mut here = vec![(first, start)];
    loop {
        let mut next = Vec::new();
        for (from, state) in here {
            for action in model.actions(&state) {
                let Some(after) = model.step(&state, &action) else { continue };
                explored.steps += 1;
                let at = fingerprint(&after);
                let Entry::Vacant(new) = parents.entry(at) else { continue };
                new.insert(Some((from, action)));
                model.check(&after).map_err(|what| bad(what, &parents, at))?;
                next.push((at, after));
            }
        }
        if next.is_empty() {
            return Ok(explored);
        }
        explored.states += next.len();
        explored.depth += 1;
        here = next;
    }
}

fn history<A: Clone>(
    parents: &HashMap<Fingerprint, Option<(Fingerprint, A)>>,
    mut at: Fingerprint,
) -> Vec<A> {
    let mut history = Vec::new();
    while let Some(Some((parent, action))) = parents.get(&at) {
        history.push(action.clone());
        at = *parent;
    }
    history.reverse();
    history
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two jugs of three and five, and a wish for four.
    struct Jugs {
        wish: u8,
    }

    impl Model for Jugs {
        type State = [u8; 2];
        type Action = (&'static str, usize);

        fn start(&self) -> [u8; 2] {
            [0, 0]
        }

        fn actions(&self, _: &[u8; 2]) -> Vec<Self::Action> {
            ["fill", "empty", "pour"].iter().flat_map(|what| [(*what, 0), (*what, 1)]).collect()
        }

        fn step(&self, jugs: &[u8; 2], &(what, from): &Self::Action) -> Option<[u8; 2]> {
            const SIZES: [u8; 2] = [3, 5];
            let (mut after, to) = (*jugs, 1 - from);
            match what {
                "fill" => after[from] = SIZES[from],
                "empty" => after[from] = 0,
                _ => {
                    let poured = jugs[from].min(SIZES[to] - jugs[to]);
                    (after[from], after[to]) = (jugs[from] - poured, jugs[to] + poured);
                }
            }
            (after != *jugs).then_some(after)
        }

        fn check(&self, jugs: &[u8; 2]) -> Result<(), String> {
            if jugs.contains(&self.wish) { Err(format!("{jugs:?}")) } else { Ok(()) }
        }
    }

    #[test]
    fn every_state_is_seen_and_the_shortest_way_to_a_bad_one_told() {
        let all = explore(&Jugs { wish: 9 }).unwrap();
        assert_eq!((all.states, all.depth), (16, 7));
        let bad = explore(&Jugs { wish: 4 }).unwrap_err();
        assert_eq!((bad.history.len(), bad.what.as_str()), (6, "[3, 4]"));
        assert!(bad.to_string().starts_with("[3, 4], after\n  1. (\"fill\", 1)\n"), "{bad}");
    }
}
