//! The scripts: each write is one of them, so it is done whole and nobody sees half of it.

use std::sync::LazyLock;

use redis::Script;

/// All begin alike.
fn script(text: &str) -> Script {
    Script::new(&format!("{}\n{text}", include_str!("common.lua")))
}

macro_rules! scripts {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| script(include_str!($file)));)*
    };
}

scripts! {
    ABOUT = "about.lua",
    BOOK = "book.lua",
    CLOSE_SESSIONS = "close_sessions.lua",
    DEACTIVATE = "deactivate.lua",
    FORGET = "forget.lua",
    FORGET_ENDED = "forget_ended.lua",
    INSERT_AGENT = "insert_agent.lua",
    INSERT_DELEGATION = "insert_delegation.lua",
    OPEN_SESSION = "open_session.lua",
    REVOKE_TOKEN = "revoke_token.lua",
    SET_TRUST = "set_trust.lua",
    SETTLE = "settle.lua",
    TELL = "tell.lua",
}
