//! The sensitivity ceiling: the most sensitive data that a session may reach.

use crate::firewall::session::Sensitivity;

/// Whether a session with this ceiling may reach data of this tier.
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
