//! Text that agents choose, made safe to look at: escaped by the templates, clipped here, and with
//! every character marked that hides, reorders or controls what is seen.

use maud::{Markup, html};

/// Longest text in a line of a page, in characters.
const LINE_CHARS: usize = 200;
/// Longest text of a block, in characters.
pub(super) const BLOCK_CHARS: usize = 80 * 1024;

/// Characters that are not what they look like: controls, formats that reorder or vanish, fillers.
fn is_odd(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c),
            0x00AD | 0x034F | 0x061C | 0x115F..=0x1160 | 0x17B4..=0x17B5 | 0x180B..=0x180F
            | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F | 0x3164 | 0xFE00..=0xFE0F
            | 0xFEFF | 0xFFA0 | 0xFFF0..=0xFFFB | 0xE0000..=0xE0FFF)
}

/// Renders a text on one line.
pub(super) fn text(text: &str) -> Markup {
    marked(text, LINE_CHARS, is_odd)
}

/// Renders a text with its line breaks and tabs.
pub(super) fn block(text: &str) -> Markup {
    marked(text, BLOCK_CHARS, |c| is_odd(c) && c != '\n' && c != '\t')
}

fn marked(text: &str, max_chars: usize, is_odd: impl Fn(char) -> bool) -> Markup {
    let end = text.char_indices().nth(max_chars).map_or(text.len(), |(at, _)| at);
    let (shown, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    html! {
        @for run in runs(shown, is_odd) {
            @match run {
                Run::Plain(plain) => (plain),
                Run::Odd(c) => span.odd { (format!("U+{:04X}", u32::from(c))) },
            }
        }
        @if !rest.is_empty() {
            " " span.clipped { "… clipped: " (text.len()) " bytes in all" }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Run<'t> {
    Plain(&'t str),
    Odd(char),
}

fn runs(text: &str, is_odd: impl Fn(char) -> bool) -> Vec<Run<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((at, odd)) = rest.char_indices().find(|(_, c)| is_odd(*c)) {
        let Some((plain, behind)) = rest.split_at_checked(at) else { break };
        if !plain.is_empty() {
            found.push(Run::Plain(plain));
        }
        found.push(Run::Odd(odd));
        rest = behind.get(odd.len_utf8()..).unwrap_or_default();
    }
    if !rest.is_empty() {
        found.push(Run::Plain(rest));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        let html = text("<script>alert('1')</script>\"&").into_string();
        assert_eq!(html, "&lt;script&gt;alert('1')&lt;/script&gt;&quot;&amp;");
    }

    #[test]
    fn what_hides_or_reorders_is_marked() {
        for (odd, mark) in [
            ('\u{1b}', "U+001B"),
            ('\u{202e}', "U+202E"),
            ('\u{200b}', "U+200B"),
            ('\u{2066}', "U+2066"),
            ('\u{feff}', "U+FEFF"),
            ('\u{e0041}', "U+E0041"),
            ('\n', "U+000A"),
            ('\0', "U+0000"),
        ] {
            let html = text(&format!("a{odd}b")).into_string();
            assert_eq!(html, format!("a<span class=\"odd\">{mark}</span>b"));
        }
        assert_eq!(block("a\n\tb").into_string(), "a\n\tb");
        assert_eq!(text("äöü 漢字 👍").into_string(), "äöü 漢字 👍");
    }

    #[test]
    fn a_long_text_is_clipped_and_says_so() {
        let html = text(&"ä".repeat(50_000)).into_string();
        assert!(html.len() < 1_000, "{}", html.len());
        assert!(html.contains("clipped: 100000 bytes in all"));
        let html = block(&"\u{202e}".repeat(1_000_000)).into_string();
        assert!(html.len() < 64 * 1024 * 40, "{}", html.len());
    }
}
