//! Small SVG charts, drawn on the server.

use maud::{Markup, html};

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;

/// One line of a chart.
pub(super) struct Line<'l> {
    pub(super) name: &'l str,
    /// Class of the stylesheet that gives the colour.
    pub(super) class: &'static str,
    /// Time ago in seconds and value, oldest first; a gap where there is no value.
    pub(super) points: Vec<(f64, Option<f64>)>,
}

impl Line<'_> {
    fn last(&self) -> Option<f64> {
        self.points.iter().rev().find_map(|(_, value)| *value)
    }
}

/// Draws lines over the last `secs`; `unit` formats a value.
pub(super) fn chart(title: &str, lines: &[Line<'_>], secs: f64, unit: fn(f64) -> String) -> Markup {
    let values = lines.iter().flat_map(|line| line.points.iter().filter_map(|(_, value)| *value));
    let most = values.fold(0.0_f64, f64::max);
    let top = nice(most);
    let place = |ago: f64, value: f64| {
        let x = WIDTH * (1.0 - (ago / secs).clamp(0.0, 1.0));
        let y = HEIGHT - (HEIGHT - 6.0) * (value / top).clamp(0.0, 1.0);
        format!("{x:.1},{y:.1}")
    };
    html! {
        figure.chart {
            figcaption {
                span.chart-title { (title) }
                @for line in lines {
                    span.legend {
                        span class={ "swatch " (line.class) } {}
                        (line.name) " "
                        b { (line.last().map_or_else(|| "–".to_owned(), unit)) }
                    }
                }
            }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                aria-label={ (title) ", last 15 minutes, highest " (unit(most)) } {
                @for share in [0.0, 0.5, 1.0] {
                    @let y = format!("{:.1}", HEIGHT - (HEIGHT - 6.0) * share);
                    line.grid x1="0" x2=(WIDTH) y1=(y) y2=(y) {}
                }
                @for line in lines {
                    @for piece in pieces(&line.points) {
                        @let points: Vec<_> = piece.iter().map(|(ago, value)| place(*ago, *value)).collect();
                        polyline class=(line.class) points=(points.join(" ")) {}
                    }
                }
            }
            div.axis { span { "15 min ago" } span { "top " (unit(top)) } span { "now" } }
        }
    }
}

/// Cuts a line at its gaps; a single point becomes a short stroke.
fn pieces(points: &[(f64, Option<f64>)]) -> Vec<Vec<(f64, f64)>> {
    let mut found: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut open = false;
    for (ago, value) in points {
        match (value, found.last_mut()) {
            (Some(value), Some(piece)) if open => piece.push((*ago, *value)),
            (Some(value), _) => {
                found.push(vec![(*ago + 4.0, *value), (*ago, *value)]);
                open = true;
            }
            (None, _) => open = false,
        }
    }
    found
}

/// Returns the next of 1, 2, 5, 10, … at or above a value.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10.0_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|top| *top >= value).unwrap_or(value)
}

/// Draws a share of a whole as a bar.
pub(super) fn bar(used: u64, all: u64, label: &str) -> Markup {
    let share = if all == 0 { 0 } else { u128::from(used.min(all)) * 100 / u128::from(all) };
    let class = match share {
        90.. => "bar-full",
        75..=89 => "bar-high",
        _ => "bar-low",
    };
    drawn(share, class, label)
}

/// Draws a count in proportion to the largest one of its list.
pub(super) fn count(count: u64, most: u64) -> Markup {
    let share = u128::from(count.min(most)) * 100 / u128::from(most.max(1));
    drawn(share, "bar-low", &count.to_string())
}

fn drawn(share: u128, class: &str, label: &str) -> Markup {
    html! {
        span.bar {
            svg viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label=(label) {
                rect.track x="0" y="0" width="100" height="8" rx="2" {}
                @if share > 0 { rect class=(class) x="0" y="0" width=(share) height="8" rx="2" {} }
            }
            span.bar-text { (label) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_of_a_chart_is_a_round_number() {
        for (value, top) in
            [(0.0, 1.0), (0.3, 0.5), (1.0, 1.0), (3.0, 5.0), (7.0, 10.0), (120.0, 200.0)]
        {
            assert!((nice(value) - top).abs() < 1e-9, "{value}: {}", nice(value));
        }
    }

    #[test]
    fn a_line_breaks_at_its_gaps() {
        let points = [(3.0, Some(1.0)), (2.0, Some(2.0)), (1.0, None), (0.0, Some(3.0))];
        let lengths: Vec<_> = pieces(&points).iter().map(Vec::len).collect();
        assert_eq!(lengths, [3, 2]);
    }

    #[test]
    fn nothing_is_styled_inline() {
        let line = Line { name: "a", class: "allow", points: vec![(0.0, Some(1.0))] };
        let html = chart("t", &[line], 900.0, |value| value.to_string()).into_string()
            + &bar(9, 10, "9 of 10").into_string();
        assert!(!html.contains("style="), "{html}");
        assert!(html.contains("width=\"90\""), "{html}");
    }
}
