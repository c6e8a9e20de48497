//! Whether one argument of a tool call is as a constraint wants it.

use std::fmt;

use super::model::{Constraint, Path, Scalar};
use crate::json::keys::disguises;
use crate::json::{Kind, Value};

/// What a constraint says of a call's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Met,
    Unmet(&'static str),
    /// The argument is required and absent.
    Absent,
    /// The argument is present in a form that cannot be judged.
    Unclear(&'static str),
    /// The argument is optional and absent.
    Silent,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Met => "is as it must be",
            Self::Unmet(why) | Self::Unclear(why) => why,
            Self::Absent => "is missing",
            Self::Silent => "is not present",
        })
    }
}

const OTHER_TYPE: Verdict = Verdict::Unclear("is of another type, or its key is written otherwise");

/// What stands at the end of a path.
enum Found<'d> {
    Value(Value<'d>),
    Nothing,
    /// A list, a null or a plain value stands where an object should, or a key that is the wanted
    /// one but for its case.
    Obstacle,
}

fn find<'d>(path: &Path, arguments: Option<Value<'d>>) -> Found<'d> {
    let Some(mut value) = arguments else { return Found::Nothing };
    for segment in &path.segments {
        if value.kind() != Kind::Object {
            return Found::Obstacle;
        }
        // A reader that ignores case might take another key for this one: who is right cannot be
        // known here, so the constraint cannot be judged.
        if value.entries().any(|entry| disguises(&entry.key(), segment)) {
            return Found::Obstacle;
        }
        match value.get(segment) {
            Some(inner) => value = inner,
            None => return Found::Nothing,
        }
    }
    Found::Value(value)
}

/// Holds the arguments of a call against one constraint.
pub(super) fn judge(constraint: &Constraint, arguments: Option<Value<'_>>) -> Verdict {
    let value = match find(&constraint.key, arguments) {
        Found::Value(value) => value,
        Found::Nothing if constraint.required => return Verdict::Absent,
        Found::Nothing => return Verdict::Silent,
        Found::Obstacle => return OTHER_TYPE,
    };
    if value.kind() == Kind::Null {
        return OTHER_TYPE;
    }
    let checks = [bounds(constraint, value), listed(constraint, value), matched(constraint, value)];
    // What is certainly not met decides, then what is in doubt.
    let unmet = checks.iter().find(|verdict| matches!(verdict, Verdict::Unmet(_)));
    let unclear = checks.iter().find(|verdict| matches!(verdict, Verdict::Unclear(_)));
    unmet.or(unclear).copied().unwrap_or(Verdict::Met)
}

fn bounds(constraint: &Constraint, value: Value<'_>) -> Verdict {
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
fn listed(constraint: &Constraint, value: Value<'_>) -> Verdict {
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

fn matched(constraint: &Constraint, value: Value<'_>) -> Verdict {
    let Some(regex) = &constraint.regex else { return Verdict::Met };
    match value.as_str() {
        Some(text) if regex.is_match(&text) => Verdict::Met,
        Some(_) => Verdict::Unmet("does not match `regex`"),
        None => OTHER_TYPE,
    }
}
