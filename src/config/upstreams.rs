//! `[[upstreams]]`: which servers serve which path, in addition to `proxy.upstream_url`.

use super::check::{Section, clip};
use super::file::{Node, Origin, Table, Value};
use super::values;
use super::{ConfigError, Pool, Secret, Upstream};

/// Most upstreams, and most servers of one.
const MOST: usize = 64;

const MAX_NAME_BYTES: usize = 64;

type Headers = Vec<(http::HeaderName, Secret)>;

/// Defaults of an upstream from `[proxy]`.
pub(super) struct Default {
    pub(super) url: Upstream,
    pub(super) url_at: Option<Origin>,
    pub(super) headers: Headers,
    pub(super) headers_at: Option<Origin>,
}

impl Default {
    /// The upstream for all paths that have no other: with others only if it was asked for.
    pub(super) fn in_use(self, others: &[Pool], problems: &mut Vec<ConfigError>) -> Option<Pool> {
        let mut problem = |key: &str, at, problem: &str| {
            let key = format!("proxy.{key}");
            problems.push(ConfigError { key, at, problem: problem.to_owned() });
        };
        if !others.is_empty() && self.url_at.is_none() {
            if self.headers_at.is_some() && !self.headers.is_empty() {
                let advice = "belongs to `proxy.upstream_url`, which is not set; give each of \
                              `[[upstreams]]` its own `headers`";
                problem("upstream_headers", self.headers_at, advice);
            }
            return None;
        }
        if self.url_at.is_some() && others.iter().any(|pool| pool.path == "/") {
            let advice = "is of no use: one of `[[upstreams]]` has the path `/`; leave one out";
            problem("upstream_url", self.url_at, advice);
        }
        let (urls, headers) = (vec![self.url], self.headers);
        Some(Pool { name: None, path: "/".to_owned(), urls, headers, resource: None })
    }
}

/// Reads all tables; also returns which keys they have.
pub(super) fn read(
    root: &mut Table,
    problems: &mut Vec<ConfigError>,
) -> (Vec<Pool>, Vec<&'static str>) {
    let mut known = vec!["name", "path", "urls", "headers", "resource"];
    let mut pools: Vec<Pool> = Vec::new();
    let Some(Node { value, at }) = root.remove("upstreams") else { return (pools, known) };
    let mut complain = |at: Origin, problem: &str| {
        let key = "upstreams".to_owned();
        problems.push(ConfigError { key, at: Some(at), problem: problem.to_owned() });
    };
    let Value::List(items) = value else {
        complain(at, "expected tables `[[upstreams]]`");
        return (pools, known);
    };
    if items.is_empty() || items.len() > MOST {
        complain(at, "has no table or more than 64; leave it out, or give 1 to 64");
        return (pools, known);
    }
    for (n, item) in items.into_iter().enumerate() {
        let Value::Table(table) = item.value else {
            problems.push(ConfigError {
                key: format!("upstreams[{n}]"),
                at: Some(item.at),
                problem: "expected a table `[[upstreams]]`".to_owned(),
            });
            continue;
        };
        let (pool, keys) = pool(Section::new(format!("upstreams[{n}]"), table, problems), &pools);
        known = keys;
        pools.extend(pool);
    }
    (pools, known)
}

fn pool(mut s: Section<'_>, before: &[Pool]) -> (Option<Pool>, Vec<&'static str>) {
    let (name_at, path_at, urls_at) = (s.origin("name"), s.origin("path"), s.origin("urls"));
    let name = s.parsed("name", |text| name(text).map(|()| text.to_owned()));
    let path = s.parsed("path", prefix);
    let mut urls: Vec<Upstream> = Vec::new();
    let texts = s.list("urls").unwrap_or_default();
    if texts.is_empty() || texts.len() > MOST {
        s.problem("urls", urls_at.clone(), "needs 1 to 64 URLs such as `http://host:port/path`");
    }
    for text in texts {
        match values::upstream(&text) {
            Ok(url) if urls.contains(&url) => {
                s.problem("urls", urls_at.clone(), "holds a server twice");
            }
            Ok(url) => urls.push(url),
            Err(problem) => s.problem("urls", urls_at.clone(), problem),
        }
    }
    let headers = headers(&mut s, "headers");
    let resource = s.parsed("resource", |text| values::url(text).map(|_| text.to_owned()));
    if name.is_none() && name_at.is_none() {
        s.problem("name", None, "is missing; policies and sessions know the upstream by it");
    }
    if path.is_none() && path_at.is_none() {
        s.problem("path", None, "is missing; give the beginning of the paths that lead there");
    }
    if name.is_some() && before.iter().any(|pool| pool.name == name) {
        s.problem("name", name_at, "is given to two upstreams; names must differ");
    }
    if before.iter().any(|pool| Some(&pool.path) == path.as_ref()) {
        s.problem("path", path_at, "is given to two upstreams; paths must differ");
    }
    let pool = match (name, path) {
        (Some(name), Some(path)) => Some(Pool { name: Some(name), path, urls, headers, resource }),
        _ => None,
    };
    (pool, s.finish())
}

fn name(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if text.len() <= MAX_NAME_BYTES && text.chars().all(allowed) {
        Ok(())
    } else {
        Err("is not a name of 1 to 64 letters, digits, `_` or `-`".to_owned())
    }
}

/// A path of plain segments, without a slash at its end unless it is nothing else.
fn prefix(text: &str) -> Result<String, String> {
    values::path(text)?;
    let plain = |segment: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '~');
        !matches!(segment, "" | "." | "..") && segment.chars().all(allowed)
    };
    let segments = text.strip_prefix('/').unwrap_or_default();
    let segments = segments.strip_suffix('/').unwrap_or(segments);
    if segments.is_empty() && text.len() <= 1 {
        return Ok("/".to_owned());
    }
    if segments.split('/').all(plain) {
        Ok(format!("/{segments}"))
    } else {
        Err("is not a path of plain segments such as `/git`".to_owned())
    }
}

/// The headers that requests to an upstream get.
pub(super) fn headers(s: &mut Section<'_>, table: &'static str) -> Headers {
    let mut headers = Headers::new();
    for (name, value, at) in s.map(table) {
        let key = format!("{table}.{}", clip(&name));
        let checked =
            values::header_name(&name).and_then(|name| values::header_value(&value).map(|()| name));
        match checked {
            Ok(name) if headers.iter().any(|(other, _)| *other == name) => {
                s.problem(&key, Some(at), "is given twice; header names ignore case");
            }
            Ok(name) => headers.push((name, Secret::new(value))),
            Err(problem) => s.problem(&key, Some(at), problem),
        }
    }
    headers
}
