//! A proof: one record with its path to the root that a checkpoint was signed of. A proof is checked
//! with a public key alone, without the log, the node or a network.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::chain::Seal;
use super::checkpoint::{Checkpoint, VerifierKey, open_note};
use super::tree;

/// Nodes of a path: a tree has no more levels.
const MAX_PATH: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "AuditProof")]
pub struct Proof {
    /// The record's line, byte for byte, without its newline.
    pub record: String,
    /// The record's place among the tree's leaves, from 0.
    pub leaf_index: u64,
    /// Leaves of the tree that the checkpoint is of.
    pub tree_size: u64,
    /// SHA-256 nodes from the leaf to the root (RFC 9162), lower-case hexadecimal.
    pub inclusion_proof: Vec<String>,
    /// The signed checkpoint (C2SP tlog-checkpoint).
    pub checkpoint: String,
}

/// Reason why a proof proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProven {
    #[error("the record is not a sealed record, or does not match its hash")]
    Record,
    #[error("the checkpoint is not signed by this key")]
    Signature,
    #[error("the checkpoint is of no tree")]
    NoTree,
    #[error("size or index are not those of the checkpoint and the record")]
    Place,
    #[error("the path is not a list of lower-case hexadecimal SHA-256 hashes")]
    Path,
    #[error("the path does not lead to the checkpoint's root")]
    Root,
}

impl Proof {
    /// Checks that the record is in the log that `key` has signed; gives the checkpoint.
    pub fn check(&self, key: &VerifierKey) -> Result<Checkpoint, NotProven> {
        let seal = Seal::read(self.record.as_bytes()).filter(|seal| seal.intact);
        let seal = seal.ok_or(NotProven::Record)?;
        let checkpoint = open_note(&self.checkpoint, std::slice::from_ref(key))
            .map_err(|_damage| NotProven::Signature)?;
        let tree = checkpoint.tree.ok_or(NotProven::NoTree)?;
        let index = checkpoint.leaf_of(seal.link.sequence).ok_or(NotProven::Place)?;
        if self.tree_size != tree.size || self.leaf_index != index {
            return Err(NotProven::Place);
        }
        if self.inclusion_proof.len() > MAX_PATH {
            return Err(NotProven::Path);
        }
        let path: Option<Vec<_>> = self.inclusion_proof.iter().map(|hex| read_hex(hex)).collect();
        let path = path.ok_or(NotProven::Path)?;
        let leaf = tree::leaf(&seal.link.hash.to_bytes());
        let root = tree::root_of(index, tree.size, leaf, &path);
        if root == Some(tree.root) { Ok(checkpoint) } else { Err(NotProven::Root) }
    }
}

/// Writes a node in its one spelling.
pub fn write_hex(hash: &tree::Hash) -> String {
    super::chain::HexHash::from_bytes(*hash).to_string()
}

fn read_hex(text: &str) -> Option<tree::Hash> {
    super::chain::HexHash::read(text.as_bytes()).map(|hash| hash.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::{Link, seal};
    use crate::audit::checkpoint::SigningKey;
    use crate::audit::tree_file::TreeHead;
    use crate::firewall::time::Timestamp;

    /// Proofs of `n` records, and the key.
    fn proofs(n: usize) -> (Vec<Proof>, VerifierKey) {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::generate("node-1", &folder.path().join("key")).unwrap();
        let (mut link, mut lines, mut leaves) = (Link::GENESIS, Vec::new(), Vec::new());
        for n in 0..n {
            let mut line = format!("{{\"n\":{n},\"text\":\"\\u0001 é\"").into_bytes();
            link = seal(&mut line, 0, &link);
            leaves.push(tree::leaf(&link.hash.to_bytes()));
            lines.push(String::from_utf8(line).unwrap());
        }
        let size = n as u64;
        let tree = Some(TreeHead { size, root: tree::root(&leaves) });
        let at = Timestamp::from_secs(1_800_000_000);
        let checkpoint = Checkpoint { origin: "node-1".to_owned(), link, tree, at };
        let note = key.sign(&checkpoint).unwrap();
        let at = |n: u64| usize::try_from(n).unwrap();
        let mut range =
            |from, to| Ok::<_, std::convert::Infallible>(tree::root(&leaves[at(from)..at(to)]));
        let proofs = lines.into_iter().enumerate().map(|(index, record)| {
            let path = tree::inclusion(index as u64, size, &mut range).unwrap();
            let inclusion_proof = path.iter().map(write_hex).collect();
            let (leaf_index, tree_size) = (index as u64, size);
            Proof { record, leaf_index, tree_size, inclusion_proof, checkpoint: note.clone() }
        });
        (proofs.collect(), key.verifier())
    }

    fn holds(bytes: &[u8], key: &VerifierKey) -> bool {
        let proof = serde_json::from_slice::<Proof>(bytes);
        proof.is_ok_and(|proof| proof.check(key).is_ok())
    }

    #[test]
    fn every_record_is_proven() {
        for n in [1, 2, 3, 7, 8, 100] {
            let (proofs, key) = proofs(n);
            assert_eq!(proofs.len(), n);
            for proof in proofs {
                assert_eq!(proof.check(&key).map(|c| c.link.sequence), Ok(n as u64));
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let (proofs, key) = proofs(5);
        for pretty in [false, true] {
            let proof = &proofs[3];
            let text = if pretty {
                serde_json::to_vec_pretty(proof).unwrap()
            } else {
                serde_json::to_vec(proof).unwrap()
            };
            assert!(holds(&text, &key));
            for bit in 0..text.len() * 8 {
                let mut flipped = text.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let place = String::from_utf8_lossy(&flipped[bit / 8..])
                    .chars()
                    .take(20)
                    .collect::<String>();
                assert!(!holds(&flipped, &key), "bit {bit}: {place}");
            }
        }
    }

    #[test]
    fn a_receipt_of_another_log_or_key_proves_nothing() {
        let (mine, key) = proofs(4);
        let (others, other_key) = proofs(4);
        assert_eq!(mine[0].check(&other_key), Err(NotProven::Signature));
        let mixed = Proof { checkpoint: others[0].checkpoint.clone(), ..mine[0].clone() };
        assert_eq!(mixed.check(&key), Err(NotProven::Signature));
        let moved = Proof { leaf_index: 1, ..mine[0].clone() };
        assert_eq!(moved.check(&key), Err(NotProven::Place));
        let swapped = Proof { inclusion_proof: mine[1].inclusion_proof.clone(), ..mine[0].clone() };
        assert_eq!(swapped.check(&key), Err(NotProven::Root));
        let mut upper = mine[0].clone();
        upper.inclusion_proof[0] = upper.inclusion_proof[0].to_uppercase();
        assert_eq!(upper.check(&key), Err(NotProven::Path));
    }
}
