//! Undoes one escape: plainly where each of its characters has one meaning, and through all that
//! they can be read as where not.

use super::decoded::{ENTITIES, Text, Value, simple_escape};
use super::nodes::{Node, Nodes};

/// Classes of bytes: what they can be within an escape.
pub(super) mod class {
    pub(in super::super) const DIGIT: u8 = 1;
    pub(in super::super) const HASH: u8 = 2;
    pub(in super::super) const NAME: u8 = 4;
    pub(in super::super) const END: u8 = 8;
    pub(in super::super) const BASE: u8 = 16;
    pub(in super::super) const BACKSLASH: u8 = 32;
    pub(in super::super) const ALL: u8 = u8::MAX;

    /// Returns the classes of a byte.
    #[inline]
    pub(in super::super) fn of(byte: u8) -> u8 {
        OF.get(usize::from(byte)).copied().unwrap_or(0)
    }

    #[expect(
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        reason = "built by the compiler, which would refuse what is out of bounds"
    )]
    static OF: [u8; 256] = {
        let mut of = [0; 256];
        let mut byte = 0;
        while byte < of.len() {
            of[byte] = classes_of(byte as u8);
            byte += 1;
        }
        of
    };

    const fn classes_of(byte: u8) -> u8 {
        let digit = if byte.is_ascii_hexdigit() { DIGIT } else { 0 };
        digit
            | match byte {
                b'#' => HASH,
                b'q' | b'u' | b'o' | b't' | b'a' | b'm' | b'p' | b'l' | b'g' | b's' => NAME,
                b';' => END,
                b'x' | b'X' => BASE,
                b'\\' => BACKSLASH,
                _ => 0,
            }
    }
}

/// Digits of an entity, leading zeros included, that are followed.
const MOST_DIGITS: u8 = 9;

/// Result of undoing an escape plainly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undone {
    /// No escape, at no level.
    Nothing,
    /// A value, and the position behind it.
    To(Value, usize),
    /// Some character of it has several meanings.
    Unclear,
}

/// A character within an escape.
#[derive(Clone, Copy)]
enum Spot {
    End,
    Raw(u8),
    /// An introducer, and the classes of all that it can be read as.
    Open(u8),
}

/// Undoes escapes whose characters have one meaning each.
pub(super) struct Plainly<'w> {
    nodes: &'w Nodes,
    text: Text<'w>,
    /// End of the text that was looked at.
    pub reach: usize,
}

impl<'w> Plainly<'w> {
    pub(super) fn new(nodes: &'w Nodes, text: Text<'w>) -> Self {
        Self { nodes, text, reach: 0 }
    }

    /// Undoes the escape that `byte` introduces at `level` and that goes on at `at`.
    pub(super) fn undo(&mut self, byte: u8, at: usize, level: usize) -> Undone {
        match byte {
            b'%' => self.byte(at),
            b'+' => Undone::To(Value::Byte(b' '), at),
            b'\\' => self.backslash(at, level),
            b'&' => self.entity(at),
            _ => Undone::Nothing,
        }
    }

    #[inline]
    fn look(&mut self, at: usize) -> Spot {
        let Some(&raw) = self.text.bytes.get(at) else {
            self.reach = usize::MAX;
            return Spot::End;
        };
        if !Text::is_introducer(raw) {
            self.reach = self.reach.max(at + 1);
            return Spot::Raw(raw);
        }
        let Some(node) = self.nodes.at(at) else { return Spot::Open(class::ALL) };
        self.reach = self.reach.max(node.end(at));
        Spot::Open(node.classes)
    }

    /// Result at the end of the text: nothing follows, or that is not known yet.
    fn end(&self) -> Undone {
        if self.text.complete { Undone::Nothing } else { Undone::Unclear }
    }

    /// Result where `spot` is not the raw character that is wanted: unclear if it can be read so.
    fn other(&self, spot: Spot, classes: u8) -> Undone {
        match spot {
            Spot::End => self.end(),
            Spot::Open(can) if can & classes != 0 => Undone::Unclear,
            Spot::Open(_) | Spot::Raw(_) => Undone::Nothing,
        }
    }

    /// Exactly `count` hexadecimal digits.
    fn digits(&mut self, at: usize, count: usize) -> Result<u32, Undone> {
        let mut number = 0;
        for n in 0..count {
            let spot = self.look(at + n);
            let digit = match spot {
                Spot::Raw(byte) => char::from(byte).to_digit(16),
                Spot::End | Spot::Open(_) => None,
            };
            let Some(digit) = digit else { return Err(self.other(spot, class::DIGIT)) };
            number = number * 16 + digit;
        }
        Ok(number)
    }

    fn byte(&mut self, at: usize) -> Undone {
        match self.digits(at, 2) {
            Ok(number) => to(u8::try_from(number).ok().map(Value::Byte), at + 2),
            Err(other) => other,
        }
    }

    fn backslash(&mut self, at: usize, level: usize) -> Undone {
        match self.look(at) {
            Spot::End => self.end(),
            Spot::Raw(b'u') => self.unicode(at + 1),
            Spot::Raw(b'x') => self.byte(at + 1),
            Spot::Raw(byte) => to(simple_escape(byte).map(Value::Byte), at + 1),
            Spot::Open(_) => self.escaped_introducer(at, level),
        }
    }

    fn unicode(&mut self, at: usize) -> Undone {
        let unit = match self.digits(at, 4) {
            Ok(unit) => unit,
            Err(other) => return other,
        };
        if !(0xD800..0xDC00).contains(&unit) {
            return to(Value::of_number(unit), at + 4);
        }
        let spot = self.look(at + 4);
        self.other(spot, class::BACKSLASH)
    }

    /// A backslash before an introducer. The backslash may be undone first, which leaves the
    /// introducer's character escaped; the reading is plain only if both orders give one result at
    /// one level.
    fn escaped_introducer(&self, at: usize, level: usize) -> Undone {
        let Some(node) = self.nodes.at(at).filter(|node| !node.is_cut()) else {
            return Undone::Unclear;
        };
        let readings = self.nodes.view(node);
        let same = match readings {
            [_] => true,
            [_, second] => {
                node.is_plain() && second.value.byte().is_none_or(|byte| unchanged(byte, level))
            }
            _ => false,
        };
        match readings.first() {
            Some(first) if same => Undone::To(first.value, at + 1),
            Some(_) | None => Undone::Unclear,
        }
    }

    /// An entity: a number in either base, or one of the five names of XML. The semicolon may be
    /// missing, as browsers allow.
    fn entity(&mut self, at: usize) -> Undone {
        match self.look(at) {
            Spot::Raw(b'#') => self.entity_number(at + 1),
            Spot::Raw(b'q' | b'a' | b'l' | b'g') => self.entity_name(at),
            spot => self.other(spot, class::HASH | class::NAME),
        }
    }

    fn entity_number(&mut self, at: usize) -> Undone {
        let (base, mut next) = match self.look(at) {
            Spot::Raw(b'x' | b'X') => (16, at + 1),
            Spot::Open(can) if can & class::BASE != 0 => return Undone::Unclear,
            Spot::End | Spot::Open(_) | Spot::Raw(_) => (10, at),
        };
        let mut number = 0u32;
        for digits in 0..=MOST_DIGITS {
            let spot = self.look(next);
            let digit = match spot {
                Spot::Raw(byte) => char::from(byte).to_digit(base),
                Spot::End | Spot::Open(_) => None,
            };
            let Some(digit) = digit else {
                return match self.other(spot, class::DIGIT) {
                    Undone::Nothing if digits > 0 => {
                        self.entity_end(next, Value::of_number(number))
                    }
                    other => other,
                };
            };
            number = number.saturating_mul(base).saturating_add(digit);
            next += 1;
        }
        Undone::Nothing
    }

    fn entity_name(&mut self, at: usize) -> Undone {
        for (name, byte) in ENTITIES {
            let mut next = at;
            let mut fits = true;
            for wanted in name.bytes() {
                match self.look(next) {
                    Spot::Raw(raw) if raw == wanted => next += 1,
                    spot => match self.other(spot, class::NAME) {
                        Undone::Nothing => {
                            fits = false;
                            break;
                        }
                        other => return other,
                    },
                }
            }
            if fits {
                return self.entity_end(next, Some(Value::Byte(byte)));
            }
        }
        Undone::Nothing
    }

    fn entity_end(&mut self, at: usize, value: Option<Value>) -> Undone {
        match self.look(at) {
            Spot::Raw(b';') => to(value, at + 1),
            spot => match self.other(spot, class::END) {
                Undone::Nothing => to(value, at),
                other => other,
            },
        }
    }
}

fn to(value: Option<Value>, next: usize) -> Undone {
    value.map_or(Undone::Nothing, |value| Undone::To(value, next))
}

/// Reports whether a backslash before `byte`, which the first level found, changes nothing at `level`.
fn unchanged(byte: u8, level: usize) -> bool {
    let same = |escaped: u8| escaped == byte && level == 1;
    !Text::is_introducer(byte)
        && !matches!(byte, b'u' | b'x')
        && simple_escape(byte).is_none_or(same)
}

/// Observations of one decoding.
#[derive(Clone, Copy, Default)]
pub(super) struct Look {
    pub cut: bool,
    /// True if what was looked at reads differently at a higher level.
    pub deeper: bool,
    /// End of the text that was looked at.
    pub reach: usize,
}

type Found<'f> = &'f mut dyn FnMut(Option<Value>, usize);

/// The text as it looks one decoder further down.
pub(super) struct Below<'w> {
    pub nodes: &'w Nodes,
    pub text: Text<'w>,
    pub level: usize,
}

impl Below<'_> {
    /// Undoes the escape that `byte` introduces and that goes on at `at`, in every way.
    pub(super) fn decode(&self, byte: u8, at: usize, look: &mut Look, found: Found<'_>) {
        match byte {
            b'%' => {
                if let Some((number, next)) = self.hex(at, 2, look) {
                    found(u8::try_from(number).ok().map(Value::Byte), next);
                }
            }
            b'+' => found(Some(Value::Byte(b' ')), at),
            b'\\' => self.backslash(at, look, found),
            b'&' => self.entity(at, look, found),
            _ => {}
        }
    }

    /// Gives `each` the bytes that `at` can be read as.
    #[inline]
    fn each(&self, at: usize, look: &mut Look, mut each: impl FnMut(u8, usize, &mut Look)) {
        let Some(raw) = self.raw(at, look) else { return };
        let Some(node) = self.node(at, raw, look) else { return each(raw, at + 1, look) };
        for reading in self.nodes.view_at(node, self.level) {
            if let Value::Byte(byte) = reading.value {
                each(byte, at + reading.length, look);
            }
        }
    }

    /// The first reading of `at` that `wanted` accepts.
    #[inline]
    fn expect(
        &self,
        at: usize,
        look: &mut Look,
        wanted: impl Fn(u8) -> bool,
    ) -> Option<(u8, usize)> {
        let raw = self.raw(at, look)?;
        let Some(node) = self.node(at, raw, look) else {
            return wanted(raw).then_some((raw, at + 1));
        };
        let readings = self.nodes.view_at(node, self.level);
        readings.iter().find_map(|reading| {
            let byte = reading.value.byte().filter(|byte| wanted(*byte))?;
            Some((byte, at + reading.length))
        })
    }

    #[inline]
    fn raw(&self, at: usize, look: &mut Look) -> Option<u8> {
        let raw = self.text.bytes.get(at).copied();
        look.cut |= raw.is_none() && !self.text.complete;
        look.reach = look.reach.max(raw.map_or(usize::MAX, |_| at + 1));
        raw
    }

    /// The node at `at`, if `raw` stands there for more than itself.
    #[inline]
    fn node(&self, at: usize, raw: u8, look: &mut Look) -> Option<&Node> {
        if !Text::is_introducer(raw) {
            return None;
        }
        let node = self.nodes.at(at)?;
        look.cut |= node.is_cut_at(self.level);
        look.deeper |= node.is_deeper_than(self.level);
        look.reach = look.reach.max(node.end(at));
        Some(node)
    }

    /// Exactly `digits` hexadecimal digits.
    fn hex(&self, at: usize, digits: u8, look: &mut Look) -> Option<(u32, usize)> {
        let mut next = at;
        let mut number = 0;
        for _ in 0..digits {
            let (digit, behind) = self.expect(next, look, |b| b.is_ascii_hexdigit())?;
            number = number * 16 + char::from(digit).to_digit(16)?;
            next = behind;
        }
        Some((number, next))
    }

    fn backslash(&self, at: usize, look: &mut Look, found: Found<'_>) {
        self.each(at, look, |byte, next, look| match byte {
            b'u' => self.unicode(next, look, found),
            b'x' => {
                if let Some((number, next)) = self.hex(next, 2, look) {
                    found(u8::try_from(number).ok().map(Value::Byte), next);
                }
            }
            _ => found(simple_escape(byte).map(Value::Byte), next),
        });
    }

    /// The digits behind `\u`, and the second half of a surrogate pair.
    fn unicode(&self, at: usize, look: &mut Look, found: Found<'_>) {
        let Some((unit, next)) = self.hex(at, 4, look) else { return };
        if !(0xD800..0xDC00).contains(&unit) {
            return found(Value::of_number(unit), next);
        }
        // A backslash has readings of several lengths here; the right one is the one before a `u`.
        self.each(next, look, |byte, next, look| {
            if byte != b'\\' {
                return;
            }
            let Some((_, next)) = self.expect(next, look, |b| b == b'u') else { return };
            if let Some((low @ 0xDC00..0xE000, next)) = self.hex(next, 4, look) {
                let number = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                found(Value::of_number(number), next);
            }
        });
    }

    fn entity(&self, at: usize, look: &mut Look, found: Found<'_>) {
        // Most of what follows is neither, and that is seen at its first byte.
        let mut number = None;
        let mut named = false;
        self.each(at, look, |byte, next, _| match byte {
            b'#' => number = number.or(Some(next)),
            b'q' | b'a' | b'l' | b'g' => named = true,
            _ => {}
        });
        if let Some(next) = number {
            let (base, next) = match self.expect(next, look, |b| matches!(b, b'x' | b'X')) {
                Some((_, next)) => (16, next),
                None => (10, next),
            };
            return self.entity_number(next, base, look, found);
        }
        for (name, byte) in ENTITIES.into_iter().filter(|_| named) {
            let end = name.bytes().try_fold(at, |at, wanted| {
                self.expect(at, look, |b| b == wanted).map(|(_, next)| next)
            });
            if let Some(end) = end {
                self.entity_end(end, Some(Value::Byte(byte)), look, found);
            }
        }
    }

    fn entity_number(&self, at: usize, base: u32, look: &mut Look, found: Found<'_>) {
        let mut next = at;
        let mut number = 0u32;
        for digits in 0..=MOST_DIGITS {
            let digit = self.expect(next, look, |b| char::from(b).is_digit(base));
            let Some((digit, behind)) = digit else {
                if digits > 0 {
                    self.entity_end(next, Value::of_number(number), look, found);
                }
                return;
            };
            number = number
                .saturating_mul(base)
                .saturating_add(char::from(digit).to_digit(base).unwrap_or(0));
            next = behind;
        }
    }

    fn entity_end(&self, at: usize, value: Option<Value>, look: &mut Look, found: Found<'_>) {
        let end = self.expect(at, look, |b| b == b';').map_or(at, |(_, next)| next);
        found(value, end);
    }
}
