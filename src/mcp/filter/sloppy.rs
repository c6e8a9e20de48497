//! A text with the bytes that are no UTF-8 masked, so that everything else keeps its place.

use std::borrow::Cow;
use std::ops::Range;

/// Replaces a masked byte. A character of strings only, so that it can end no value.
const MASK: u8 = b'?';

/// A text that can be parsed, and where it was masked.
#[derive(Debug)]
pub(super) struct Legible<'b> {
    pub(super) text: Cow<'b, [u8]>,
    /// In order.
    masked: Vec<usize>,
}

impl<'b> Legible<'b> {
    pub(super) fn of(body: &'b [u8]) -> Self {
        if std::str::from_utf8(body).is_ok() {
            return Self { text: Cow::Borrowed(body), masked: Vec::new() };
        }
        let (mut text, mut masked) = (Vec::with_capacity(body.len()), Vec::new());
        for chunk in body.utf8_chunks() {
            text.extend_from_slice(chunk.valid().as_bytes());
            for _byte in chunk.invalid() {
                masked.push(text.len());
                text.push(MASK);
            }
        }
        Self { text: Cow::Owned(text), masked }
    }

    /// Reports whether a masked byte lies in `span`.
    pub(super) fn touches(&self, span: &Range<usize>) -> bool {
        let next = self.masked.partition_point(|at| *at < span.start);
        self.masked.get(next).is_some_and(|at| *at < span.end)
    }

    /// The first masked byte that none of the `cuts` removes; those are in order.
    pub(super) fn outside(&self, cuts: &[Range<usize>]) -> Option<usize> {
        let removed = |at: &usize| {
            let next = cuts.partition_point(|cut| cut.end <= *at);
            cuts.get(next).is_some_and(|cut| cut.contains(at))
        };
        self.masked.iter().copied().find(|at| !removed(at))
    }
}
