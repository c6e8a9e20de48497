//! Results about one call so far: many policies check the same of the same argument.

use std::cell::RefCell;
use std::collections::HashMap;

use smallvec::SmallVec;

use super::path::End;
use super::satisfaction::{Need, Satisfaction};

/// Ends of paths that are remembered; more are followed each time.
const ENDS_MAX: usize = 16;

/// Ends of shared paths and satisfactions of shared constraints, for one call.
#[derive(Debug, Default)]
pub(super) struct Memo<'d> {
    ends: RefCell<SmallVec<[(u32, End<'d>); ENDS_MAX]>>,
    satisfactions: RefCell<HashMap<(u32, Need), Satisfaction>>,
}

impl<'d> Memo<'d> {
    /// The end of the path with this number, if policies share it.
    pub(super) fn end(&self, shared: Option<u32>, follow: impl FnOnce() -> End<'d>) -> End<'d> {
        let Some(key) = shared else { return follow() };
        let known = self.ends.borrow().iter().find(|(known, _)| *known == key).map(|(_, end)| *end);
        known.unwrap_or_else(|| {
            let end = follow();
            let mut ends = self.ends.borrow_mut();
            if ends.len() < ENDS_MAX {
                ends.push((key, end));
            }
            end
        })
    }

    /// The satisfaction of the constraint with this number. Only those that cost much and are shared have one.
    pub(super) fn satisfaction(
        &self,
        shared: Option<u32>,
        need: Need,
        compute: impl FnOnce() -> Satisfaction,
    ) -> Satisfaction {
        let Some(id) = shared else { return compute() };
        if let Some(known) = self.satisfactions.borrow().get(&(id, need)) {
            return *known;
        }
        let satisfaction = compute();
        self.satisfactions.borrow_mut().insert((id, need), satisfaction);
        satisfaction
    }
}
