//! Protocol revisions: which are known, and what changes between them.

use std::fmt;

/// The `_meta` key under which a message from 2026-07-28 on says its revision.
pub const META_KEY: &str = "io.modelcontextprotocol/protocolVersion";

/// The `_meta` key under which a request from 2026-07-28 on says what its client can do.
pub const CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";

/// The first revision in which every message says its own version.
const FIRST_MODERN: &str = "2026-07-28";

/// The revisions that pass, oldest first. A later one is refused until the gateway knows which
/// methods and members it has: a client then chooses one of these.
pub const SUPPORTED: [&str; 5] =
    ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", FIRST_MODERN];

/// Versions in which each message carries its own version.
pub const SUPPORTED_MODERN: [&str; 1] = [FIRST_MODERN];

/// Framing rules of a protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// A handshake settles the version; mirrored headers are optional.
    Legacy,
    /// Each message carries its version, and headers mirror it.
    Modern,
}

/// A revision, as far as the gateway treats them differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V2024_11_05,
    V2025_03_26,
    V2025_06_18,
    V2025_11_25,
    V2026_07_28,
}

impl Version {
    /// Version assumed when neither header nor `_meta` names one.
    pub const ASSUMED: Self = Self::V2025_03_26;

    /// Reads a revision's date; `None` for what is not a supported one.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "2024-11-05" => Some(Self::V2024_11_05),
            "2025-03-26" => Some(Self::V2025_03_26),
            "2025-06-18" => Some(Self::V2025_06_18),
            "2025-11-25" => Some(Self::V2025_11_25),
            FIRST_MODERN => Some(Self::V2026_07_28),
            _ => None,
        }
    }

    pub fn era(self) -> Era {
        match self {
            Self::V2024_11_05 | Self::V2025_03_26 | Self::V2025_06_18 | Self::V2025_11_25 => {
                Era::Legacy
            }
            Self::V2026_07_28 => Era::Modern,
        }
    }

    /// Reports whether the revision no longer has a method that earlier ones had.
    pub fn has_removed(self, method: &str) -> bool {
        self.era() == Era::Modern
            && matches!(
                method,
                "initialize"
                    | "ping"
                    | "logging/setLevel"
                    | "resources/subscribe"
                    | "resources/unsubscribe"
                    | "tasks/list"
                    | "tasks/result"
            )
    }

    /// Reports whether the revision still has JSON-RPC batches.
    pub fn has_batches(self) -> bool {
        self <= Self::V2025_03_26
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_revisions_are_read() {
        for (text, era, batches) in [
            ("2024-11-05", Era::Legacy, true),
            ("2025-03-26", Era::Legacy, true),
            ("2025-06-18", Era::Legacy, false),
            ("2025-11-25", Era::Legacy, false),
            ("2026-07-28", Era::Modern, false),
        ] {
            let version = Version::parse(text).unwrap();
            assert_eq!((version.era(), version.has_batches()), (era, batches), "{text}");
        }
        assert_eq!(Version::ASSUMED.era(), Era::Legacy);
        assert_eq!(Version::parse(&Version::V2025_11_25.to_string()), Some(Version::V2025_11_25));
    }

    #[test]
    fn each_listed_revision_is_one() {
        assert!(SUPPORTED.iter().all(|text| Version::parse(text).is_some()));
    }

    #[test]
    fn methods_that_went_are_gone_from_2026_07_28_on() {
        let removed =
            ["initialize", "ping", "logging/setLevel", "resources/subscribe", "tasks/list"];
        let modern = Version::V2026_07_28;
        for method in removed {
            assert!(modern.has_removed(method) && !Version::V2025_11_25.has_removed(method));
        }
        for method in ["tools/call", "resources/read", "tasks/get", "Ping"] {
            assert!(!modern.has_removed(method), "{method}");
        }
    }

    #[test]
    fn anything_else_is_not_a_version() {
        for text in [
            "",
            "1999-01-01",
            "2025-03-27",
            "2026-01-01",
            "2026-07-27",
            "2026-07-29",
            "2027-01-01",
            "9999-12-31",
            "2026-7-28",
            "2026-07-28 ",
            " 2026-07-28",
            "2026-07-28, 2026-07-28",
            "9999",
            "draft",
            "DRAFT-2026-v1",
            "２026-07-28",
        ] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }
}
