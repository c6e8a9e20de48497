//! The lattice against its oracle, and the starts it finds against a look at every position.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::super::Patterns;
use super::super::coarse::characters;
use super::super::decoded::{CutShort, Text};
use super::super::encodings::forms;
use super::super::heads::Heads;
use super::super::lattice::Lattice;
use super::super::patterns::Span;
use super::mixtures::{JOINTS, SECRETS, spelled};
use super::oracle::Oracle;

#[derive(Clone, Debug)]
enum Part {
    Joints(Vec<&'static str>),
    /// Joints over and over, as the scrubber may pass over them.
    Again(Vec<&'static str>, usize),
    /// A stretch of a secret, or one of its forms, under codings.
    Secret {
        which: Index,
        from: Index,
        to: Index,
        form: u8,
        choices: Vec<u8>,
        levels: u8,
    },
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        proptest::collection::vec(select(JOINTS), 0..6).prop_map(Part::Joints),
        (proptest::collection::vec(select(JOINTS), 1..6), 1..120usize)
            .prop_map(|(joints, times)| Part::Again(joints, times)),
        (any::<(Index, Index, Index)>(), 0u8..8, proptest::collection::vec(0u8..24, 1..12), 0u8..4)
            .prop_map(|((which, from, to), form, choices, levels)| Part::Secret {
                which,
                from,
                to,
                form,
                choices,
                levels
            }),
    ]
}

fn body_of(parts: &[Part], secrets: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in parts {
        match part {
            Part::Joints(joints) => body.extend(joints.concat().into_bytes()),
            Part::Again(joints, times) => body.extend(joints.concat().repeat(*times).into_bytes()),
            Part::Secret { which, from, to, form, choices, levels } => {
                let secret = which.get(secrets).as_bytes();
                let (from, to) = (from.index(secret.len()), to.index(secret.len() + 1));
                let hex = |tail: &str| -> Vec<u8> {
                    secret.iter().flat_map(|b| format!("{b:02x}{tail}").into_bytes()).collect()
                };
                let text = match form {
                    0 => hex(":"),
                    1 => hex(""),
                    2 => hex(" \n"),
                    3 => STANDARD.encode(secret).into_bytes(),
                    4 | 5 => secret.get(from..to).unwrap_or(secret).to_vec(),
                    _ => secret.to_vec(),
                };
                let mut text = spelled(&text, choices, *levels);
                text.truncate(600);
                body.extend(text);
            }
        }
    }
    body.truncate(2000);
    body
}

fn cases() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    // `PROPTEST_CASES` sets the number for a long run.
    if config.cases == 256 {
        config.cases = 300;
    }
    config.failure_persistence = None;
    config
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn no_start_of_a_secret_is_passed_over(
        secrets in proptest::collection::vec(select(SECRETS), 1..3),
        parts in proptest::collection::vec(part(), 0..7),
        complete in any::<bool>(),
        end in any::<Index>(),
    ) {
        let body = body_of(&parts, &secrets);
        let cut = if complete { body.len() } else { end.index(body.len() + 1) };
        let text = Text { bytes: &body[..cut], complete, before: None };
        let patterns = Patterns::new(secrets.iter().map(|s| s.as_bytes()));
        let everywhere = |_: &mut Lattice<'_>, from: usize| (from < cut).then_some(from);
        let found = patterns.scan(text, 0);
        let expected = patterns.scan_at(text, 0, everywhere);
        let shown = String::from_utf8_lossy(&body).into_owned();
        if found.hold > expected.hold && !complete {
            // An escape that breaks off could go on as anything; the filter knows that no secret begins so.
            let whole = Text { bytes: &body, complete: true, before: None };
            let later = patterns.scan_at(whole, 0, |_, from| (from < body.len()).then_some(from));
            let between = |span: &&Span| (expected.hold..found.hold).contains(&span.start);
            for span in later.spans.iter().filter(between) {
                prop_assert!(found.spans.iter().any(|known| known.start == span.start), "{shown:?}");
            }
            let before = found.spans.iter().filter(|span| span.start < expected.hold).copied();
            prop_assert_eq!(before.collect::<Vec<_>>(), expected.spans, "{:?}", shown);
        } else {
            prop_assert_eq!(found, expected, "{:?}", shown);
        }
    }

    #[test]
    fn a_coarse_look_misses_no_character_of_a_form(
        secrets in proptest::collection::vec(select(SECRETS), 1..3),
        parts in proptest::collection::vec(part(), 0..4),
        complete in any::<bool>(),
        end in any::<Index>(),
    ) {
        let mut bytes = body_of(&parts, &secrets);
        bytes.truncate(if complete { 400 } else { end.index(400) });
        let text = Text { bytes: &bytes, complete, before: None };
        let forms: Vec<_> = secrets.iter().flat_map(|s| forms(s.as_bytes())).collect();
        let heads = Heads::new(&forms);
        let exact = Lattice::new(text, &heads).characters();
        let coarse = characters(text, &heads).into_iter().rev();
        prop_assert_eq!(coarse.len(), exact.len());
        for (at, (coarse, exact)) in coarse.zip(exact).enumerate() {
            prop_assert_eq!(exact & !coarse, 0, "{:?} at {}", String::from_utf8_lossy(&bytes), at);
        }
    }

    #[test]
    fn a_lattice_has_the_readings_of_the_oracle(
        joints in proptest::collection::vec(select(JOINTS), 0..40),
        from in any::<Index>(),
        complete in any::<bool>(),
    ) {
        let text = joints.concat();
        let bytes = text.as_bytes();
        let heads = Heads::new(&[]);
        let whole = Text { bytes, complete, before: None };
        let mut lattice = Lattice::new(whole, &heads);
        for at in from.index(bytes.len() + 1)..=bytes.len() {
            let (mut cut, mut trusted_cut) = (CutShort::default(), CutShort::default());
            let readings: Vec<_> =
                lattice.read(at, &mut cut).iter().map(|r| (r.value, at + r.length)).collect();
            let expected: Vec<_> =
                Oracle(whole).read(at, &mut trusted_cut).iter().map(|r| (r.value, r.next)).collect();
            prop_assert_eq!(readings, expected, "{:?} at {}", text, at);
            prop_assert_eq!(cut, trusted_cut, "{:?} at {}", text, at);
        }
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn strings_are_searched_with_the_text_around_them(
        secrets in proptest::collection::vec(select(SECRETS), 1..3),
        parts in proptest::collection::vec(part(), 0..7),
        cuts in proptest::collection::vec(any::<Index>(), 0..10),
    ) {
        let body = body_of(&parts, &secrets);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        cuts.sort_unstable();
        let strings: Vec<_> = cuts.chunks_exact(2).map(|cut| cut[0]..cut[1]).collect();
        let patterns = Patterns::new(secrets.iter().map(|s| s.as_bytes()));
        let (found, tails) = patterns.scan_strings(&body, strings.iter().cloned());
        let shown = String::from_utf8_lossy(&body).into_owned();
        prop_assert_eq!(found, patterns.scan(Text::whole(&body), 0), "{:?}", shown);
        prop_assert_eq!(tails.len(), strings.len());
        for (string, tail) in strings.iter().zip(tails) {
            let content = &body[string.clone()];
            for at in 0..content.len() {
                let Some(begun) = patterns.begun_at(content, at) else { continue };
                let known = tail.is_some_and(|tail| tail.from <= at && tail.bytes >= begun);
                prop_assert!(known, "{:?} in {:?} at {}", string, shown, at);
            }
        }
    }

    #[test]
    fn no_start_of_a_secret_is_passed_over_in_what_repeats(
        secret in select(SECRETS),
        piece in part(),
        rest in part(),
        end in part(),
        times in 1..60usize,
        complete in any::<bool>(),
    ) {
        let bytes = |part: Part| body_of(&[part], &[secret]);
        let (mut piece, rest, end) = (bytes(piece), bytes(rest), bytes(end));
        piece.truncate(90);
        let mut body = [piece.repeat(times), rest, piece.repeat(times / 2), end].concat();
        body.truncate(4000);
        let text = Text { bytes: &body, complete, before: None };
        let patterns = Patterns::new([secret.as_bytes()]);
        let everywhere = |_: &mut Lattice<'_>, from: usize| (from < body.len()).then_some(from);
        let (found, expected) = (patterns.scan(text, 0), patterns.scan_at(text, 0, everywhere));
        let shown = String::from_utf8_lossy(&body).into_owned();
        // Where an escape breaks off, more may be held back than is needed.
        let before = |spans: &[Span]| -> Vec<Span> {
            spans.iter().filter(|span| span.start < expected.hold).copied().collect()
        };
        prop_assert!(found.hold >= expected.hold, "{shown:?}");
        prop_assert_eq!(before(&found.spans), before(&expected.spans), "{:?}", shown);
    }
}

#[test]
fn a_coarse_look_sees_a_semicolon_whose_backslash_is_coded() {
    let bytes = br"\\u\x78&#53;c&amp;#12\x30\;30\x26&#35;4\x38\x5c\;41\x5c&#120;5c&#1\x310;\\x5c&#120;5c\x7\x38";
    let (heads, text) = (Heads::new(&forms(br"\u0041\n\\x")), Text::whole(bytes));
    let exact = Lattice::new(text, &heads).characters();
    let coarse = characters(text, &heads).into_iter().rev();
    for (at, (coarse, exact)) in coarse.zip(exact).enumerate() {
        assert_eq!(exact & !coarse, 0, "at {at}");
    }
}

#[test]
fn half_a_character_is_held_back_where_a_secret_begins_with_it() {
    let patterns = Patterns::new(["\u{1f600}S3cr3t-P@ss".as_bytes()]);
    for half in [&br"\ud83d"[..], br"\\ud83d", br"\u00"] {
        assert_eq!(patterns.scan(Text::unfinished(half), 0).hold, 0, "{half:?}");
    }
}
