//! Redis URLs: `redis://[user[:password]@]host[:port][/database]`, `rediss://` for TLS.
//!
//! A cluster is `redis-cluster://` or `rediss-cluster://`, with more of its nodes as `?node=host:port`.
//! Behind Sentinel it is `redis-sentinel://` or `rediss-sentinel://` with the sentinels' addresses and
//! `?service=name`; user and password are those of the servers, `sentinel_user` and
//! `sentinel_password` those of the sentinels. The text is never quoted: it may hold a password.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use super::Secret;

/// Topology of the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisServers {
    pub shape: RedisShape,
    /// Host and port of each server, or of each sentinel; at least one.
    pub nodes: Vec<(String, u16)>,
    pub tls: bool,
    pub login: RedisLogin,
    pub database: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisShape {
    One,
    Cluster,
    /// Sentinels that know which server is the primary of this service.
    Sentinel {
        service: String,
        login: RedisLogin,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisLogin {
    pub user: Option<String>,
    pub password: Option<Secret>,
}

/// Without user and password.
impl fmt::Display for RedisServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> =
            self.nodes.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        let nodes = nodes.join(", ");
        match &self.shape {
            RedisShape::One => write!(f, "{nodes}"),
            RedisShape::Cluster => write!(f, "the cluster at {nodes}"),
            RedisShape::Sentinel { service, .. } => {
                write!(f, "`{service}` by the sentinels at {nodes}")
            }
        }
    }
}

const FORM: &str = "is not a URL such as `redis://user:password@host:6379` or `rediss://host`; \
                    `%`-encode what is special in user and password";
const SENTINEL_PORT: u16 = 26_379;
const REDIS_PORT: u16 = 6_379;

pub(super) fn read(text: &str) -> Result<RedisServers, String> {
    if text.contains('#') {
        return Err("holds a fragment (`#`); leave it out, or write `%23`".to_owned());
    }
    let (scheme, rest) = text.split_once("://").ok_or(FORM)?;
    let (tls, kind) = match scheme.split_once('-').unwrap_or((scheme, "")) {
        ("redis" | "valkey", kind) => (false, kind),
        ("rediss" | "valkeys", kind) => (true, kind),
        _ => return Err(FORM.to_owned()),
    };
    let default_port = if kind == "sentinel" { SENTINEL_PORT } else { REDIS_PORT };
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let first = parse(address)?;
    let mut nodes = vec![node(&first, address, default_port)?];
    let mut service = None;
    let mut sentinels = RedisLogin::default();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match (kind, key) {
            (_, _) if value.is_empty() => return Err(format!("gives no value for `{key}`")),
            ("cluster" | "sentinel", "node") => {
                nodes.push(node(&parse(value)?, value, default_port)?);
            }
            ("sentinel", "service") => service = Some(value.to_owned()),
            ("sentinel", "sentinel_user") => sentinels.user = login(&format!("{value}:x"))?.user,
            ("sentinel", "sentinel_password") => {
                sentinels.password = login(&format!(":{value}"))?.password;
            }
            _ => {
                let known = "`node`, `service`, `sentinel_user` and `sentinel_password`";
                return Err(format!("asks for something unknown behind `?`; there are {known}"));
            }
        }
    }
    let shape = match (kind, service) {
        ("", _) => RedisShape::One,
        ("cluster", _) => RedisShape::Cluster,
        ("sentinel", Some(service)) => RedisShape::Sentinel { service, login: sentinels },
        ("sentinel", None) => {
            return Err("names no service: end it with `?service=name`".to_owned());
        }
        _ => return Err(FORM.to_owned()),
    };
    let database = first.redis_settings().db();
    if shape == RedisShape::Cluster && database != 0 {
        return Err("names a database; a cluster has only the first".to_owned());
    }
    Ok(RedisServers { shape, nodes, tls, login: login_of(&first), database })
}

/// Prefix of every key.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | ':');
    if text.len() <= 64 && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("is not at most 64 of `A`-`Z`, `a`-`z`, `0`-`9`, `_`, `.`, `-` and `:`".to_owned())
    }
}

/// The library's reading, which also undoes the `%`-encoding.
fn parse(address: &str) -> Result<ConnectionInfo, String> {
    let read = format!("redis://{address}").into_connection_info();
    // Its error would say no more, and could quote.
    read.map_err(|_unsaid| FORM.to_owned())
}

fn node(info: &ConnectionInfo, text: &str, default_port: u16) -> Result<(String, u16), String> {
    let host_and_port = text.rsplit_once('@').map_or(text, |(_, behind)| behind);
    let host_and_port = host_and_port.split_once('/').map_or(host_and_port, |(node, _)| node);
    let says_port = host_and_port.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => {
            Ok((host.clone(), if says_port { *port } else { default_port }))
        }
        _ => Err(FORM.to_owned()),
    }
}

fn login(user_and_password: &str) -> Result<RedisLogin, String> {
    Ok(login_of(&parse(&format!("{user_and_password}@host"))?))
}

fn login_of(info: &ConnectionInfo) -> RedisLogin {
    let settings = info.redis_settings();
    RedisLogin {
        user: settings.username().map(str::to_owned),
        password: settings.password().map(|password| Secret::new(password.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_they_are_meant() {
        let check = |url: &str, shown: &str, user: Option<&str>, password: Option<&str>| {
            let read = read(url).unwrap_or_else(|problem| panic!("{url} {problem}"));
            assert_eq!(read.to_string(), shown, "{url}");
            assert_eq!(read.login.user.as_deref(), user, "{url}");
            assert_eq!(read.login.password.as_ref().map(Secret::expose), password, "{url}");
            assert_eq!(read.tls, url.starts_with("rediss") || url.starts_with("valkeys"), "{url}");
            read
        };
        check("redis://h", "h:6379", None, None);
        check("valkeys://h:1/3", "h:1", None, None);
        check("rediss://u:p%40ss@[::1]", "::1:6379", Some("u"), Some("p@ss"));
        check("redis://:p@h", "h:6379", None, Some("p"));
        let cluster = "rediss-cluster://u:p@a:1?node=b:2&node=c";
        check(cluster, "the cluster at a:1, b:2, c:6379", Some("u"), Some("p"));
        let sentinel = "redis-sentinel://:p@a/2?service=main&node=b:7&sentinel_user=s&\
                        sentinel_password=q%2Fr";
        let read = check(sentinel, "`main` by the sentinels at a:26379, b:7", None, Some("p"));
        let RedisShape::Sentinel { login, .. } = read.shape else { panic!("{:?}", read.shape) };
        assert_eq!(login.user.as_deref(), Some("s"));
        assert_eq!(login.password.as_ref().map(Secret::expose), Some("q/r"));
        assert_eq!(read.database, 2);
    }

    #[test]
    fn what_is_wrong_is_told_without_the_password() {
        let check = |url: &str, part: &str| {
            let problem = read(url).unwrap_err();
            assert!(problem.contains(part), "{url}: {problem}");
            assert!(!problem.contains("hunter2"), "{url}: {problem}");
        };
        check("hunter2", "is not a URL");
        check("http://:hunter2@h", "is not a URL");
        check("redis-ring://:hunter2@h", "is not a URL");
        check("redis://:hunter2@", "is not a URL");
        check("redis://:hunter2@h:port", "is not a URL");
        check("redis://:hunter2@h/first", "is not a URL");
        check("rediss://:hunter2@h/#insecure", "fragment");
        check("redis://:hunter2@h?node=b", "unknown");
        check("redis-cluster://:hunter2@h/1", "only the first");
        check("redis-sentinel://:hunter2@h", "names no service");
        check("redis-sentinel://:hunter2@h?service=", "no value for `service`");
        assert!(!format!("{:?}", read("redis://:hunter2@h").unwrap()).contains("hunter2"));
        assert!(prefix("a{b}").is_err() && prefix("team-a:arbiter").is_ok());
    }
}
