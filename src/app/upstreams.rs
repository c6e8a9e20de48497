//! From what the configuration says of upstreams to where calls go.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http::{HeaderName, HeaderValue};
use pingora::protocols::tls::CaType;
use pingora::utils::tls::{WrappedX509, parse_x509};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::config::{self, Config};
use crate::credentials::{Secret, expand_header};
use crate::gate::Destination;
use crate::proxy::intake::memory_for_each;
use crate::proxy::pool::Pool;
use crate::proxy::upstream::Upstream;
use crate::proxy::upstreams::Upstreams;
use crate::secrets::Secrets;

type Headers = Vec<(HeaderName, HeaderValue)>;

/// The configured headers with credentials put in.
pub(crate) struct Expanded {
    /// For each upstream, in the configuration's order.
    headers: Vec<Headers>,
    /// The credentials that any of them holds.
    pub(super) secrets: Vec<Arc<Secret>>,
}

/// Prepares every upstream; connects to none yet.
pub(super) fn connect(config: &Config, secrets: &Secrets) -> Result<Upstreams> {
    let proxy = &config.proxy;
    let ca = proxy.upstream_ca_file.as_deref().map(authorities).transpose()?;
    // The replay session ends silences earlier where one of the two is shorter.
    let read_timeout = proxy.stream_idle_timeout_secs.max(proxy.upstream_timeout_secs);
    let read_timeout = Duration::from_secs(read_timeout.saturating_add(1));
    let known: Arc<[Box<str>]> =
        config.upstreams.iter().filter_map(|pool| pool.name.as_deref().map(Box::from)).collect();
    let expanded = expanded_headers(config, secrets)?;
    let pools = config.upstreams.iter().zip(expanded.headers).map(|(pool, headers)| {
        let server = |url: &config::Upstream| {
            Upstream::new(url.clone(), ca.clone(), read_timeout, headers.clone())
        };
        let destination = Destination {
            name: pool.name.as_deref().map(Box::from),
            known: known.clone(),
            urls: urls(pool),
        };
        let servers = pool.urls.iter().map(server).collect();
        let memory = memory_for_each(proxy, config.upstreams.len());
        Pool::new(Arc::new(destination), pool.path.clone(), memory, servers)
    });
    Ok(Upstreams::new(pools))
}

fn urls(pool: &config::Pool) -> Vec<String> {
    pool.urls.iter().map(ToString::to_string).collect()
}

/// Puts credentials into the configured headers.
pub(crate) fn expanded_headers(config: &Config, secrets: &Secrets) -> Result<Expanded> {
    let vault = secrets.vault();
    let mut all = Expanded { headers: Vec::new(), secrets: Vec::new() };
    for pool in &config.upstreams {
        let table = match &pool.name {
            None => "proxy.upstream_headers".to_owned(),
            Some(name) => format!("upstreams.headers of {name}"),
        };
        let urls = urls(pool);
        let mut headers = Headers::new();
        for (name, template) in &pool.headers {
            let context = || format!("`{table}.{name}`");
            let (value, used) =
                expand_header(template.expose(), &vault, &urls).with_context(context)?;
            let mut value = HeaderValue::from_str(&value)
                .with_context(|| format!("{} holds a character no header may hold", context()))?;
            value.set_sensitive(true);
            headers.push((name.clone(), value));
            all.secrets.extend(used);
        }
        all.headers.push(headers);
    }
    Ok(all)
}

fn authorities(path: &Path) -> Result<Arc<CaType>> {
    let pem = std::fs::read(path)
        .with_context(|| format!("reading `proxy.upstream_ca_file` {}", path.display()))?;
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate
            .with_context(|| format!("`proxy.upstream_ca_file` {} is not PEM", path.display()))?;
        certificates.push(WrappedX509::new(certificate.to_vec(), parse_x509));
    }
    anyhow::ensure!(
        !certificates.is_empty(),
        "`proxy.upstream_ca_file` {} holds no certificate",
        path.display()
    );
    Ok(Arc::from(certificates))
}
