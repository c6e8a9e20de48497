//! Settings of a log.

use std::path::PathBuf;

/// Point at which a record counts as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The operating system has it: it outlives this process.
    Write,
    /// The disk has it: it outlives a power cut.
    Sync,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub enabled: bool,
    pub path: PathBuf,
    /// True if requests are refused while they cannot be recorded.
    pub require_healthy: bool,
    pub hash_chain: bool,
    pub durability: Durability,
    pub node_id: String,
    /// For [`super::Redactor::redact`]; the log itself does not cut arguments.
    pub max_argument_bytes: usize,
    pub rotation: Rotation,
    pub checkpoints: Option<CheckpointSettings>,
    /// Journal slots of 2 KiB: how many calls can be under way, fewer if their arguments are long.
    pub max_calls_in_flight: u32,
    /// Refusals a second, before a valid token, that have a record each.
    pub max_unauthenticated_records_per_sec: u32,
}

/// Conditions for rotating the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Before it grows larger; 0: never.
    pub bytes: u64,
    /// Time after its first line; 0: never.
    pub secs: u64,
    /// True if closed files are compressed.
    pub compress: bool,
    /// Number of closed files kept; 0: all.
    pub keep_files: u64,
}

/// With what, and how often, the chain's head is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointSettings {
    pub key_file: PathBuf,
    pub every_records: u64,
    pub every_secs: u64,
}

impl Settings {
    /// The defaults of the configuration.
    pub fn at(path: impl Into<PathBuf>, node_id: impl Into<String>) -> Self {
        Self {
            enabled: true,
            path: path.into(),
            require_healthy: true,
            hash_chain: true,
            durability: Durability::Write,
            node_id: node_id.into(),
            max_argument_bytes: 8_192,
            rotation: Rotation::default(),
            checkpoints: None,
            max_calls_in_flight: 8_192,
            max_unauthenticated_records_per_sec: 100,
        }
    }
}
