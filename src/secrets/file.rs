//! Reads a credentials file, and who else could.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::{MAX_SOURCE_BYTES, SecretsError};
use crate::saturate::SaturatingFrom as _;

/// The file's text, and its permissions where there are such.
pub(super) fn read(path: &Path) -> Result<(Zeroizing<String>, Option<u32>), SecretsError> {
    let unreadable = |source| SecretsError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    // Of the open file, so that what is judged is what is read.
    let meta = file.metadata().map_err(unreadable)?;
    let size = usize::try_from(meta.len().min(MAX_SOURCE_BYTES)).unwrap_or(0);
    let mut text = Zeroizing::new(String::with_capacity(size + 1));
    file.take(MAX_SOURCE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if u64::saturating_from(text.len()) > MAX_SOURCE_BYTES {
        return Err(SecretsError::TooLarge { path: path.to_owned() });
    }
    Ok((text, mode(&meta)))
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other systems have no mode")]
fn mode(meta: &std::fs::Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    Some(meta.permissions().mode() & 0o777)
}

#[cfg(not(unix))]
fn mode(_meta: &std::fs::Metadata) -> Option<u32> {
    None
}
