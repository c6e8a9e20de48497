//! Reads one character of a text as every decoder the agent might own would read it.
//!
//! A list of encoded patterns misses mixtures (`%41b\u0063`), odd hex case and encodings of
//! encodings. So a byte is read through up to [`LEVELS`] decoders at once, each of which undoes
//! percent, JSON, `\x` and HTML escapes and passes on what is not escaped: three levels cover double
//! URL-encoding, JSON in JSON in JSON, and a URL-encoded HTML entity inside a JSON string.

use smallvec::SmallVec;

/// Number of nested encodings that are undone.
pub(super) const LEVELS: usize = 3;

/// A reading: what stands at a position, and how many bytes of the text it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub value: Value,
    pub length: usize,
}

/// A decoded byte, or a character beyond ASCII that was written by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Byte(u8),
    Char(char),
}

impl Value {
    pub(super) fn of_number(number: u32) -> Option<Self> {
        match u8::try_from(number) {
            Ok(byte) if byte.is_ascii() => Some(Self::Byte(byte)),
            _ => char::from_u32(number).map(Self::Char),
        }
    }

    pub(super) fn byte(self) -> Option<u8> {
        match self {
            Self::Byte(byte) => Some(byte),
            Self::Char(_) => None,
        }
    }
}

/// The bytes with which what an introducer may be read as starts.
pub(super) type Glance = SmallVec<[u8; 4]>;

/// The first bytes of the character whose number `digits` are; `itself` alone if they are none.
fn glance_number(itself: u8, digits: &[u8]) -> Option<Glance> {
    let mut glance = Glance::from_slice(&[itself]);
    let mut number = 0u32;
    for &digit in digits {
        if Text::is_introducer(digit) {
            return None;
        }
        let Some(value) = char::from(digit).to_digit(16) else { return Some(glance) };
        number = number * 16 + value;
    }
    // As a byte, as Latin-1, and as the first byte of UTF-8.
    if let Ok(byte) = u8::try_from(number) {
        if Text::is_introducer(byte) {
            return None;
        }
        glance.push(byte);
    }
    let mut utf8 = [0; 4];
    char::from_u32(number)?.encode_utf8(&mut utf8);
    glance.extend(utf8.first().copied());
    Some(glance)
}

/// A stretch of text, and whether more of it may come.
#[derive(Clone, Copy)]
pub(super) struct Text<'t> {
    pub bytes: &'t [u8],
    pub complete: bool,
    /// The last byte before it that is no white space, if anything came before it.
    pub before: Option<u8>,
}

impl<'t> Text<'t> {
    pub(super) fn whole(bytes: &'t [u8]) -> Self {
        Self { bytes, complete: true, before: None }
    }

    pub(super) fn unfinished(bytes: &'t [u8]) -> Self {
        Self { bytes, complete: false, before: None }
    }
}

/// State of a reading that reached the end of incomplete text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CutShort(pub bool);

impl Text<'_> {
    /// Reports whether a raw byte can mean something else than itself.
    #[inline]
    pub(super) fn is_introducer(byte: u8) -> bool {
        matches!(byte, b'%' | b'\\' | b'&' | b'+')
    }

    /// All that the introducer at `at` could be read as, more rather than less, where that is seen
    /// at a glance; most escapes of a body stand for nothing that a secret starts with.
    pub(super) fn glance(&self, at: usize) -> Option<Glance> {
        /// Longer runs of backslashes stand for backslashes alone.
        const LONGEST_RUN: usize = 1 << LEVELS;
        /// More than any glance looks at.
        const AHEAD: usize = LONGEST_RUN + 8;
        let ahead = self.bytes.get(at..)?.first_chunk::<AHEAD>()?;
        let only = |value: u8| Some(Glance::from_slice(&[*ahead.first()?, value]));
        match ahead {
            [b'+', ..] => only(b' '),
            [b'%', high, low, ..] => glance_number(b'%', &[*high, *low]),
            [b'\\', ..] => {
                let run = ahead.iter().take_while(|&&b| b == b'\\').count();
                if run >= LONGEST_RUN {
                    return only(b'\\');
                }
                let coded = match *ahead.get(run)? {
                    b'u' => ahead.get(run + 1..run + 5)?,
                    b'x' => ahead.get(run + 1..run + 3)?,
                    letter if Self::is_introducer(letter) => return None,
                    letter => return only(simple_escape(letter).unwrap_or(b'\\')),
                };
                // The second backslash may be undone first; what it stands for is then escaped by
                // the first.
                let escapes =
                    |&byte: &u8| matches!(byte, b'u' | b'x') || simple_escape(byte).is_some();
                let glance = glance_number(b'\\', coded)?;
                (run == 1 || !glance.iter().skip(1).any(escapes)).then_some(glance)
            }
            _ => None,
        }
    }
}

/// The named entities that escaping functions write.
pub(super) const ENTITIES: [(&str, u8); 5] =
    [("quot", b'"'), ("amp", b'&'), ("lt", b'<'), ("gt", b'>'), ("apos", b'\'')];

/// Returns the character escaped by a backslash before `byte`.
pub(super) fn simple_escape(byte: u8) -> Option<u8> {
    match byte {
        b'n' => Some(b'\n'),
        b'r' => Some(b'\r'),
        b't' => Some(b'\t'),
        b'b' => Some(8),
        b'f' => Some(12),
        other => other.is_ascii_punctuation().then_some(other),
    }
}

/// The letter behind a backslash that stands for `byte`.
pub(super) fn escape_letter(byte: u8) -> Option<u8> {
    match byte {
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        b'\t' => Some(b't'),
        8 => Some(b'b'),
        12 => Some(b'f'),
        other => other.is_ascii_punctuation().then_some(other),
    }
}
