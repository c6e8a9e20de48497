//! The sensitivity ceiling: the most sensitive data that a session may reach.

use super::task;
use crate::firewall::call::{CallKind, Data};
use crate::firewall::denial::{Code, Denial};
use crate::firewall::policy::Decision;
use crate::firewall::session::{Sensitivity, WorkOrder};

/// Refuses a call whose policy reaches data above the session's ceiling.
pub fn check(
    order: &WorkOrder,
    kind: &CallKind<'_>,
    decision: &Decision<'_>,
) -> Result<(), Denial> {
    let (Decision::Allow(policy) | Decision::Escalate(policy)) = decision else { return Ok(()) };
    if matches!(kind, CallKind::Protocol) || reaches(order.ceiling, policy.data_sensitivity) {
        return Ok(());
    }
    if matches!(kind, CallKind::Data { what: Data::Task, .. }) {
        return Err(task::unknown());
    }
    Err(Denial::new(
        Code::SensitivityExceeded,
        "this call reaches data above the session's data_sensitivity: ask your operator for a \
         session with a higher one",
    )
    .with("data_sensitivity", order.ceiling.as_str()))
}

/// Compares a ceiling with the tier of some data.
pub fn reaches(ceiling: Sensitivity, tier: Sensitivity) -> bool {
    tier <= ceiling
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_covers_its_own_tier_and_what_lies_below() {
        use Sensitivity::{Confidential, Internal, Public, Restricted};
        let tiers = [Public, Internal, Confidential, Restricted];
        for (height, &ceiling) in tiers.iter().enumerate() {
            for (depth, &tier) in tiers.iter().enumerate() {
                assert_eq!(reaches(ceiling, tier), depth <= height, "{ceiling} {tier}");
            }
        }
    }
}
