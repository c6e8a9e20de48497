//! The scripts: each write is one of them, so it is done whole and nobody sees half of it.

use std::fmt::Display;
use std::sync::LazyLock;

use redis::{Script, ScriptInvocation};
use uuid::Uuid;

/// Writes, which all begin alike.
macro_rules! writes {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(include_str!("common.lua"), "\n", include_str!($file)))
        });)*
    };
}

writes! {
    BOOK = "book.lua",
    CLOSE_SESSIONS = "close_sessions.lua",
    CONTINUE = "continue.lua",
    END_DELEGATIONS = "end_delegations.lua",
    FLAG = "flag.lua",
    FORGET = "forget.lua",
    FORGET_ENDED = "forget_ended.lua",
    FORGET_APPROVALS = "forget_approvals.lua",
    FREEZE = "freeze.lua",
    INSERT_AGENT = "insert_agent.lua",
    OPEN_SESSION = "open_session.lua",
    PURGE = "purge.lua",
    PUT_APPROVALS = "put_approvals.lua",
    PUT_DELEGATION = "put_delegation.lua",
    REVOKE_TOKEN = "revoke_token.lua",
    SET_TRUST = "set_trust.lua",
    SETTLE = "settle.lua",
    TAKE_CONTINUATION = "take_continuation.lua",
    TAKE_AWAY = "take_away.lua",
    UNFREEZE = "unfreeze.lua",
}

/// The one script without the common part: a look leaves no trace.
pub(super) static ABOUT: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("about.lua")));

/// A script that is to be run, with all but the number of the connection that it will take.
pub(super) struct Run<'a> {
    pub script: &'a Script,
    pub base: &'a str,
    pub node: &'a str,
    /// Instead of the server's clock, for tests.
    pub now: String,
    pub arguments: Vec<String>,
}

impl Run<'_> {
    pub(super) fn arg(&mut self, argument: impl Display) -> &mut Self {
        self.arguments.push(argument.to_string());
        self
    }

    /// Completes the script with the connection that it takes: its number in its line.
    pub(super) fn by(&self, connection: u64, lane: &str) -> ScriptInvocation<'_> {
        let mut invocation = self.script.key(self.base);
        let mark = format!("{connection}{lane}.{}", Uuid::new_v4().simple());
        invocation.arg(self.node).arg(&self.now).arg(mark).arg(&self.arguments);
        invocation
    }
}
