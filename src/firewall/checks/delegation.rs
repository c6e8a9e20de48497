//! The delegation: those for whom a session was opened still have the rights that they handed on.

use crate::firewall::delegation::Lapse;
use crate::firewall::denial::Denial;

/// Refuses a session whose chain of delegations no longer holds.
pub fn check(chain: Result<(), Lapse>) -> Result<(), Denial> {
    Ok(chain?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::denial::Code;

    #[test]
    fn a_chain_that_lapsed_makes_its_agent_inactive() {
        assert_eq!(check(Ok(())), Ok(()));
        for lapse in [Lapse::Agent, Lapse::Delegation, Lapse::Above] {
            let denial = check(Err(lapse)).unwrap_err();
            assert_eq!(denial.code, Code::AgentInactive, "{lapse}");
            assert!(denial.message.starts_with(&lapse.to_string()), "{lapse}");
        }
    }
}
