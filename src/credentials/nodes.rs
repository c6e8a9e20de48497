//! Introducers of escapes in a stretch of a text, and all that each can be read as.

use super::decoded::{LEVELS, Reading};
use crate::saturate::SaturatingFrom as _;

/// Number of levels, the raw bytes among them.
pub(super) const VIEWS: usize = LEVELS + 1;

/// Nodes of a stretch, each with its readings.
#[derive(Default)]
pub(super) struct Nodes {
    /// Start of the stretch.
    pub start: usize,
    /// For each byte that introduces an escape, the number of its node.
    pub slots: Vec<u32>,
    pub all: Vec<Node>,
    pub readings: Vec<Reading>,
}

impl Nodes {
    #[inline]
    pub(super) fn at(&self, at: usize) -> Option<&Node> {
        let slot = self.slots.get(at.checked_sub(self.start)?)?;
        self.all.get(count(*slot))
    }

    /// Returns all readings of `node`.
    #[inline]
    pub(super) fn view(&self, node: &Node) -> &[Reading] {
        self.view_at(node, LEVELS)
    }

    /// Returns the readings of `node` that `level` decoders find.
    #[inline]
    pub(super) fn view_at(&self, node: &Node, level: usize) -> &[Reading] {
        let first = count(node.first);
        let known = node.counts.get(level).map_or(0, |known| usize::from(*known));
        self.readings.get(first..first + known).unwrap_or_default()
    }
}

/// A byte that introduces an escape.
#[derive(Clone, Copy)]
pub(super) struct Node {
    pub first: u32,
    /// Start in the stretch.
    pub offset: u32,
    /// Length of the text on which the readings depend; the greatest number if they depend on where
    /// it ends.
    pub reach: u32,
    /// Number of readings at each level, those of the levels below included.
    pub counts: [u8; VIEWS],
    /// The level from which on a reading reached the end of the window's text.
    pub cut_from: u8,
    /// Classes of all bytes that it can be read as.
    pub classes: u8,
}

impl Node {
    /// Reports whether some reading reached the end of the text.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut_at(LEVELS)
    }

    pub(super) fn is_cut_at(&self, level: usize) -> bool {
        usize::from(self.cut_from) <= level
    }

    /// Reports whether higher levels know more readings.
    pub(super) fn is_deeper_than(&self, level: usize) -> bool {
        self.counts.last() != self.counts.get(level) || (!self.is_cut_at(level) && self.is_cut())
    }

    /// Reports whether all is read at the first level.
    pub(super) fn is_plain(&self) -> bool {
        self.counts.get(1) == self.counts.last()
    }

    /// End of the text on which the readings depend, for a node at `at`.
    pub(super) fn end(&self, at: usize) -> usize {
        if self.reach == u32::MAX { usize::MAX } else { at + count(self.reach) }
    }
}

pub(super) fn count(number: u32) -> usize {
    usize::saturating_from(number)
}

pub(super) fn number(count: usize) -> u32 {
    u32::saturating_from(count)
}
