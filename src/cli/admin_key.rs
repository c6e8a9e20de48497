//! `arbiter admin-key …`: keys for operators, made where Arbiter need not run.

use clap::{Args, Subcommand};
use serde_json::json;

use super::print::{Format, Out};
use super::{Exit, Failure};
use crate::config::{KEY_HASH_MARK, Role, key_name};
use crate::firewall::agent::TrustLevel;
use crate::firewall::time::Timestamp;

/// Prefix of every key, so that scanners for leaked secrets recognise it.
const MARK: &str = "arbiter_admin_";

#[derive(Debug, Subcommand)]
pub enum AdminKey {
    /// Make a key. The key is printed once and kept nowhere; its hash goes into the configuration.
    New(New),
}

#[derive(Args, Debug)]
pub struct New {
    /// Name of the key, in every record of what it does.
    #[arg(long, value_parser = key_name)]
    name: String,
    /// Role of its holder: viewer, metrics, sessions, operator, approver or admin.
    #[arg(long, value_parser = role)]
    role: Role,
    /// For the role sessions: an owner whose agents the key serves; may be given several times, `*`
    /// for all.
    #[arg(long = "owner", value_name = "OWNER")]
    owners: Vec<String>,
    /// For the role sessions: the highest trust that it registers agents with.
    #[arg(long)]
    max_trust: Option<TrustLevel>,
    /// End of the key, such as 2030-01-31T00:00:00Z.
    #[arg(long, value_parser = time)]
    expires_at: Option<Timestamp>,
    #[command(flatten)]
    pub(super) output: Format,
}

fn role(text: &str) -> Result<Role, String> {
    let names = || Role::ALL.map(Role::as_str).join(", ");
    Role::parse(text).ok_or_else(|| format!("expected one of {}", names()))
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "expected a time such as 2030-01-31T00:00:00Z".to_owned())
}

impl AdminKey {
    pub(super) fn run(&self, sink: &mut dyn std::io::Write) -> Result<Exit, Failure> {
        let Self::New(new) = self;
        new.run(&mut Out::new(new.output, sink))
    }
}

impl New {
    fn run(&self, out: &mut Out<'_>) -> Result<Exit, Failure> {
        let serves = self.role == Role::Sessions;
        if serves && self.owners.is_empty() {
            let problem = "the role `sessions` needs --owner, once for each owner or `*` for all";
            return Err(Failure::usage(problem));
        }
        if !serves && (!self.owners.is_empty() || self.max_trust.is_some()) {
            return Err(Failure::usage("--owner and --max-trust are for the role `sessions` only"));
        }
        let key = random_key()?;
        let hash = format!("{KEY_HASH_MARK}{}", blake3::hash(key.as_bytes()));
        if out.json {
            out.thing(&json!({
                "key": *key,
                "name": self.name,
                "role": self.role.as_str(),
                "key_hash": hash,
                "owners": self.owners,
                "max_trust": self.max_trust.map(TrustLevel::as_str),
                "expires_at": self.expires_at.map(|end| end.to_string()),
            }))?;
            return Ok(Exit::Fine);
        }
        out.line(&format!("key: {}", *key))?;
        out.line("It is not shown again. Give it to its holder, and add to the configuration:")?;
        out.line("")?;
        for line in self.entry(&hash).lines() {
            out.line(line)?;
        }
        out.line("")?;
        out.line("SIGHUP puts it in force.")?;
        Ok(Exit::Fine)
    }

    /// The key's entry in the configuration.
    fn entry(&self, hash: &str) -> String {
        // JSON's strings are TOML's, too.
        let text = |text: &str| json!(text).to_string();
        let mut entry = format!(
            "[[admin.keys]]\nname = {}\nrole = {}\nkey_hash = {}\n",
            text(&self.name),
            text(self.role.as_str()),
            text(hash)
        );
        if !self.owners.is_empty() {
            let owners = json!(self.owners).to_string();
            entry.extend([
                "owners = ",
                &owners,
                "
",
            ]);
        }
        if let Some(trust) = self.max_trust {
            entry.extend([
                "max_trust = ",
                &text(trust.as_str()),
                "
",
            ]);
        }
        if let Some(end) = self.expires_at {
            entry.extend([
                "expires_at = ",
                &text(&end.to_string()),
                "
",
            ]);
        }
        entry
    }
}

/// An admin key of 32 random bytes.
pub(super) fn random_key() -> Result<zeroize::Zeroizing<String>, Failure> {
    Ok(zeroize::Zeroizing::new(format!("{MARK}{}", *random()?)))
}

/// 32 random bytes as text.
pub(super) fn random() -> Result<zeroize::Zeroizing<String>, Failure> {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let mut bytes = zeroize::Zeroizing::new([0_u8; 32]);
    aws_lc_rs::rand::fill(&mut *bytes)
        .map_err(|_no_detail| Failure::new(Exit::No, "the system gave no random numbers"))?;
    Ok(zeroize::Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes)))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::config::Config;

    fn new(role: Role) -> New {
        let owners = if role == Role::Sessions { vec!["team:\"a\"".to_owned()] } else { vec![] };
        New {
            name: "ci".to_owned(),
            role,
            owners,
            max_trust: None,
            expires_at: Timestamp::parse("2030-01-31T00:00:00Z"),
            output: Format::default(),
        }
    }

    fn printed(new: &New, json: bool) -> String {
        let mut sink = Vec::new();
        assert_eq!(new.run(&mut Out::new(json, &mut sink)).unwrap(), Exit::Fine);
        String::from_utf8(sink).unwrap()
    }

    #[test]
    fn what_is_printed_can_be_configured_as_it_is() {
        for role in Role::ALL {
            let text = printed(&new(role), false);
            let key = text.lines().next().unwrap().strip_prefix("key: ").unwrap();
            let entry = text.split("\n\n").nth(1).unwrap();
            let env = [
                ("ARBITER_ADMIN_API_KEY", "0123456789abcdef"),
                ("ARBITER_SIGNING_SECRET", "0123456789abcdef0123456789abcdef"),
            ];
            let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
            let keys = Config::from_toml(entry, env).unwrap().admin.keys;
            assert_eq!(keys.len(), 1);
            assert_eq!(keys[0].hash, *blake3::hash(key.as_bytes()).as_bytes());
            assert_eq!((keys[0].name.as_str(), keys[0].role), ("ci", role));
            assert!(key.len() >= 43 + MARK.len());
        }
    }

    #[test]
    fn every_key_is_another_one() {
        let read = || serde_json::from_str::<Value>(&printed(&new(Role::Viewer), true)).unwrap();
        let (one, two) = (read(), read());
        assert_ne!(one["key"], two["key"]);
        let key = one["key"].as_str().unwrap();
        assert_eq!(one["key_hash"], format!("blake3:{}", blake3::hash(key.as_bytes())));
    }

    #[test]
    fn owners_are_for_the_role_that_has_some() {
        let mut sink = Vec::new();
        let without = New { owners: Vec::new(), ..new(Role::Sessions) };
        assert!(without.run(&mut Out::new(false, &mut sink)).is_err());
        let with = New { owners: vec!["a".to_owned()], ..new(Role::Viewer) };
        assert!(with.run(&mut Out::new(false, &mut sink)).is_err());
    }
}
