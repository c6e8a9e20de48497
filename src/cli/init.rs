//! `arbiter init`: a configuration, starter policies and keys of one's own, in a folder that has none.
//!
//! Nothing is ever overwritten: if one of the files is there, none is written. Keys are random, in files
//! that only their owner can read; the configuration names the files, so that it contains no secret.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::Args;

use super::admin_key::{random, random_key};
use super::{Exit, Failure};
use crate::config::Config;

const POLICIES: [(&str, &str); 3] = [
    ("10-read.toml", include_str!("../../policies/10-read.toml")),
    ("20-write.toml", include_str!("../../policies/20-write.toml")),
    ("90-guard.toml", include_str!("../../policies/90-guard.toml")),
];

#[derive(Args, Debug)]
pub struct Init {
    /// Folder for `arbiter.toml`, `policies/` and `keys/`; made if it is not there.
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// URL of the MCP server that calls are forwarded to.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8081/mcp")]
    upstream_url: String,
}

/// One file to write.
struct New {
    path: PathBuf,
    text: zeroize::Zeroizing<String>,
    mode: u32,
}

impl Init {
    pub(super) fn run(&self, sink: &mut dyn Write) -> Result<Exit, Failure> {
        let failed = |path: &Path, error: &io::Error| {
            Failure::usage(format!("cannot write {}: {error}", path.display()))
        };
        let home = std::path::absolute(&self.folder).map_err(|e| failed(&self.folder, &e))?;
        let home_text = home.to_str().filter(|text| !text.chars().any(char::is_control));
        let home_text = home_text.ok_or_else(|| {
            Failure::usage(format!("{}: a configuration cannot name this path", home.display()))
        })?;
        let text = self.config(home_text);
        let [api_key, signing_secret] =
            ["admin-api-key", "signing-secret"].map(|name| keys(&home).join(name));
        for taken in [home.join("arbiter.toml"), home.join("policies"), keys(&home)] {
            if taken.symlink_metadata().is_ok() {
                let problem = "is there already, and nothing is overwritten: choose another folder";
                return Err(Failure::usage(format!("{} {problem}", taken.display())));
            }
        }
        let secret = |path: &Path, text| New { path: path.to_owned(), text, mode: 0o600 };
        let plain =
            |path: PathBuf, text: &str| New { path, text: text.to_owned().into(), mode: 0o644 };
        let mut files = vec![
            secret(&api_key, random_key()?),
            secret(&signing_secret, random()?),
            plain(home.join("arbiter.toml"), &text),
        ];
        files.extend(POLICIES.map(|(name, text)| plain(home.join("policies").join(name), text)));
        // Refused before anything is written, if the URL or the folder's name will not do.
        check(&text)?;
        std::fs::create_dir_all(&home).map_err(|error| failed(&home, &error))?;
        for (folder, mode) in [(home.join("policies"), 0o755), (keys(&home), 0o700)] {
            DirBuilder::new()
                .mode(mode)
                .create(&folder)
                .map_err(|error| failed(&folder, &error))?;
        }
        for file in &files {
            file.write().map_err(|error| failed(&file.path, &error))?;
        }
        self.next(sink)?;
        Ok(Exit::Fine)
    }

    /// Prints what to do now: three commands that work as they are.
    fn next(&self, sink: &mut dyn Write) -> io::Result<()> {
        let at = |path: &str| quoted(&self.folder.join(path).display().to_string());
        let (config, key) = (at("arbiter.toml"), at("keys/admin-api-key"));
        writeln!(sink, "Wrote {}, {} and {}.", config, at("policies/"), at("keys/"))?;
        writeln!(sink, "Next, the last one in another terminal:\n")?;
        writeln!(sink, "  arbiter check --config {config}")?;
        writeln!(sink, "  arbiter serve --config {config}")?;
        writeln!(
            sink,
            "  ARBITER_ADMIN_API_KEY=\"$(cat {key})\" arbiter agent register --owner user:me --model \
             my-model --capability read --trust-level basic"
        )
    }

    fn config(&self, home: &str) -> String {
        // JSON's strings are TOML's, too.
        let text = |text: &str| serde_json::json!(text).to_string();
        let file = |name: &str| text(&format!("{home}/{name}"));
        format!(
            "# Arbiter's configuration. Keys that are not here have defaults: conf/arbiter.toml of the\n\
             # distribution lists all of them, and `arbiter check --config FILE` says what is wrong.\n\
             \n\
             [proxy]\n\
             # Agents of this machine only; 0.0.0.0 for others, then with `tls`.\n\
             listen_addr = \"127.0.0.1\"\n\
             listen_port = 8080\n\
             # The MCP server that calls are forwarded to.\n\
             upstream_url = {}\n\
             \n\
             [policy]\n\
             # Every *.toml file of the folder. What no policy allows is refused.\n\
             file = {}\n\
             \n\
             [storage]\n\
             # Agents, sessions and budgets outlive a restart.\n\
             backend = \"sqlite\"\n\
             sqlite_path = {}\n\
             \n\
             [audit]\n\
             # One line for each request, hash-chained.\n\
             file_path = {}\n\
             \n\
             [admin]\n\
             listen_addr = \"127.0.0.1\"\n\
             listen_port = 3000\n\
             # Read again at SIGHUP. The environment's, if set, is used instead.\n\
             api_key_file = {}\n\
             signing_secret_file = {}\n",
            text(&self.upstream_url),
            file("policies"),
            file("arbiter.db"),
            file("audit.jsonl"),
            file("keys/admin-api-key"),
            file("keys/signing-secret"),
        )
    }
}

fn keys(home: &Path) -> PathBuf {
    home.join("keys")
}

/// Reads the configuration as `serve` would, with keys that need not be there yet.
fn check(text: &str) -> Result<(), Failure> {
    let stand_ins = [
        ("ARBITER_ADMIN_API_KEY", "0123456789abcdef"),
        ("ARBITER_SIGNING_SECRET", "0123456789abcdef0123456789abcdef"),
    ];
    let env = stand_ins.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_toml(text, env.into_iter());
    config.map(drop).map_err(|errors| Failure::usage(errors.to_string()))
}

impl New {
    /// Writes a file that is not there yet.
    fn write(&self) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(self.mode).open(&self.path)?;
        file.write_all(self.text.as_bytes())?;
        file.sync_all()
    }
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !word.is_empty() && word.chars().all(harmless) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::tests::{run, run_words};
    use super::*;

    async fn init(folder: &Path) -> super::super::tests::Ran {
        let words = ["arbiter", "init", folder.to_str().unwrap()];
        run_words(words.map(str::to_owned).to_vec(), &[]).await
    }

    #[tokio::test]
    async fn a_new_folder_is_ready_to_serve() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("it's a \"gate\"way");
        let ran = init(&folder).await;
        assert_eq!(ran.exit, Exit::Fine, "{ran:?}");
        let commands: Vec<_> = ran.out.lines().filter(|line| line.starts_with("  ")).collect();
        assert_eq!(commands.len(), 3, "{ran:?}");
        for name in ["keys/admin-api-key", "keys/signing-secret"] {
            let path = folder.join(name);
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
            let secret = std::fs::read_to_string(path).unwrap();
            assert!(secret.len() >= 43 && !ran.out.contains(&secret), "{name}");
        }
        assert_eq!(folder.join("keys").metadata().unwrap().permissions().mode() & 0o777, 0o700);
        // Neither a variable nor a working directory is needed.
        let config = Config::load(&folder.join("arbiter.toml"), std::iter::empty()).unwrap();
        let policies = crate::rulebook::policies_at(&config.policy.file.unwrap(), None).unwrap();
        assert!(policies.len() > 3);
        assert_ne!(config.admin.api_key.unwrap().expose().len(), 0);
    }

    #[tokio::test]
    async fn nothing_is_overwritten() {
        for taken in ["arbiter.toml", "policies", "keys"] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(taken), "mine").unwrap();
            let ran = init(folder.path()).await;
            assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
            assert!(ran.complaint.contains(taken), "{ran:?}");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{taken}");
            assert_eq!(std::fs::read_to_string(folder.path().join(taken)).unwrap(), "mine");
        }
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("new");
        let line = format!("init {} --upstream-url ftp://x", home.display());
        let ran = run(&line, &[]).await;
        assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
        assert!(ran.complaint.contains("proxy.upstream_url") && !home.exists(), "{ran:?}");
    }

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(quoted("/etc/arbiter"), "/etc/arbiter");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
