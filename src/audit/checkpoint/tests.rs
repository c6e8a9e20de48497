use proptest::prelude::*;

use super::*;

fn key(name: &str, byte: u8) -> SigningKey {
    SigningKey::from_seed(name, &[byte; 32]).unwrap()
}

fn checkpoint(sequence: u64, of: &[u8]) -> Checkpoint {
    let at = Timestamp::parse("2026-11-22T10:00:00.000007Z").unwrap();
    Checkpoint {
        origin: "node-1".to_owned(),
        link: Link { sequence, hash: HexHash::of(of) },
        tree: None,
        at,
    }
}

fn read(text: &str, key: &SigningKey) -> Notes {
    read_notes(text, &[key.verifier()])
}

fn damage(text: &str, key: &SigningKey) -> Vec<(usize, NoteDamage)> {
    read(text, key).findings
}

/// Test vector of the signed-note specification: any reader that follows it reads these notes.
#[test]
fn keys_and_notes_are_those_of_the_specification() {
    // From the package documentation of golang.org/x/mod/sumdb/note, made public as an example.
    let vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let verifier: VerifierKey = vkey.parse().unwrap();
    assert_eq!(verifier.to_string(), vkey);
    let text = "If you think cryptography is the answer to your problem,\n\
                then you don't know what your problem is.\n";
    let line = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZ\
                SNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
    assert_eq!(verifier.check_line(text, line), Some(true));
    assert_eq!(verifier.check_line(&text.replace("know", "knew"), line), Some(false));
    assert_eq!(verifier.check_line(text, &line.replace("PeterNeumann", "EnochRoot")), None);
}

#[test]
fn a_note_is_read_back() {
    let key = key("node-1", 7);
    let checkpoint = checkpoint(4_711, b"x");
    let note = key.sign(&checkpoint).unwrap();
    let lines: Vec<_> = note.lines().collect();
    assert_eq!(lines[..2], ["node-1", "4711"]);
    assert_eq!(BASE64.decode(lines[2]).unwrap(), blake3::hash(b"x").as_bytes());
    assert_eq!(lines[3..5], ["time 2026-11-22T10:00:00.000007Z", ""]);
    assert!(lines[5].starts_with("\u{2014} node-1 "), "{note}");
    let notes = read(&note, &key);
    assert_eq!(notes.findings, []);
    assert_eq!(notes.signed[0].checkpoint, checkpoint);
    assert_eq!(notes.signed[0].note, note);
}

#[test]
fn key_files_are_private_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let made = SigningKey::generate("gateway-1", &path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let read = SigningKey::load(&path).unwrap();
    assert_eq!(read.verifier(), made.verifier());
    assert_eq!(made.verifier().to_string().parse(), Ok(made.verifier()));
    assert!(!format!("{made:?}").contains(fs::read_to_string(&path).unwrap().trim()));
    // A key is never written over another.
    assert!(matches!(SigningKey::generate("gateway-1", &path), Err(KeyError::Io(_))));
    let other = SigningKey::generate("gateway-1", &folder.path().join("other")).unwrap();
    assert_ne!(other.verifier(), made.verifier());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    fs::set_permissions(&path, mode).unwrap();
    assert_eq!(SigningKey::load(&path).unwrap_err(), KeyError::OpenToOthers(0o640));
    for name in ["", "a b", "a+b", "a\n", "a\u{2003}b"] {
        let made = SigningKey::generate(name, &folder.path().join("no"));
        assert!(matches!(made, Err(KeyError::Name(_))), "{name:?}");
    }
    for text in ["", "x", "a+b+c", "PRIVATE+KEY+a+00000000+AQ==", &made.verifier().to_string()] {
        assert_eq!(SigningKey::parse(text).unwrap_err(), KeyError::Form, "{text}");
    }
    let wrong_id = made.verifier().to_string().replacen('+', "+0", 1);
    assert_eq!(wrong_id.parse::<VerifierKey>(), Err(KeyError::Form));
}

#[test]
fn what_is_wrong_with_a_note_is_named() {
    let (ours, other) = (key("node-1", 1), key("node-1", 2));
    let note = ours.sign(&checkpoint(5, b"x")).unwrap();
    assert_eq!(damage(&note, &other), [(1, NoteDamage::UnknownKey)]);
    assert_eq!(damage(&note.replace("\n5\n", "\n6\n"), &ours), [(1, NoteDamage::BadSignature)]);
    assert_eq!(damage("node-1\n5\n", &ours), [(1, NoteDamage::Malformed)]);
    let torn = format!("\n\n{note}\n{}", note.get(..30).unwrap());
    assert_eq!(damage(&torn, &ours), [(9 + 1, NoteDamage::Malformed)].map(|(n, d)| (n, d)));
    let elsewhere = Checkpoint { origin: "node-2".to_owned(), ..checkpoint(5, b"x") };
    let elsewhere = ours.sign(&elsewhere).unwrap();
    assert_eq!(damage(&elsewhere, &ours), [(1, NoteDamage::OtherOrigin)]);
    // What the same key says of one sequence must be the same.
    let contrary = ours.sign(&checkpoint(5, b"y")).unwrap();
    let both = format!("{note}\n{contrary}");
    assert_eq!(damage(&both, &ours), [(8, NoteDamage::Contradiction { sequence: 5 })]);
    // Others may sign as well.
    let cosigned =
        format!("{note}{}\n", other.sign(&checkpoint(5, b"x")).unwrap().lines().last().unwrap());
    assert_eq!(damage(&cosigned, &ours), []);
    assert_eq!(read(&cosigned, &other).signed.len(), 1);
    let spoilt = cosigned.replace(note.lines().last().unwrap(), "\u{2014} x !!");
    assert_eq!(damage(&spoilt, &ours), [(1, NoteDamage::UnknownKey)]);
}

#[test]
fn half_a_note_at_the_end_is_not_part_of_the_file() {
    let key = key("node-1", 3);
    let note = key.sign(&checkpoint(1, b"a")).unwrap();
    let two = format!("{note}\n{note}\n");
    for end in 0..two.len() {
        let Some(text) = two.get(..end) else { continue };
        let whole = whole_notes(text);
        let expected = if end > 2 * note.len() { 2 } else { usize::from(end >= note.len()) };
        let notes = read(whole, &key);
        assert_eq!((notes.signed.len(), notes.findings.len()), (expected, 0), "{end}");
    }
    assert_eq!(whole_notes(&two), two);
}

proptest! {
    #[test]
    fn no_flipped_bit_of_a_note_passes(at in 0..10_000_usize, bit in 0..8_u32) {
        let key = key("node-1", 9);
        let original = checkpoint(77, b"x");
        let mut note = key.sign(&original).unwrap().into_bytes();
        let at = at % note.len();
        note[at] ^= 1 << bit;
        let Ok(note) = String::from_utf8(note) else { return Ok(()) };
        // A note may be read in spite of a flip only if it says the same.
        for signed in read(&note, &key).signed {
            prop_assert_eq!(signed.checkpoint, original.clone());
        }
    }

    #[test]
    fn any_text_is_read_without_panic(text in "(\u{2014} |node-1|\n|[0-9]|[a-zA-Z+/=]| ){0,60}") {
        prop_assert!(read(&text, &key("node-1", 1)).signed.is_empty());
        whole_notes(&text);
    }
}
