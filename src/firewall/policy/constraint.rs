//! Judgement of one constraint on the arguments of a call.

use std::fmt;

use super::bound::Bound;
use super::matcher::{Matcher, Reading};
use super::memo::Memo;
use super::path::{End, Path};
use super::regexes::Pattern;
use super::satisfaction::{Need, Satisfaction};
use super::{Asked, Facts};
use crate::json::{Kind, Value};

/// Condition on one argument of a tool call, or on each item of a list in it.
pub(super) struct Constraint {
    pub(super) key: Path,
    pub(super) min_value: Option<Bound>,
    pub(super) max_value: Option<Bound>,
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
    Number(Bound),
    Boolean(bool),
}

const OTHER_TYPE: Satisfaction =
    Satisfaction::Unclear("is of another type, or its key is written otherwise");

/// Holds the arguments of a call against one constraint.
pub(super) fn satisfaction<'d>(
    constraint: &Constraint,
    need: Need,
    facts: &Facts<'_>,
    asked: &Asked<'d>,
    memo: &Memo<'d>,
) -> Satisfaction {
    memo.satisfaction(constraint.shared, need, || {
        let end = memo.end(constraint.shared_key, || constraint.key.end(asked));
        match end {
            End::Value(list) if constraint.key.enters_list() => {
                of_list(constraint, need, list, facts.intent)
            }
            end => of_end(constraint, end, facts.intent),
        }
    })
}

fn of_end(constraint: &Constraint, end: End<'_>, intent: Option<&str>) -> Satisfaction {
    match end {
        End::Value(value) => of_value(constraint, value, intent),
        End::Nothing if constraint.required => Satisfaction::Absent,
        End::Nothing => Satisfaction::Silent,
        End::Obstacle => OTHER_TYPE,
    }
}

/// Judges all items, so that their order says nothing.
fn of_list(
    constraint: &Constraint,
    need: Need,
    list: Value<'_>,
    intent: Option<&str>,
) -> Satisfaction {
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
        return Satisfaction::Unmet("has fewer items than `min_items`");
    }
    if count > max {
        return Satisfaction::Unmet("has more items than `max_items`");
    }
    found.satisfaction(need)
}

/// Satisfaction by the items of a list, the first of each kind.
#[derive(Default)]
struct Tally {
    met: bool,
    unmet: Option<Satisfaction>,
    unclear: Option<Satisfaction>,
}

impl Tally {
    fn add(&mut self, satisfaction: Satisfaction) {
        match satisfaction {
            Satisfaction::Met => self.met = true,
            Satisfaction::Unmet(_) => self.unmet = self.unmet.or(Some(satisfaction)),
            Satisfaction::Absent | Satisfaction::Unclear(_) => {
                self.unclear = self.unclear.or(Some(satisfaction));
            }
            Satisfaction::Silent => {}
        }
    }

    fn settles(&self, need: Need) -> bool {
        match need {
            Need::All => self.unmet.is_some(),
            Need::Any => self.met,
        }
    }

    fn satisfaction(self, need: Need) -> Satisfaction {
        let met = self.met.then_some(Satisfaction::Met);
        let decided = match need {
            Need::All => self.unmet.or(self.unclear).or(met),
            Need::Any => met.or(self.unclear).or(self.unmet),
        };
        decided.unwrap_or(Satisfaction::Silent)
    }
}

/// A part of a constraint, held against a value and the session's intent.
type Check = fn(&Constraint, Value<'_>, Option<&str>) -> Satisfaction;

/// Judges one value: what is certainly not met decides, then what is unclear.
fn of_value(constraint: &Constraint, value: Value<'_>, intent: Option<&str>) -> Satisfaction {
    if value.kind() == Kind::Null {
        return OTHER_TYPE;
    }
    let mut unclear = Satisfaction::Met;
    let checks: [Check; 5] = [bounds, listed, short, matched, meant];
    for check in checks {
        match check(constraint, value, intent) {
            satisfaction @ (Satisfaction::Unmet(_) | Satisfaction::Absent) => return satisfaction,
            satisfaction @ Satisfaction::Unclear(_) if unclear == Satisfaction::Met => {
                unclear = satisfaction;
            }
            Satisfaction::Unclear(_) | Satisfaction::Met | Satisfaction::Silent => {}
        }
    }
    unclear
}

fn bounds(constraint: &Constraint, value: Value<'_>, _: Option<&str>) -> Satisfaction {
    if constraint.min_value.is_none() && constraint.max_value.is_none() {
        return Satisfaction::Met;
    }
    let Some(number) = value.as_number() else { return OTHER_TYPE };
    if constraint.min_value.as_ref().is_some_and(|min| min.compare(number).is_gt()) {
        return Satisfaction::Unmet("is below `min_value`");
    }
    if constraint.max_value.as_ref().is_some_and(|max| max.compare(number).is_lt()) {
        return Satisfaction::Unmet("is above `max_value`");
    }
    Satisfaction::Met
}

/// A value of a type that no allowed value has cannot be judged, and never equals one.
fn listed(constraint: &Constraint, value: Value<'_>, _: Option<&str>) -> Satisfaction {
    if constraint.allowed_values.is_empty() {
        return Satisfaction::Met;
    }
    let text = value.as_str();
    let number = value.as_number();
    let mut satisfaction = OTHER_TYPE;
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
            Some(true) => return Satisfaction::Met,
            Some(false) => satisfaction = Satisfaction::Unmet("is not among `allowed_values`"),
            None => {}
        }
    }
    satisfaction
}

fn short(constraint: &Constraint, value: Value<'_>, _: Option<&str>) -> Satisfaction {
    let Some(most) = constraint.max_length else { return Satisfaction::Met };
    match value.as_str() {
        Some(text) if text.chars().nth(most).is_some() => {
            Satisfaction::Unmet("is longer than `max_length`")
        }
        Some(_) => Satisfaction::Met,
        None => OTHER_TYPE,
    }
}

fn matched(constraint: &Constraint, value: Value<'_>, _: Option<&str>) -> Satisfaction {
    let Some(regex) = &constraint.regex else { return Satisfaction::Met };
    match value.as_str() {
        Some(text) if regex.is_match(&text) => Satisfaction::Met,
        Some(_) => Satisfaction::Unmet("does not match `regex`"),
        None => OTHER_TYPE,
    }
}

fn meant(constraint: &Constraint, value: Value<'_>, intent: Option<&str>) -> Satisfaction {
    let Some(matcher) = &constraint.matcher else { return Satisfaction::Met };
    match matcher.read(value, intent) {
        Reading::In => Satisfaction::Met,
        Reading::Out => Satisfaction::Unmet(matcher.failing()),
        Reading::Unclear => Satisfaction::Unclear(matcher.unclear()),
    }
}
