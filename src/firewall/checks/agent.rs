//! The agent: it is registered here, and it and those above it may act.

use crate::firewall::delegation::Lapse;
use crate::firewall::denial::{Code, Denial};

/// Refuses an agent that is not known or may not act; else gives it.
pub fn check<A>(found: Option<Result<A, Lapse>>) -> Result<A, Denial> {
    Ok(found.ok_or_else(unknown)??)
}

/// The refusal of an agent that is not known.
pub fn unknown() -> Denial {
    Denial::new(Code::AgentUnknown, "the token's agent is not registered here")
}

/// The refusal of a token that names no agent at all.
pub fn unnamed(claim: &str) -> Denial {
    let message = format!("the token has no claim `{claim}`, which names its agent");
    Denial::new(Code::AgentUnknown, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_agent_that_may_act_passes() {
        let code = |found| check(found).map_err(|denial| denial.code);
        assert_eq!(code(Some(Ok(7))), Ok(7));
        assert_eq!(code(None), Err(Code::AgentUnknown));
        for lapse in [Lapse::Agent, Lapse::Delegation, Lapse::Above] {
            assert_eq!(code(Some(Err(lapse))), Err(Code::AgentInactive), "{lapse}");
        }
    }
}
