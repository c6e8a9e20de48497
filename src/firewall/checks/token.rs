//! The token: once verified, it has neither expired nor been revoked since.

use crate::firewall::denial::{Code, Denial};
use crate::firewall::time::Timestamp;

/// Refuses a verified token that is no longer good at `now`.
pub fn check(expires_at: Timestamp, revoked: bool, now: Timestamp) -> Result<(), Denial> {
    if now >= expires_at {
        return Err(Denial::new(Code::TokenExpired, "the token has expired: get a new token"));
    }
    if revoked {
        return Err(Denial::new(
            Code::TokenInvalid,
            "this token was revoked: ask your operator for a new one",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_until_it_ends_or_is_revoked() {
        let code = |revoked, now| {
            check(Timestamp(10), revoked, Timestamp(now)).err().map(|denial| denial.code)
        };
        assert_eq!(code(false, 9), None);
        assert_eq!(code(false, 10), Some(Code::TokenExpired));
        assert_eq!(code(true, 9), Some(Code::TokenInvalid));
        assert_eq!(code(true, 10), Some(Code::TokenExpired));
    }
}
