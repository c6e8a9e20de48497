//! The Merkle tree over record hashes (RFC 9162 section 2.1): proofs that one record is in a log, and
//! that a longer log continues a shorter one, without the log itself.
//!
//! A leaf is a record's `chain_record_hash` as 32 bytes. Nodes are SHA-256, with the prefixes of
//! the RFC: 0 before a leaf, 1 before two nodes.

use aws_lc_rs::digest::{Context, SHA256};

/// A node of the tree.
pub type Hash = [u8; 32];

fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

/// The leaf of a record.
pub fn leaf(record_hash: &[u8; 32]) -> Hash {
    sha256(&[&[0], record_hash])
}

fn node(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

/// The largest power of two below `n`, for `n` above 1.
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// A tree that grows by one leaf at a time: the roots of its whole subtrees, largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peaks {
    size: u64,
    peaks: Vec<Hash>,
}

impl Peaks {
    pub fn push(&mut self, leaf: Hash) {
        let (mut top, mut merged) = (leaf, self.size);
        while merged & 1 == 1 {
            let Some(left) = self.peaks.pop() else { break };
            top = node(&left, &top);
            merged >>= 1;
        }
        self.peaks.push(top);
        self.size = self.size.saturating_add(1);
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn root(&self) -> Hash {
        root_above(&[self])
    }
}

/// Returns the root of one tree whose whole subtrees are the peaks of several, largest first. The
/// leaves of each are the roots of equal whole subtrees, larger than the next one's tree.
pub fn root_above(trees: &[&Peaks]) -> Hash {
    let mut peaks = trees.iter().rev().flat_map(|tree| tree.peaks.iter().rev());
    let Some(last) = peaks.next() else { return sha256(&[]) };
    peaks.fold(*last, |right, left| node(left, &right))
}

/// The root over whole leaves in order.
pub fn root(leaves: &[Hash]) -> Hash {
    let mut peaks = Peaks::default();
    for leaf in leaves {
        peaks.push(*leaf);
    }
    peaks.root()
}

/// The nodes that lead from a leaf to the root of the first `size` leaves (section 2.1.3.1).
/// `range` gives the root over the leaves from one index up to another.
pub fn inclusion<E>(
    index: u64,
    size: u64,
    range: &mut impl FnMut(u64, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let (mut start, mut end) = (0, size);
    let mut path = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(range(middle, end)?);
            end = middle;
        } else {
            path.push(range(start, middle)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The root that a leaf and its path lead to (section 2.1.3.2); none if the path does not fit.
pub fn root_of(index: u64, size: u64, leaf: Hash, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn leaves(n: usize) -> Vec<Hash> {
        (0..n).map(|n| leaf(blake3::hash(&n.to_le_bytes()).as_bytes())).collect()
    }

    /// The definition of section 2.1.1, word for word.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => sha256(&[]),
            [one] => *one,
            many => {
                let mut k = 1;
                while k * 2 < many.len() {
                    k *= 2;
                }
                node(&by_definition(&many[..k]), &by_definition(&many[k..]))
            }
        }
    }

    fn proof(leaves: &[Hash], index: usize) -> Vec<Hash> {
        let at = |n: u64| usize::try_from(n).unwrap();
        let mut range = |from, to| Ok::<_, Infallible>(by_definition(&leaves[at(from)..at(to)]));
        inclusion(index as u64, leaves.len() as u64, &mut range).unwrap()
    }

    #[test]
    fn the_root_is_the_one_of_the_definition() {
        for n in 0..70 {
            let leaves = leaves(n);
            assert_eq!(root(&leaves), by_definition(&leaves), "{n}");
        }
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(crate::audit::proof::write_hex(&root(&[])), empty);
    }

    #[test]
    fn every_leaf_is_proven_and_every_other_claim_is_not() {
        for n in 1..40_usize {
            let leaves = leaves(n);
            let root = root(&leaves);
            for index in 0..n {
                let path = proof(&leaves, index);
                let (at, size) = (index as u64, n as u64);
                assert_eq!(root_of(at, size, leaves[index], &path), Some(root), "{index} of {n}");
                for other in (0..=n + 1).filter(|other| *other != index) {
                    assert_ne!(root_of(other as u64, size, leaves[index], &path), Some(root));
                }
                for (sibling, bit) in (0..path.len()).flat_map(|s| [(s, 0), (s, 255)]) {
                    let mut path = path.clone();
                    path[sibling][bit / 8] ^= 1 << (bit % 8);
                    assert_ne!(root_of(at, size, leaves[index], &path), Some(root));
                }
                let mut longer = path.clone();
                longer.push(root);
                assert_ne!(root_of(at, size, leaves[index], &longer), Some(root));
                if let Some((_, shorter)) = path.split_last() {
                    assert_ne!(root_of(at, size, leaves[index], shorter), Some(root));
                }
            }
        }
    }
}
