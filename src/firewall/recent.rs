//! Times at which a session's last calls were counted: the memory of its rate limit.
//!
//! Calls of one instant are one entry, so that a batch, or a session that is loaded after a crash
//! and held to have spent its whole window, costs sixteen bytes and not sixteen for each call. Most
//! sessions have no rate limit, and so no memory behind it either.

use std::collections::VecDeque;

use super::time::Mono;

/// Counted calls, oldest first. Instants never go down from one entry to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recent(Option<Box<Calls>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Calls {
    entries: VecDeque<(Mono, u32)>,
    total: u64,
}

impl Recent {
    /// Returns the number of remembered calls.
    pub fn total(&self) -> u64 {
        self.0.as_ref().map_or(0, |calls| calls.total)
    }

    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|calls| calls.entries.is_empty())
    }

    /// Instants with the number of calls counted at each, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (Mono, u32)> + '_ {
        self.0.iter().flat_map(|calls| calls.entries.iter().copied())
    }

    /// The instant of the newest call.
    pub fn newest(&self) -> Option<Mono> {
        self.0.as_ref()?.entries.back().map(|&(at, _)| at)
    }

    /// Remembers `count` calls. An instant before the newest is taken for the newest: requests read
    /// the clock before they get the session's lock, and a call remembered late frees its place late.
    pub fn push(&mut self, at: Mono, count: u32) {
        if count == 0 {
            return;
        }
        let at = self.newest().map_or(at, |newest| newest.max(at));
        let Calls { entries, total } = &mut **self.0.get_or_insert_default();
        *total = total.saturating_add(u64::from(count));
        if let Some((newest, counted)) = entries.back_mut()
            && *newest == at
            && let Some(sum) = counted.checked_add(count)
        {
            *counted = sum;
            return;
        }
        entries.push_back((at, count));
    }

    /// Forgets calls for as long as `left` says that an instant has left the window.
    pub fn forget_while(&mut self, left: impl Fn(Mono) -> bool) {
        let Some(Calls { entries, total }) = self.0.as_deref_mut() else { return };
        while let Some(&(at, count)) = entries.front()
            && left(at)
        {
            *total = total.saturating_sub(u64::from(count));
            entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_one_instant_are_one_entry() {
        let mut recent = Recent::default();
        recent.push(Mono(5), 2);
        recent.push(Mono(5), 3);
        recent.push(Mono(4), 1);
        recent.push(Mono(9), 1);
        recent.push(Mono(9), 0);
        assert_eq!(recent.iter().collect::<Vec<_>>(), [(Mono(5), 6), (Mono(9), 1)]);
        assert_eq!(recent.total(), 7);
        recent.forget_while(|at| at <= Mono(5));
        assert_eq!(recent.total(), 1);
    }
}
