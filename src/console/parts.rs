//! Pieces of pages: values of the API's answers, times, ids, badges, lists that page.

use maud::{Markup, html};
use serde_json::Value;

use super::form::write_query;
use super::shown::text;

/// Items of a list on one page.
pub(super) const PER_PAGE: usize = 50;

/// Returns a text of an answer; empty if there is none.
pub(super) fn string<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Returns a number of an answer; 0 if there is none.
pub(super) fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

/// Returns the items of a list in an answer.
pub(super) fn items<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Returns the texts of a list in an answer.
pub(super) fn strings<'v>(value: &'v Value, pointer: &str) -> Vec<&'v str> {
    items(value, pointer).iter().filter_map(Value::as_str).collect()
}

/// Renders an RFC 3339 time to the second.
pub(super) fn time(at: &str) -> Markup {
    let (day, rest) = at.split_once('T').unwrap_or((at, ""));
    let clock = rest.get(..8).unwrap_or(rest);
    html! {
        @if !at.is_empty() { time datetime=(at) title=(at) { (day) " " (clock) } }
    }
}

/// Renders the time of day of an RFC 3339 time, to the millisecond.
pub(super) fn clock(at: &str) -> Markup {
    let rest = at.split_once('T').map_or(at, |(_, rest)| rest);
    html! { time datetime=(at) title=(at) { (rest.get(..12).unwrap_or(rest)) } }
}

/// Renders an id as a link with its first digits; the whole id is in the title.
pub(super) fn id(kind: &str, id: &str) -> Markup {
    html! {
        @if !id.is_empty() {
            a.id href={ "/console/" (kind) "/" (id) } title=(id) { (id.get(..8).unwrap_or(id)) }
        }
    }
}

/// Renders an id whole.
pub(super) fn whole_id(id: &str) -> Markup {
    html! { @if !id.is_empty() { code.id { (text(id)) } } }
}

/// Renders a word as a badge in the colour of its meaning.
pub(super) fn badge(word: &str) -> Markup {
    let class = match word {
        "allow" | "active" | "approved" | "up" | "intact" | "passed" | "healthy" | "ready" => {
            "good"
        }
        "deny" | "denied" | "down" | "refused" | "damaged" | "inactive" | "unhealthy"
        | "not ready" => "bad",
        "escalate" | "pending" | "warning" | "frozen" => "warn",
        _ => "plain",
    };
    html! { @if !word.is_empty() { span class={ "badge " (class) } { (text(word)) } } }
}

/// Renders names as small tags; of many, the first and a count.
pub(super) fn tags(names: &[&str]) -> Markup {
    const SHOWN: usize = 12;
    html! {
        @if names.is_empty() { span.dim { "none" } }
        @for name in names.iter().take(SHOWN) { code.tag { (text(name)) } " " }
        @if names.len() > SHOWN { span.dim { "and " (names.len() - SHOWN) " more" } }
    }
}

/// Renders a figure with its name.
pub(super) fn tile(name: &str, value: &str, class: &str) -> Markup {
    html! {
        div class={ "tile " (class) } {
            dt { (name) }
            dd { (value) }
        }
    }
}

/// Renders names and values, leaving out those without a value.
pub(super) fn facts(facts: &[(&str, Markup)]) -> Markup {
    html! {
        dl.facts {
            @for (name, value) in facts.iter().filter(|(_, value)| !value.0.is_empty()) {
                div { dt { (name) } dd { (value) } }
            }
        }
    }
}

/// Renders the link to what follows in a list.
pub(super) fn more(path: &str, query: &[(&str, &str)], next: &str, at_start: bool) -> Markup {
    let to = |cursor: &str| {
        let mut pairs = query.to_vec();
        pairs.push(("cursor", cursor));
        format!("{path}?{}", write_query(&pairs))
    };
    html! {
        nav.pager aria-label="Pages of the list" {
            @if !at_start { a.button.quiet href=(to("")) { "From the start" } }
            @if !next.is_empty() { a.button.quiet href=(to(next)) rel="next" { "Next" } }
        }
    }
}

/// Renders a choice of words, one of them chosen.
pub(super) fn select(name: &str, label: &str, words: &[(&str, &str)], chosen: &str) -> Markup {
    html! {
        span.field {
            label for=(name) { (label) }
            select id=(name) name=(name) {
                @for (value, shown) in words {
                    option value=(value) selected[*value == chosen] { (shown) }
                }
            }
        }
    }
}

/// Renders a line of text to fill in.
pub(super) fn input(name: &str, label: &str, value: &str) -> Markup {
    // Wide enough for an id to be seen whole.
    html! {
        span.field.long[name == "request_id"] {
            label for=(name) { (label) }
            input id=(name) name=(name) value=(value) maxlength="256" autocomplete="off" spellcheck="false";
        }
    }
}

/// Writes a count with its noun.
pub(super) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Writes bytes for people.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1_024 {
        return format!("{count} B");
    }
    let mut tenths = u128::from(count) * 10;
    let mut unit = "B";
    for name in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1_024;
        unit = name;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// Writes a time that was measured in microseconds.
pub(super) fn took(micros: f64) -> String {
    match micros {
        ..1e3 => format!("{micros:.0} µs"),
        ..1e6 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}

/// Writes a time span for people.
pub(super) fn span_of(secs: u64) -> String {
    match secs {
        0..=119 => format!("{secs} s"),
        120..=7_199 => format!("{} min", secs / 60),
        7_200..=172_799 => format!("{} h", secs / 3_600),
        _ => format!("{} days", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_short() {
        for (count, shown) in
            [(0, "0 B"), (1_023, "1023 B"), (1_536, "1.5 KiB"), (5 << 30, "5.0 GiB")]
        {
            assert_eq!(bytes(count), shown);
        }
        for (micros, shown) in [(86.4, "86 µs"), (1_500.0, "1.5 ms"), (5_286_777.0, "5.3 s")] {
            assert_eq!(took(micros), shown);
        }
        for (secs, shown) in [(5, "5 s"), (150, "2 min"), (10_000, "2 h"), (200_000, "2 days")] {
            assert_eq!(span_of(secs), shown);
        }
    }

    #[test]
    fn an_id_from_elsewhere_is_escaped() {
        let html = id("agents", "\"><script>").into_string();
        assert!(!html.contains("<script>"), "{html}");
    }
}
