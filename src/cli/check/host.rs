//! Findings about what surrounds the process: certificate, keys, environment, descriptors, disk.

use std::path::Path;

use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};

use super::{Finding, Health, found};
use crate::app::{admin_certificate_expiry, certificate_expiry};
use crate::audit::checkpoint::SigningKey;
use crate::clock::Clock;
use crate::config::{
    Audit, Backend, Config, CredentialProvider, DEFAULT_CREDENTIAL_PREFIX, Storage, names_a_secret,
};
use crate::firewall::time::Timestamp;
use crate::store::{SealKey, StoreError, at_rest};

const DAY_SECS: i64 = 86_400;
/// Bytes that an audit record takes, about.
const RECORD_BYTES: u64 = 1_005;
/// Descriptors besides those of calls: files, listeners, idle connections.
const OTHER_DESCRIPTORS: u64 = 256;

/// Names that are ours although no key of the configuration has them.
const VARIABLES: [&str; 7] = [
    "ARBITER_STORAGE_ENCRYPTION_KEY_NEW",
    "ARBITER_CONFIG",
    "ARBITER_ADMIN_URL",
    "ARBITER_ADMIN_CA_FILE",
    "ARBITER_ADMIN_CERT_FILE",
    "ARBITER_EXPORT_TOKEN",
    "ARBITER_BIN",
];

/// Opens the certificates of both ports as `serve` would, and looks at their ends.
pub(super) fn certificates(config: &Config) -> Vec<Finding> {
    let proxy = config
        .proxy
        .tls
        .as_ref()
        .map(|tls| certificate(config, "proxy.tls", &tls.cert_file, certificate_expiry(tls)));
    let admin =
        config.admin.tls.as_ref().map(|tls| {
            certificate(config, "admin.tls", &tls.cert_file, admin_certificate_expiry(tls))
        });
    proxy.into_iter().chain(admin).collect()
}

fn certificate(
    config: &Config,
    section: &str,
    file: &Path,
    expiry: anyhow::Result<Option<i64>>,
) -> Finding {
    const WHAT: &str = "certificate";
    let shown = file.display();
    match expiry {
        Err(error) => found(Health::Fail, WHAT, format!("{}: {error:#}", config.at(section))),
        Ok(None) => found(Health::Warn, WHAT, format!("{shown}: its end cannot be read")),
        Ok(Some(end)) => {
            let left = end.saturating_sub(Clock::system().now().wall.0 / 1_000_000) / DAY_SECS;
            let end = Timestamp(end.saturating_mul(1_000_000));
            match left {
                ..0 => found(Health::Fail, WHAT, format!("{shown} has expired, at {end}")),
                0..14 => {
                    found(Health::Warn, WHAT, format!("{shown} expires in {left} days, at {end}"))
                }
                _ => found(Health::Ok, WHAT, format!("{shown} is valid until {end}")),
            }
        }
    }
}

/// Loads the key that signs checkpoints.
pub(super) fn checkpoint_key(audit: &Audit) -> Option<Finding> {
    const WHAT: &str = "checkpoints";
    let path = audit.checkpoint_key_file.as_deref().filter(|_| audit.enabled)?;
    let shown = path.display();
    Some(match SigningKey::load(path) {
        Ok(key) => found(Health::Ok, WHAT, format!("{shown} signs as {}", key.name())),
        Err(error) => found(Health::Fail, WHAT, format!("{shown}: {error}")),
    })
}

/// Opens an encrypted file with the key that is set, and warns of a key that nothing uses.
pub(super) fn storage_key(storage: &Storage, in_use: bool) -> Option<Finding> {
    const WHAT: &str = "storage key";
    let Backend::Sqlite(path) = &storage.backend else {
        let text = "ARBITER_STORAGE_ENCRYPTION_KEY is set, and only `storage.backend = \"sqlite\"` \
                    encrypts anything: nothing is encrypted";
        return storage.encryption_key.as_ref().map(|_| found(Health::Warn, WHAT, text));
    };
    // What another process holds cannot be opened, and what is not there has no key yet.
    if in_use || !path.exists() {
        return None;
    }
    let key = storage.encryption_key.as_ref().and_then(|key| SealKey::from_hex(key.expose()));
    let finding = match at_rest::check(path, key.as_ref()) {
        Ok(_rows) => found(Health::Ok, WHAT, "the file can be read with what is set"),
        // Another finding says so.
        Err(StoreError::InUse { .. }) => return None,
        Err(error) => found(Health::Fail, WHAT, format!("{}: {error}", path.display())),
    };
    Some(finding)
}

/// Warns of variables that look like ours and that nothing reads.
pub(super) fn variables(names: &[&str], config: &Config) -> Vec<Finding> {
    let prefix = match &config.credentials.provider {
        Some(CredentialProvider::Env(prefix)) => prefix.as_str(),
        _ => DEFAULT_CREDENTIAL_PREFIX,
    };
    names
        .iter()
        .filter(|name| name.starts_with("ARBITER_") && !is_known(name, prefix))
        .map(|name| {
            let text = format!("{name} is no variable of Arbiter and is ignored: misspelt?");
            found(Health::Warn, "environment", text)
        })
        .collect()
}

fn is_known(name: &str, credentials: &str) -> bool {
    // Kubernetes sets these in every pod of a namespace with a Service whose name begins with `arbiter`.
    let of_a_service = name.contains("_SERVICE_") || name.contains("_PORT");
    VARIABLES.contains(&name)
        || names_a_secret(name)
        || (!credentials.is_empty() && name.starts_with(credentials))
        // One that names no key is an error of the configuration already.
        || name.contains("__")
        || of_a_service
}

/// Compares the limit of descriptors with the calls that may be under way.
pub(super) fn descriptors(config: &Config) -> Finding {
    const WHAT: &str = "descriptors";
    let calls = u64::from(config.proxy.max_calls_in_flight);
    // Each call has a connection on both sides.
    let wanted = calls.saturating_mul(2).saturating_add(OTHER_DESCRIPTORS);
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < wanted => {
            let text = format!(
                "at most {limit} can be open; `proxy.max_calls_in_flight` ({calls}) may need {wanted}: \
                 raise the limit (`LimitNOFILE`, `ulimit -n`) or lower the key"
            );
            found(Health::Warn, WHAT, text)
        }
        Some(limit) => found(Health::Ok, WHAT, format!("at most {limit} can be open")),
        None => found(Health::Ok, WHAT, "any number can be open"),
    }
}

/// Compares the volume of the log with what rotation leaves on it.
pub(super) fn volume(audit: &Audit) -> Option<Finding> {
    const WHAT: &str = "audit disk";
    if !audit.enabled {
        return None;
    }
    let folder = audit.file_path.ancestors().skip(1).find(|folder| folder.exists());
    let volume = statvfs(folder.unwrap_or(Path::new("."))).ok()?;
    let total = volume.f_frsize.saturating_mul(volume.f_blocks);
    let free = volume.f_frsize.saturating_mul(volume.f_bavail);
    let mib = |bytes: u64| bytes / (1 << 20);
    let most = audit.rotate_bytes.saturating_mul(audit.keep_files.saturating_add(1));
    Some(if audit.rotate_bytes == 0 || audit.keep_files == 0 {
        let hours = free / RECORD_BYTES / 100 / 3_600;
        let text = format!(
            "old files are never deleted: {} MiB are free, which 100 calls a second fill in about \
             {hours} h; set `audit.rotate_bytes` and `audit.keep_files`, or ship files away",
            mib(free)
        );
        found(Health::Warn, WHAT, text)
    } else if most > total / 10 * 9 {
        let text = format!(
            "rotation leaves up to {} MiB, and the volume has {}: lower `audit.keep_files`",
            mib(most),
            mib(total)
        );
        found(Health::Warn, WHAT, text)
    } else {
        found(Health::Ok, WHAT, format!("up to {} of {} MiB", mib(most), mib(total)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_found_and_others_are_not() {
        let env = [
            ("ARBITER_ADMIN_API_KEY".to_owned(), "0123456789abcdef0".to_owned()),
            ("ARBITER_SIGNING_SECRET".to_owned(), "0123456789abcdef0123456789abcdef".to_owned()),
        ];
        let config = Config::from_toml("", env.into_iter()).unwrap();
        let names = [
            "ARBITER_ADMIN_APIKEY",
            "ARBITER_ADMIN_API_KEY",
            "ARBITER_SIGNING_SECRET_FILE",
            "ARBITER_ADMIN_CA_FILE",
            "ARBITER_PROXY__LISTEN_PORT",
            "ARBITER_CRED_TOKEN",
            "ARBITER_PORT_8080_TCP_ADDR",
            "ARBITER_SERVICE_HOST",
            "ARBITER_ADMIN_SERVICE_PORT",
            "HOME",
        ];
        let findings = variables(&names, &config);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].text.starts_with("ARBITER_ADMIN_APIKEY "), "{}", findings[0].text);
    }
}
