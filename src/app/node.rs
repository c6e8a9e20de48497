//! The node's name in records: the host's name and a random part that outlives restarts.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use uuid::Uuid;

/// Reads the name kept in the folder of `log`, or makes one and keeps it.
pub(super) fn id(log: &Path) -> Result<String> {
    let mut path = log.to_owned().into_os_string();
    path.push(".node");
    if let Ok(kept) = fs::read_to_string(&path) {
        let kept = kept.trim();
        if !kept.is_empty() && kept.len() <= 128 && kept.chars().all(|c| c.is_ascii_graphic()) {
            return Ok(kept.to_owned());
        }
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String =
        host.chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).take(63).collect();
    let host = if host.is_empty() { "node" } else { &host };
    let random = Uuid::new_v4().simple().to_string();
    let name = format!("{host}-{}", random.get(..8).unwrap_or_default());
    fs::write(&path, &name).with_context(|| {
        format!(
            "keeping the node's name in {}: set `audit.node_id` instead",
            Path::new(&path).display()
        )
    })?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit.jsonl");
        let first = id(&log).unwrap();
        assert_eq!(id(&log).unwrap(), first);
        assert!(first.len() > 8, "{first}");
    }
}
