//! The later round: a call goes on only with a state that its own session was handed for it.
//!
//! A state of another session, of another call, or of nobody is refused alike, so that nobody learns
//! which states there are.

use crate::firewall::denial::{Code, Denial};

/// State by which a call goes on with the round before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestState {
    /// The call brings none.
    #[default]
    Absent,
    /// An answer to this call handed it to this session.
    Ours,
    Unknown,
}

/// Refuses a state that the session was not handed for this call.
pub fn check(state: RequestState) -> Result<(), Denial> {
    match state {
        RequestState::Absent | RequestState::Ours => Ok(()),
        RequestState::Unknown => Err(Denial::new(
            Code::ContinuationUnknown,
            "this requestState was not handed to your session for this call, or has expired: begin \
             the call again without it",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_state_of_the_session_goes_on() {
        let code = |state| check(state).err().map(|denial| denial.code);
        assert_eq!(code(RequestState::Absent), None);
        assert_eq!(code(RequestState::Ours), None);
        assert_eq!(code(RequestState::Unknown), Some(Code::ContinuationUnknown));
    }
}
