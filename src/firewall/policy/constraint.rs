//! Judgement of one constraint on the arguments of a call.

use std::fmt;

use super::matcher::{Matcher, Reading};
use super::memo::Memo;
use super::number::Number;
use super::path::{End, Path};
use super::regexes::Pattern;
use super::verdict::{Need, Verdict};
use super::{Asked, Facts};
use crate::json::{Kind, Value};

/// Condition on one argument of a tool call, or on each item of a list in it.
pub(super) struct Constraint {
    pub(super) key: Path,
    pub(super) min_value: Option<Number>,
    pub(super) max_value: Option<Number>,
    pub(super) allowed_values: Vec<Scalar>,
    /// In characters.
    pub(super) max_length: Option<usize>,
    pub(super) regex: Option<Pattern>,
    pub(super) matcher: Option<Matcher>,
    /// Items of the list, for a path that enters one.
    pub(super) items: Items,
    pub(super) required: bool,
    /// Numbers of the key and of the whole constraint among those of the set, if more than one
    /// constraint has them.
    pub(super) shared_key: Option<u32>,
    pub(super) shared: Option<u32>,
}

/// Shows what the constraint's text says; the numbers depend on the rest of the set.
impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, min_value, max_value, allowed_values, max_length, .. } = self;
        let Self { regex, matcher, items, required, shared_key: _, shared: _, .. } = self;
        f.debug_struct("Constraint")
            .field("key", key)
            .field("min_value", min_value)
            .field("max_value", max_value)
            .field("allowed_values", allowed_values)
            .field("max_length", max_length)
            .field("regex", regex)
            .field("matcher", matcher)
            .field("items", items)
            .field("required", required)
            .finish()
    }
}

/// Bounds of the number of items of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Items {
    pub(super) min: usize,
    pub(super) max: usize,
}

impl Default for Items {
    fn default() -> Self {
        Self { min: 1, max: usize::MAX }
    }
}

/// One allowed value.
#[derive(Clone, Debug)]
pub(super) enum Scalar {
    Text(String),
    Number(Number),
    Boolean(bool),
}

const OTHER_TYPE: Verdict = Verdict::Unclear("is of another type, or its key is written otherwise");

/// Holds the arguments of a call against one constraint.
pub(super) fn judge<'d>(
    constraint: &Constraint,
    need: Need,
    facts: &Facts<'_>,
    asked: &Asked<'d>,
    memo: &Memo<'d>,
) -> Verdict {
    memo.verdict(constraint.shared, need, || {
        let end = memo.end(constraint.shared_key, || constraint.key.end(asked));
        match end {
            End::Value(list) if constraint.key.enters_list() => {
                of_list(constraint, need, list, facts.intent)
            }
            end => of_end(constraint, end, facts.intent),
        }
    })
}

fn of_end(constraint: &Constraint, end: End<'_>, intent: Option<&str>) -> Verdict {
    match end {
        End::Value(value) => of_value(constraint, value, intent),
        End::Nothing if constraint.required => Verdict::Absent,
        End::Nothing => Verdict::Silent,
        End::Obstacle => OTHER_TYPE,
    }
}

/// Judges all items, so that their order says nothing.
fn of_list(constraint: &Constraint, need: Need, list: Value<'_>, intent: Option<&str>) -> Verdict {
    if list.kind() != Kind::Array {
        return OTHER_TYPE;
    }
    let Items { min, max } = constraint.items;
    let mut count = 0_usize;
    let mut found = Tally::default();
    constraint.key.each(list, &mut |end| {
        count = count.saturating_add(1);
        if count <= max && !found.settles(need) {
            found.add(of_end(constraint, end, intent));
        }
    });
    if count < min {
        return Verdict::Unmet("has fewer items than `min_items`");
    }
    if count > max {
        return Verdict::Unmet("has more items than `max_items`");
    }
    found.verdict(need)
}

/// The verdicts on the items of a list, the first of each kind.
#[derive(Default)]
struct Tally {
    met: bool,
    unmet: Option<Verdict>,
    unclear: Option<Verdict>,
}

impl Tally {
    fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Met => self.met = true,
            Verdict::Unmet(_) => self.unmet = self.unmet.or(Some(verdict)),
            Verdict::Absent | Verdict::Unclear(_) => self.unclear = self.unclear.or(Some(verdict)),
            Verdict::Silent => {}
        }
    }

    fn settles(&self, need: Need) -> bool {
        match need {
            Need::All => self.unmet.is_some(),
            Need::Any => self.met,
        }
    }

    fn verdict(self, need: Need) -> Verdict {
        let met = self.met.then_some(Verdict::Met);
        let decided = match need {
            Need::All => self.unmet.or(self.unclear).or(met),
            Need::Any => met.or(self.unclear).or(self.unmet),
        };
        decided.unwrap_or(Verdict::Silent)
    }
}

/// A part of a constraint, held against a value and the session's intent.
type Check = fn(&Constraint, Value<'_>, Option<&str>) -> Verdict;

/// Judges one value: what is certainly not met decides, then what is unclear.
fn of_value(constraint: &Constraint, value: Value<'_>, intent: Option<&str>) -> Verdict {
    if value.kind() == Kind::Null {
        return OTHER_TYPE;
    }
    let mut unclear = Verdict::Met;
    let checks: [Check; 5] = [bounds, listed, short, matched, meant];
    for check in checks {
        match check(constraint, value, intent) {
            verdict @ (Verdict::Unmet(_) | Verdict::Absent) => return verdict,
            verdict @ Verdict::Unclear(_) if unclear == Verdict::Met => unclear = verdict,
            Verdict::Unclear(_) | Verdict::Met | Verdict::Silent => {}
        }
    }
    unclear
}

fn bounds(constraint: &Constraint, value: Value<'_>, _: Option<&str>) -> Verdict {
    if constraint.min_value.is_none() && constraint.max_value.is_none() {
        return Verdict::Met;
    }
    let Some(number) = value.as_number() else { return OTHER_TYPE };
    if constraint.min_value.as_ref().is_some_and(|min| min.compare(number).is_gt()) {
        return Verdict::Unmet("is below `min_value`");
    }
    if constraint.max_value.as_ref().is_some_and(|max| max.compare(number).is_lt()) {
        return Verdict::Unmet("is above `max_value`");
    }
    Verdict::Met
}

/// A value of a type that no allowed value has cannot be judged, and never equals one.
fn listed(constraint: &Constraint, value: Value<'_>, _: Option<&str>) -> Verdict {
    if constraint.allowed_values.is_empty() {
        return Verdict::Met;
    }
    let text = value.as_str();
    let number = value.as_number();
    let mut verdict = OTHER_TYPE;
    for allowed in &constraint.allowed_values {
        let equal = match allowed {
            Scalar::Text(allowed) => text.as_ref().map(|text| text == allowed),
            Scalar::Number(allowed) => number.map(|number| allowed.compare(number).is_eq()),
            Scalar::Boolean(allowed) => match value.kind() {
                Kind::True => Some(*allowed),
                Kind::False => Some(!*allowed),
                Kind::Object | Kind::Array | Kind::String | Kind::Number | Kind::Null => None,
            },
        };
        match equal {
            Some(true) => return Verdict::Met,
            Some(false) => verdict = Verdict::Unmet("is not among `allowed_values`"),
            None => {}
        }
    }
    verdict
}

fn short(constraint: &Constraint, value: Value<'_>, _: Option<&str>) -> Verdict {
    let Some(most) = constraint.max_length else { return Verdict::Met };
    match value.as_str() {
        Some(text) if text.chars().nth(most).is_some() => {
            Verdict::Unmet("is longer than `max_length`")
        }
        Some(_) => Verdict::Met,
        None => OTHER_TYPE,
    }
}

fn matched(constraint: &Constraint, value: Value<'_>, _: Option<&str>) -> Verdict {
    let Some(regex) = &constraint.regex else { return Verdict::Met };
    match value.as_str() {
        Some(text) if regex.is_match(&text) => Verdict::Met,
        Some(_) => Verdict::Unmet("does not match `regex`"),
        None => OTHER_TYPE,
    }
}

fn meant(constraint: &Constraint, value: Value<'_>, intent: Option<&str>) -> Verdict {
    let Some(matcher) = &constraint.matcher else { return Verdict::Met };
    match matcher.read(value, intent) {
        Reading::In => Verdict::Met,
        Reading::Out => Verdict::Unmet(matcher.failing()),
        Reading::Unclear => Verdict::Unclear(matcher.unclear()),
    }
}
