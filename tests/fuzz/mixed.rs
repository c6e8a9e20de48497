//! A hostile text for the law of cost and for the bench of the scrubber.

/// Escapes of all codings in a random order, which no memory of earlier ones helps with.
pub(crate) fn mixed(bytes: usize) -> String {
    const MIXED: [&str; 13] = [
        "%5c", "\\x5c", "\\u005c", "&#92;", "\\\\", "%25", "&amp;", "5c", "x", "u00", "n", "%26",
        "#38;",
    ];
    let mut random = 7_u64;
    let mut text = String::new();
    while text.len() < bytes {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let next = usize::try_from(random >> 33).unwrap_or(0) % MIXED.len();
        text.push_str(MIXED.get(next).copied().unwrap_or_default());
    }
    text
}
