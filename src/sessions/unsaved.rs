//! Closings that the store has not confirmed. An answer confirms only those noted before its request was sent:
//! a late one may come from a server that has been replaced since.

use std::collections::BTreeMap;

use crate::firewall::session::SessionId;
use crate::store::Closing;

/// Closings by session.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    closings: BTreeMap<SessionId, Noted>,
    /// Number of requests so far.
    requests: u64,
}

#[derive(Clone, Copy, Debug)]
struct Noted {
    closing: Closing,
    /// Number of the last request sent before.
    after: u64,
}

/// Request to the store, kept until its answer.
#[derive(Debug)]
pub(super) struct Asked {
    number: u64,
    pub(super) closings: Vec<Closing>,
}

impl Unsaved {
    /// Notes a closing that no request sent so far confirms. Every request gives back the calls of the first one.
    pub(super) fn note(&mut self, closing: Closing) {
        let after = self.requests;
        self.closings.entry(closing.id).or_insert(Noted { closing, after }).after = after;
    }

    /// Returns a request for all closings noted.
    pub(super) fn ask(&mut self) -> Asked {
        self.requests = self.requests.saturating_add(1);
        let closings = self.closings.values().map(|noted| noted.closing).collect();
        Asked { number: self.requests, closings }
    }

    /// Removes the closings that the answer to a request confirms.
    pub(super) fn answered(&mut self, asked: &Asked) {
        for Closing { id, .. } in &asked.closings {
            if self.closings.get(id).is_some_and(|noted| noted.after < asked.number) {
                self.closings.remove(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_settles_nothing_that_was_noted_after_its_request() {
        let (mut unsaved, one, two) =
            (Unsaved::default(), SessionId::random(), SessionId::random());
        unsaved.note(Closing { id: one, unused: 7 });
        unsaved.note(Closing { id: two, unused: 1 });
        let early = unsaved.ask();
        unsaved.note(Closing { id: one, unused: 0 });
        unsaved.answered(&early);
        let left = unsaved.ask();
        let said = left.closings.iter().map(|closing| (closing.id, closing.unused));
        assert_eq!(said.collect::<Vec<_>>(), [(one, 7)], "the other one is settled");
        unsaved.answered(&left);
        assert!(unsaved.ask().closings.is_empty());
    }
}
