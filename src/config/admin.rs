//! The operators' side: where it listens, who may ask, and what each of them may ask for.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::check::{Read, Section, address, clip};
use super::file::Origin;
use super::signing::{self, SigningSecrets, secret};
use super::values::discoverable;
use super::{MAX_TOKEN_EXPIRY_SECS, Oauth, Secret};
use crate::clock::Clock;
use crate::firewall::agent::TrustLevel;
use crate::firewall::time::Timestamp;

/// The name of the key that `ARBITER_ADMIN_API_KEY` gives.
pub const ENVIRONMENT_KEY: &str = "admin";

/// Prefix of the hash of an admin key.
pub const KEY_HASH_MARK: &str = "blake3:";

/// More keys than this are refused: each request is compared with all of them.
const MAX_KEYS: usize = 1_000;
/// Owners that one key may serve.
const MAX_OWNERS: usize = 1_000;
/// Longest name of a key, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Entries that may share a name, so that a key can be replaced without a gap.
const MAX_SAME_NAME: usize = 2;

/// Rights of the holder of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads everything.
    Viewer,
    /// Reads `/metrics` only.
    Metrics,
    /// Opens, reads and closes sessions and issues tokens for agents of some owners.
    Sessions,
    /// Changes agents, trust and delegations, revokes and reloads; reads everything.
    Operator,
    /// Decides approvals; reads everything.
    Approver,
    /// Does everything.
    Admin,
}

impl Role {
    pub const ALL: [Self; 6] =
        [Self::Viewer, Self::Metrics, Self::Sessions, Self::Operator, Self::Approver, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Metrics => "metrics",
            Self::Sessions => "sessions",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Admin => "admin",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Viewer => 1,
            Self::Metrics => 2,
            Self::Sessions => 4,
            Self::Operator => 8,
            Self::Approver => 16,
            Self::Admin => 32,
        }
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    pub const NONE: Self = Self(0);

    #[must_use]
    pub const fn and(self, role: Role) -> Self {
        Self(self.0 | role.bit())
    }

    pub fn has(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Checks whether the two sets have a role in common.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Role::ALL.into_iter().filter(move |role| self.has(*role)).map(Role::as_str)
    }
}

/// Service for operators: addresses, keys and limits.
#[derive(Clone, Debug)]
pub struct Admin {
    pub listen: SocketAddr,
    pub tls: Option<AdminTls>,
    /// Lower-case names without brackets that `Host` may have; empty: the loopback names and the
    /// address that is listened on.
    pub allowed_hosts: Vec<String>,
    /// The key named `admin`; `None` only if `keys` has an unexpired one of role admin.
    pub api_key: Option<Secret>,
    pub keys: Vec<AdminKey>,
    pub oidc: Option<AdminOidc>,
    /// Secrets of Arbiter's own tokens.
    pub signing_secrets: SigningSecrets,
    pub token_expiry_secs: u64,
    /// For each key that sets no limit of its own.
    pub rate_limit_per_minute: u32,
    /// For each source address.
    pub wrong_keys_per_minute: u32,
}

/// The certificate that operators see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminTls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// Authorities whose certificates callers must have; `None`: callers need none.
    pub client_ca_file: Option<PathBuf>,
}

/// One entry of `[[admin.keys]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminKey {
    pub name: String,
    pub role: Role,
    /// BLAKE3 of the key as it is sent.
    pub hash: [u8; 32],
    pub rate_limit_per_minute: Option<u32>,
    /// For the role sessions, never empty; `*` alone stands for all.
    pub owners: Vec<String>,
    /// The highest trust that the role sessions may register an agent with.
    pub max_trust: TrustLevel,
    pub expires_at: Option<Timestamp>,
}

impl AdminKey {
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

/// People who sign in at an identity provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminOidc {
    /// Name of one of `[[oauth.issuers]]`.
    pub issuer: String,
    /// Audiences of the tokens; never one of agents' tokens.
    pub audiences: Vec<String>,
    /// The claim that names roles: a text or a list of texts.
    pub claim: String,
    /// Value of the claim to role.
    pub roles: Vec<(String, Role)>,
    /// Set if people sign in to the console at the issuer.
    pub client: Option<OidcClient>,
}

/// The console as the issuer knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcClient {
    pub id: String,
    /// None for a public client.
    pub secret: Option<Secret>,
    pub scopes: Vec<String>,
}

pub(super) fn read(mut s: Section<'_>, oauth: &Oauth) -> Read<Option<Admin>> {
    let ip = address(&mut s, IpAddr::from([127, 0, 0, 1]));
    let port = s.number("listen_port", 3000, 0..=65_535);
    let tls = tls(&mut s);
    let allowed_hosts = s.checked_list("allowed_hosts", &[], host);
    let keys = keys(&mut s);
    let now = Clock::system().now().wall;
    let with_admin = keys.iter().any(|key| key.role == Role::Admin && !key.has_expired(now));
    let names = ("api_key", "api_key_file");
    let given = s.origin(names.0).is_some() || s.origin(names.1).is_some();
    let api_key = if !given && with_admin {
        // Asked for all the same, so that their names are known ones.
        s.secret_or_file(names.0, names.1)
    } else {
        secret(&mut s, names, 16, "ARBITER_ADMIN_API_KEY")
    };
    if let Some(key) = &api_key {
        let hash = *blake3::hash(key.expose().as_bytes()).as_bytes();
        if keys.iter().any(|other| other.hash == hash) {
            s.problem("keys", None, "has the key of `admin.api_key` a second time; remove one");
        }
    }
    let oidc = oidc(&mut s, oauth);
    let signing_secrets = signing::read(&mut s);
    if let (Some(key), Some(secrets)) = (&api_key, &signing_secrets)
        && secrets.all().any(|secret| secret == key)
    {
        let problem = "is the same as `admin.api_key`; whoever signs in could mint tokens of any \
                       content; set ARBITER_SIGNING_SECRET to another value";
        s.problem("signing_secret", None, problem);
    }
    let token_expiry_secs = s.number("token_expiry_secs", 3_600, 1..=MAX_TOKEN_EXPIRY_SECS);
    let rate_limit_per_minute = s.number("rate_limit_per_minute", 60, 1..=1_000_000);
    let wrong_keys_per_minute = s.number("wrong_keys_per_minute", 60, 1..=1_000_000);
    let admin = signing_secrets.map(|signing_secrets| Admin {
        listen: SocketAddr::new(ip, port),
        tls,
        allowed_hosts: allowed_hosts.iter().map(|host| bare(host)).collect(),
        api_key,
        keys,
        oidc,
        signing_secrets,
        token_expiry_secs,
        rate_limit_per_minute,
        wrong_keys_per_minute,
    });
    (admin, s.finish())
}

fn tls(s: &mut Section<'_>) -> Option<AdminTls> {
    let at = s.origin("tls")?;
    let (mut cert_file, mut key_file, mut client_ca_file) = (None, None, None);
    for (name, value, at) in s.map("tls") {
        let place = match name.as_str() {
            "cert_file" => &mut cert_file,
            "key_file" => &mut key_file,
            "client_ca_file" => &mut client_ca_file,
            other => {
                let key = format!("tls.{}", clip(other));
                let problem = "is not a known key; known are: cert_file, key_file, client_ca_file";
                s.problem(&key, Some(at), problem);
                continue;
            }
        };
        *place = Some(PathBuf::from(value));
    }
    let (Some(cert_file), Some(key_file)) = (cert_file, key_file) else {
        s.problem("tls", Some(at), "needs both `cert_file` and `key_file`, as PEM files");
        return None;
    };
    Some(AdminTls { cert_file, key_file, client_ca_file })
}

/// Checks a name or address that `Host` may have.
fn host(text: &str) -> Result<(), String> {
    let bare = bare(text);
    let address = bare.parse::<IpAddr>().is_ok();
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if address || (!bare.is_empty() && bare.chars().all(name)) {
        Ok(())
    } else {
        Err("is not a host such as `arbiter.example` or `10.0.0.5`, without a port".to_owned())
    }
}

/// The form in which hosts are compared.
fn bare(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
}

fn keys(s: &mut Section<'_>) -> Vec<AdminKey> {
    let mut keys: Vec<AdminKey> = Vec::new();
    for (n, table) in s.tables("keys").into_iter().enumerate() {
        let path = format!("admin.keys[{n}]");
        let section = Section::new(path, table, s.problems());
        let Some(key) = key(section) else { continue };
        if keys.iter().any(|other| other.hash == key.hash) {
            s.problem("keys", None, "has one `key_hash` in two entries; remove one");
        }
        let namesakes = keys.iter().filter(|other| other.name == key.name);
        if namesakes.clone().any(|other| other.role != key.role) {
            let problem = format!("has `{}` with two roles; give each a name of its own", key.name);
            s.problem("keys", None, problem);
        } else if namesakes.count() >= MAX_SAME_NAME {
            let problem = format!("has `{}` more than twice; remove the oldest", key.name);
            s.problem("keys", None, problem);
        }
        keys.push(key);
    }
    if keys.len() > MAX_KEYS {
        s.problem("keys", None, format!("has more than {MAX_KEYS} entries"));
    }
    keys
}

fn key(mut s: Section<'_>) -> Option<AdminKey> {
    let (name_given, role_given) = (s.origin("name").is_some(), s.origin("role").is_some());
    let hash_given = s.origin("key_hash").is_some();
    let name = s.parsed("name", key_name);
    let role = s.parsed("role", |text| {
        let known = || Role::ALL.map(|role| format!("`{}`", role.as_str())).join(", ");
        Role::parse(text).ok_or_else(|| format!("`{}` is not one of {}", clip(text), known()))
    });
    let hash = s.parsed("key_hash", key_hash);
    for (given, key, advice) in [
        (name_given, "name", "give each key a name of its own"),
        (role_given, "role", "say what the key's holder may do"),
        (hash_given, "key_hash", "make a key with `arbiter admin-key new`"),
    ] {
        if !given {
            s.problem(key, None, format!("is missing; {advice}"));
        }
    }
    let rate_limit_per_minute = s.optional_number("rate_limit_per_minute", 1..=1_000_000);
    let (owners_at, trust_at) = (s.origin("owners"), s.origin("max_trust"));
    let owners = s.checked_list("owners", &[], owner);
    let max_trust = s.parsed("max_trust", |text| {
        text.parse::<TrustLevel>().map_err(|known| format!("`{}` {known}", clip(text)))
    });
    let expires_at = s.time("expires_at");
    if let Some(role) = role {
        scope_fits(&mut s, role, &owners, owners_at, trust_at);
    }
    s.finish();
    Some(AdminKey {
        name: name?,
        role: role?,
        hash: hash?,
        rate_limit_per_minute,
        owners,
        max_trust: max_trust.unwrap_or(TrustLevel::Basic),
        expires_at,
    })
}

/// Owners and trust bound the role sessions, and no other.
fn scope_fits(
    s: &mut Section<'_>,
    role: Role,
    owners: &[String],
    owners_at: Option<Origin>,
    trust_at: Option<Origin>,
) {
    if role == Role::Sessions {
        if owners.is_empty() {
            let problem = "is missing; list the owners whose agents this key serves, or `[\"*\"]`";
            s.problem("owners", owners_at, problem);
        } else if owners.len() > MAX_OWNERS {
            s.problem("owners", owners_at, format!("has more than {MAX_OWNERS} entries"));
        } else if owners.len() > 1 && owners.iter().any(|owner| owner == "*") {
            s.problem("owners", owners_at, "has `*` and others; `*` stands alone");
        }
        return;
    }
    for (key, at) in [("owners", owners_at), ("max_trust", trust_at)] {
        if at.is_some() {
            s.problem(key, at, "is for keys of role `sessions` only; leave it out");
        }
    }
}

fn owner(text: &str) -> Result<(), String> {
    if text.len() > 256 || text.chars().any(char::is_control) {
        return Err("is over 256 bytes or holds a control character".to_owned());
    }
    Ok(())
}

/// A name that a record, a metric's label and a log line can hold.
pub fn key_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if text == ENVIRONMENT_KEY {
        return Err("`admin` is the key of ARBITER_ADMIN_API_KEY; choose another name".to_owned());
    }
    if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.chars().all(allowed) {
        return Err(format!("is not a name of 1 to {MAX_NAME_BYTES} of `A-Z a-z 0-9 _ . -`"));
    }
    Ok(text.to_owned())
}

fn key_hash(text: &str) -> Result<[u8; 32], String> {
    let hex = text.strip_prefix(KEY_HASH_MARK).filter(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    });
    let hash = hex.and_then(|hex| blake3::Hash::from_hex(hex).ok());
    hash.map(|hash| *hash.as_bytes()).ok_or_else(|| {
        "is not `blake3:` and 64 lower-case hexadecimal characters, as `arbiter admin-key new` \
         prints it"
            .to_owned()
    })
}

fn oidc(s: &mut Section<'_>, oauth: &Oauth) -> Option<AdminOidc> {
    let table = s.table("oidc")?;
    let mut s = Section::new("admin.oidc".to_owned(), table, s.problems());
    let issuer = s.text("issuer");
    let audiences = s.list("audiences").unwrap_or_default();
    let claim = s.text_or("claim", "groups");
    let client = client(&mut s);
    let mut roles = Vec::new();
    for (value, role, at) in s.map("roles") {
        let key = format!("roles.{}", clip(&value));
        match Role::parse(&role) {
            Some(Role::Sessions) => {
                let problem = "is `sessions`, which needs `owners`: give an `[[admin.keys]]`";
                s.problem(&key, Some(at), problem);
            }
            Some(role) => roles.push((value, role)),
            None => s.problem(&key, Some(at), "is not a role"),
        }
    }
    if roles.is_empty() {
        s.problem("roles", None, "is empty; say which value of the claim has which role");
    }
    let known = issuer.as_ref().and_then(|name| oauth.issuers.iter().find(|i| i.name == *name));
    match (&issuer, known) {
        (None, _) => s.problem("issuer", None, "is missing; name one of `[[oauth.issuers]]`"),
        (Some(_), None) => s.problem("issuer", None, "is the name of none of `[[oauth.issuers]]`"),
        (Some(_), Some(known)) => {
            if client.is_some()
                && let Err(problem) = discoverable(&known.issuer_url, known.allow_http)
            {
                let problem =
                    format!("needs the issuer's metadata, below its `issuer_url`, which {problem}");
                s.problem("client_id", None, problem);
            }
            if client.as_ref().is_some_and(|client| known.audiences.contains(&client.id)) {
                let problem = "is an audience of agents' tokens; register another client";
                s.problem("client_id", None, problem);
            }
            if audiences.iter().any(|audience| known.audiences.contains(audience)) {
                let problem = "has an audience of agents' tokens: an agent could then act as the \
                               person whose token it holds; register another one for operators";
                s.problem("audiences", None, problem);
            }
        }
    }
    if audiences.is_empty() {
        s.problem("audiences", None, "is empty; name whom operators' tokens are for");
    }
    s.finish();
    Some(AdminOidc { issuer: issuer?, audiences, claim, roles, client })
}

fn client(s: &mut Section<'_>) -> Option<OidcClient> {
    let id = s.text("client_id");
    let given = s.origin("client_secret").or_else(|| s.origin("client_secret_file"));
    let secret = s.secret_or_file("client_secret", "client_secret_file");
    let scopes_at = s.origin("scopes");
    let scopes = s.list("scopes").unwrap_or_else(|| vec!["openid".to_owned()]);
    let plain = |scope: &String| !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_graphic());
    if !scopes.iter().all(plain) {
        s.problem("scopes", scopes_at, "has an entry that is empty or holds a space");
    } else if !scopes.iter().any(|scope| scope == "openid") {
        s.problem("scopes", scopes_at, "lacks `openid`, without which there is no ID token");
    }
    if id.is_none() && given.is_some() {
        s.problem("client_secret", given, "is of no use without `client_id`");
    }
    Some(OidcClient { id: id?, secret, scopes })
}
