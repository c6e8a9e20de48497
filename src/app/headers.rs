//! Headers that every upstream request carries, with references to credentials resolved.

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::audit::redact::Redactor;
use crate::config::{self, Config};
use crate::credentials::{Secret, Vault, expand_header};
use crate::proxy::upstream::Headers;

/// A shorter word of a header is no secret worth looking for, and could occur in any text.
const LEAST_LITERAL_BYTES: usize = 8;

/// The headers of every upstream as they are written.
pub(crate) struct Templates {
    upstreams: Vec<Table>,
    redactor: Redactor,
}

/// The headers of one upstream, each with its key in the configuration and the place of that.
struct Table {
    urls: Vec<String>,
    headers: Vec<(HeaderName, config::Secret, String)>,
}

/// The value of a header, wiped when it goes.
struct Wiped(Zeroizing<String>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Templates {
    pub(crate) fn of(config: &Config) -> Result<Self> {
        let audit = &config.audit;
        Ok(Self {
            upstreams: config.upstreams.iter().map(|pool| Table::of(pool, config)).collect(),
            redactor: Redactor::new(&audit.redaction_patterns, audit.redaction_replace)?,
        })
    }

    /// The headers of each upstream in the configuration's order, and the secrets in them.
    pub(crate) fn expand(&self, vault: &Vault) -> Result<(Vec<Headers>, Vec<Arc<Secret>>)> {
        let mut used = Vec::new();
        let expanded = self.upstreams.iter().map(|table| self.of_one(table, vault, &mut used));
        let headers = expanded.collect::<Result<_>>()?;
        Ok((headers, used))
    }

    fn of_one(&self, table: &Table, vault: &Vault, used: &mut Vec<Arc<Secret>>) -> Result<Headers> {
        let mut headers = Headers::new();
        for (name, template, key) in &table.headers {
            let context = || key.clone();
            let (value, of_it) =
                expand_header(template.expose(), vault, &table.urls).with_context(context)?;
            if of_it.is_empty() && self.redactor.names_a_secret(name.as_str()) {
                used.extend(literal(name, &value));
            }
            used.extend(of_it);
            let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(value)))
                .with_context(|| format!("{} holds a character no header may hold", context()))?;
            value.set_sensitive(true);
            headers.push((name.clone(), value));
        }
        Ok(headers)
    }
}

impl Table {
    fn of(pool: &config::Pool, config: &Config) -> Self {
        let key = match &pool.name {
            None => "proxy.upstream_headers".to_owned(),
            Some(name) => format!("upstreams.headers of {name}"),
        };
        let headers = pool.headers.iter().map(|(name, template)| {
            (name.clone(), template.clone(), config.at(&format!("{key}.{name}")))
        });
        Self { urls: pool.url_texts(), headers: headers.collect() }
    }
}

/// The secret in a header that was written down as it is: `Bearer <this>`, or all of it.
fn literal(name: &HeaderName, value: &str) -> Option<Arc<Secret>> {
    let secret = value.split_once(' ').map_or(value, |(_, secret)| secret).trim();
    let long_enough = secret.len() >= LEAST_LITERAL_BYTES;
    long_enough.then(|| Arc::new(Secret::plain(name.as_str(), secret)))
}
