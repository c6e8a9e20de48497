//! Signed checkpoints: a node's word on how far its log had got, in a form that others can keep.
//!
//! The text form is that of C2SP's tlog-checkpoint in a signed note (`https://c2sp.org/tlog-checkpoint`,
//! `https://c2sp.org/signed-note@v1.0.0`):
//!
//! ```text
//! gateway-1
//! 4711
//! qL0o4d1gX8w5cQ3v0mJ0m2p2j0l0n8q4y3rTq9o6s3A=
//! chain 4711 j0l0n8q4y3rTq9o6s3AqL0o4d1gX8w5cQ3v0mJ0m2p2=
//! time 2026-11-22T10:00:00.000000Z
//!
//! — gateway-1 Az3grl…=
//! ```
//!
//! The origin is the node's name. Size and root are those of the Merkle tree over the records' hashes
//! ([`tree`](super::tree)), which allows short proofs. The extension lines give the chain's last
//! record, sequence and `chain_record_hash` (BLAKE3), and when it was signed. Without a tree, size and
//! hash are the chain's, and the tree's line is left out.
//!
//! An Ed25519 signature covers the text with its last newline; the key id is the first four bytes
//! of SHA-256 over name, newline, 0x01 and public key. Keys are written as Go's `sumdb/note` does:
//! `name+hash+base64(0x01 || public key)`, the private one behind `PRIVATE+KEY+`.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use super::chain::{HexHash, Link};
use super::tree_file::TreeHead;
use crate::firewall::time::Timestamp;

const ED25519_TYPE: u8 = 1;
const SIGNATURE_MARK: &str = "\u{2014} ";
const PRIVATE_MARK: &str = "PRIVATE+KEY+";
/// More signatures on one note are not looked at.
const MAX_SIGNATURES: usize = 100;

/// Position of a log at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub origin: String,
    pub link: Link,
    /// The Merkle tree over the records so far; none where it could not be kept.
    pub tree: Option<TreeHead>,
    pub at: Timestamp,
}

impl Checkpoint {
    /// The text that is signed.
    fn text(&self) -> String {
        let hash = BASE64.encode(self.link.hash.to_bytes());
        let Self { origin, link: Link { sequence, .. }, tree, at } = self;
        match tree {
            Some(TreeHead { size, root }) => {
                let root = BASE64.encode(root);
                format!("{origin}\n{size}\n{root}\nchain {sequence} {hash}\ntime {at}\n")
            }
            None => format!("{origin}\n{sequence}\n{hash}\ntime {at}\n"),
        }
    }

    /// Reads a note of this node's own, whose signature needs no check.
    pub fn of_own(note: &str) -> Option<Self> {
        let end = note.rfind("\n\n")?;
        Self::read(note.get(..=end)?)
    }

    /// The place of a record among the tree's leaves, if it is one of them.
    pub fn leaf_of(&self, sequence: u64) -> Option<u64> {
        let size = self.tree?.size;
        let behind = self.link.sequence.checked_sub(sequence)?;
        size.checked_sub(1)?.checked_sub(behind)
    }

    fn read(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, hash) = (lines.next()?, lines.next()?, lines.next()?);
        let (size, hash) = (number(size)?, hash_of(hash)?);
        let next = lines.next()?;
        let (link, tree, time) = match next.strip_prefix("chain ") {
            Some(chain) => {
                let (sequence, chained) = chain.split_once(' ')?;
                let chained = HexHash::from_bytes(hash_of(chained)?);
                let link = Link { sequence: number(sequence)?, hash: chained };
                (link, Some(TreeHead { size, root: hash }), lines.next()?)
            }
            None => (Link { sequence: size, hash: HexHash::from_bytes(hash) }, None, next),
        };
        let at = Timestamp::parse(time.strip_prefix("time ")?)?;
        if origin.is_empty() || lines.next().is_some() {
            return None;
        }
        Some(Self { origin: origin.to_owned(), link, tree, at })
    }
}

/// Parses a number in its one spelling.
fn number(text: &str) -> Option<u64> {
    let plain = text == "0" || !text.starts_with('0');
    (plain && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

fn hash_of(text: &str) -> Option<[u8; 32]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

/// Reason why a key is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("`{0}` cannot be a key's name: it must not be empty or hold spaces, `+` or controls")]
    Name(String),
    #[error("is not an Ed25519 key in the form that `arbiter audit keygen` writes")]
    Form,
    #[error("can be read by others (mode {0:o}): run `chmod 600` on it")]
    OpenToOthers(u32),
    #[error("cannot be read or written: {0}")]
    Io(String),
    #[error("the system gave no random numbers")]
    Random,
}

/// Signing key of a node.
pub struct SigningKey {
    verifier: VerifierKey,
    pair: Ed25519KeyPair,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, [secret])", self.verifier.name)
    }
}

impl SigningKey {
    /// Makes a key and writes it to a new file that only its owner can read.
    pub fn generate(name: &str, path: &Path) -> Result<Self, KeyError> {
        check_name(name)?;
        let mut seed = Zeroizing::new([0_u8; 32]);
        aws_lc_rs::rand::fill(&mut *seed).map_err(|_no_detail| KeyError::Random)?;
        let key = Self::from_seed(name, &seed)?;
        let text = key.private_text(&seed);
        let failed = |error: std::io::Error| KeyError::Io(error.to_string());
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(key)
    }

    /// Reads a key file; refuses one that others can read.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let failed = |error: std::io::Error| KeyError::Io(error.to_string());
        let mode = fs::metadata(path).map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::OpenToOthers(mode));
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim_end_matches('\n').strip_prefix(PRIVATE_MARK).ok_or(KeyError::Form)?;
        let (name, key_id, seed) = parse_key(text)?;
        let key = Self::from_seed(name, &Zeroizing::new(seed))?;
        if key.verifier.key_id != key_id {
            return Err(KeyError::Form);
        }
        Ok(key)
    }

    fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        check_name(name)?;
        let pair =
            Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_no_detail| KeyError::Form)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_length| KeyError::Form)?;
        Ok(Self { verifier: VerifierKey::new(name, public), pair })
    }

    fn private_text(&self, seed: &[u8; 32]) -> Zeroizing<String> {
        let VerifierKey { name, key_id, .. } = &self.verifier;
        let id = u32::from_be_bytes(*key_id);
        let secret = Zeroizing::new(BASE64.encode(typed(seed)));
        Zeroizing::new(format!("{PRIVATE_MARK}{name}+{id:08x}+{}\n", *secret))
    }

    pub fn name(&self) -> &str {
        &self.verifier.name
    }

    /// The public key, for those who verify.
    pub fn verifier(&self) -> VerifierKey {
        self.verifier.clone()
    }

    /// Writes the signed note.
    pub fn sign(&self, checkpoint: &Checkpoint) -> Result<String, KeyError> {
        let text = checkpoint.text();
        let signature =
            self.pair.try_sign(text.as_bytes()).map_err(|_no_detail| KeyError::Random)?;
        let mut signed = self.verifier.key_id.to_vec();
        signed.extend_from_slice(signature.as_ref());
        let name = &self.verifier.name;
        Ok(format!("{text}\n{SIGNATURE_MARK}{name} {}\n", BASE64.encode(signed)))
    }
}

/// A public key with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key_id: [u8; 4],
    public: [u8; 32],
}

impl VerifierKey {
    fn new(name: &str, public: [u8; 32]) -> Self {
        let mut hashed = name.as_bytes().to_vec();
        hashed.push(b'\n');
        hashed.extend_from_slice(&typed(&public));
        let mut key_id = [0; 4];
        key_id.iter_mut().zip(digest(&SHA256, &hashed).as_ref()).for_each(|(to, from)| *to = *from);
        Self { name: name.to_owned(), key_id, public }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reports the presence of this key's name and id in a note; the signature is not checked.
    fn is_named_in(&self, note: &str) -> bool {
        let of_this_key = |line: &str| {
            let (name, signature) = line.strip_prefix(SIGNATURE_MARK)?.split_once(' ')?;
            let signature = BASE64.decode(signature).ok()?;
            Some(name == self.name && signature.starts_with(&self.key_id))
        };
        note.lines().any(|line| of_this_key(line) == Some(true))
    }

    /// Checks a signature line of this key; `None` if the line is another key's.
    fn check_line(&self, text: &str, line: &str) -> Option<bool> {
        let (name, signature) = line.strip_prefix(SIGNATURE_MARK)?.split_once(' ')?;
        let signature = BASE64.decode(signature).ok()?;
        let (key_id, signature) = signature.split_first_chunk::<4>()?;
        if name != self.name || *key_id != self.key_id {
            return None;
        }
        let key = UnparsedPublicKey::new(&ED25519, self.public);
        Some(key.verify(text.as_bytes(), signature).is_ok())
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = u32::from_be_bytes(self.key_id);
        write!(f, "{}+{id:08x}+{}", self.name, BASE64.encode(typed(&self.public)))
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, key_id, public) = parse_key(text.trim())?;
        check_name(name)?;
        let key = Self::new(name, public);
        if key.key_id == key_id { Ok(key) } else { Err(KeyError::Form) }
    }
}

/// `name+hash+base64(type || 32 bytes)`.
fn parse_key(text: &str) -> Result<(&str, [u8; 4], [u8; 32]), KeyError> {
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(KeyError::Form);
    };
    let id = Some(id).filter(|id| id.len() == 8).and_then(|id| u32::from_str_radix(id, 16).ok());
    let key = Zeroizing::new(BASE64.decode(key).map_err(|_no_base64| KeyError::Form)?);
    let (Some(id), Some((&ED25519_TYPE, key))) = (id, key.split_first()) else {
        return Err(KeyError::Form);
    };
    let key = key.try_into().map_err(|_length| KeyError::Form)?;
    Ok((name, id.to_be_bytes(), key))
}

fn typed(key: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    let mut typed = Zeroizing::new(Vec::with_capacity(33));
    typed.push(ED25519_TYPE);
    typed.extend_from_slice(key);
    typed
}

fn check_name(name: &str) -> Result<(), KeyError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if name.is_empty() || name.contains(bad) {
        return Err(KeyError::Name(name.chars().take(128).collect()));
    }
    Ok(())
}

/// A checkpoint whose signature is good, and its note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    pub line: usize,
    pub checkpoint: Checkpoint,
    pub note: String,
}

/// Fault of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteDamage {
    #[error("not a whole signed checkpoint")]
    Malformed,
    #[error("signed by none of the given keys")]
    UnknownKey,
    #[error("the signature does not fit the text")]
    BadSignature,
    #[error("speaks of another log than its key's")]
    OtherOrigin,
    #[error("contradicts an earlier checkpoint at sequence {sequence}")]
    Contradiction { sequence: u64 },
}

/// Content of a file of checkpoints.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    pub signed: Vec<Signed>,
    /// Each damage with the number of its note's first line.
    pub findings: Vec<(usize, NoteDamage)>,
}

/// Reads a file of notes, with empty lines between them or not.
pub fn read_notes(text: &str, keys: &[VerifierKey]) -> Notes {
    let mut notes = Notes::default();
    let mut hashes = HashMap::new();
    for (line, note) in split(text) {
        match open_note(note, keys) {
            Ok(checkpoint) => {
                let Link { sequence, hash } = checkpoint.link;
                let tree = checkpoint.tree;
                let known: &mut (HexHash, _) = hashes.entry(sequence).or_insert((hash, tree));
                let other_tree = known.1.is_some() && tree.is_some() && known.1 != tree;
                if known.0 != hash || other_tree {
                    notes.findings.push((line, NoteDamage::Contradiction { sequence }));
                }
                notes.signed.push(Signed { line, checkpoint, note: note.to_owned() });
            }
            Err(damage) => notes.findings.push((line, damage)),
        }
    }
    notes
}

/// Checks one note as the specification asks: what other keys say is passed over, what ours says
/// must be good.
pub(super) fn open_note(note: &str, keys: &[VerifierKey]) -> Result<Checkpoint, NoteDamage> {
    let at = note.rfind("\n\n").ok_or(NoteDamage::Malformed)?;
    let (text, rest) = note.split_at_checked(at + 1).ok_or(NoteDamage::Malformed)?;
    let control = |c: char| c < ' ' && c != '\n';
    let signatures: Vec<&str> = rest.lines().filter(|line| !line.is_empty()).collect();
    let whole = rest.ends_with('\n') && signatures.len() <= MAX_SIGNATURES;
    if !whole || note.contains(control) || signatures.is_empty() {
        return Err(NoteDamage::Malformed);
    }
    let judged: Vec<_> = signatures
        .iter()
        .flat_map(|line| keys.iter().filter_map(|key| Some((key, key.check_line(text, line)?))))
        .collect();
    if judged.iter().any(|(_, good)| !good) {
        return Err(NoteDamage::BadSignature);
    }
    let Some((key, _)) = judged.first() else { return Err(NoteDamage::UnknownKey) };
    let checkpoint = Checkpoint::read(text).ok_or(NoteDamage::Malformed)?;
    if checkpoint.origin != key.name {
        return Err(NoteDamage::OtherOrigin);
    }
    Ok(checkpoint)
}

/// The notes of a file with the number of their first line. A note ends with its signatures; what
/// has none is handed out as it is.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut notes = Vec::new();
    let (mut at, mut start, mut first_line, mut signed) = (0, None, 0, false);
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let is_signature = line.starts_with(SIGNATURE_MARK);
        if signed && !is_signature {
            if let Some(start) = start.take() {
                notes.push((first_line, text.get(start..at).unwrap_or_default()));
            }
            signed = false;
        }
        if start.is_none() && line != "\n" {
            (start, first_line) = (Some(at), number);
        }
        signed |= is_signature;
        at += line.len();
    }
    if let Some(start) = start {
        notes.push((first_line, text.get(start..).unwrap_or_default()));
    }
    notes
}

/// The notes of a file without every second one of `key`'s older half.
///
/// No proof is lost with them: a checkpoint speaks for every record before it, so what one that goes
/// could prove, the next one that stays proves too, only not as close to the place.
pub(super) fn thinned(text: &str, key: &VerifierKey) -> String {
    let notes = split(text);
    let older = notes.iter().filter(|(_, note)| key.is_named_in(note)).count() / 2;
    let mut kept = String::with_capacity(text.len());
    let mut nth = 0;
    for (_, note) in notes {
        if key.is_named_in(note) {
            nth += 1;
            if nth <= older && nth % 2 == 0 {
                continue;
            }
        }
        kept.push_str(note);
        kept.push('\n');
    }
    kept
}

/// The part of a file that ends with a note's last line.
pub(super) fn whole_notes(text: &str) -> &str {
    let mut end = 0;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        at += line.len();
        let between = line == "\n" && end + 1 == at;
        if line.ends_with('\n') && (line.starts_with(SIGNATURE_MARK) || between) {
            end = at;
        }
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests;
