//! The later round: a call goes on only with a state that its own session was handed for it.
//!
//! A state of another session, of another call, or of nobody is refused alike, so that nobody learns
//! which states there are.

use crate::firewall::denial::{Code, Denial};

/// State by which a call goes on with the round before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// The call brings none.
    #[default]
    Absent,
    /// An answer to this call handed it to this session.
    Ours,
    Unknown,
}

/// Refuses a state that the session was not handed for this call.
pub fn check(state: State) -> Result<(), Denial> {
    match state {
        State::Absent | State::Ours => Ok(()),
        State::Unknown => Err(Denial::new(
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
        assert_eq!(code(State::Absent), None);
        assert_eq!(code(State::Ours), None);
        assert_eq!(code(State::Unknown), Some(Code::ContinuationUnknown));
    }
}
