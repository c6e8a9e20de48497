//! Text that must not leak: zeroed when dropped, never printed.

use std::fmt;
use std::io::Read as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::saturate::SaturatingFrom as _;

/// The longest secret, in bytes.
const MAX_BYTES: usize = 4_096;

/// A key, a secret or a password. Printing it shows `[secret]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Reads a file that holds a secret and nothing else but the end of its line.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 3));
        let limit = u64::saturating_from(MAX_BYTES + 3);
        std::fs::File::open(path)
            .and_then(|file| file.take(limit).read_to_end(&mut bytes))
            .map_err(|error| format!("names {}, which cannot be read: {error}", path.display()))?;
        let text = str::from_utf8(&bytes).unwrap_or("\0");
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(format!("names {}, which is empty", path.display()));
        }
        if text.len() > MAX_BYTES || text.chars().any(char::is_control) {
            let problem = "is over 4096 bytes or is not one line of text";
            return Err(format!("names {}, which {problem}", path.display()));
        }
        Ok(Self::new(text.to_owned()))
    }

    /// The text itself; every caller is a place to look at twice.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print_itself() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".to_owned())), "[secret]");
    }
}
