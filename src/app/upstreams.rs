//! From what the configuration says of upstreams to where calls go.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use pingora::protocols::tls::CaType;
use pingora::utils::tls::{WrappedX509, parse_x509};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::config::{self, Config, SigningSecrets};
use crate::gate::Destination;
use crate::proxy::affinity::SealKey;
use crate::proxy::memory::BodyMemory;
use crate::proxy::pool::Pool;
use crate::proxy::upstream::{Headers, Upstream};
use crate::proxy::upstreams::Upstreams;

/// Prepares every upstream; connects to none yet.
///
/// `headers` are those of each, in the configuration's order.
pub(super) fn connect(config: &Config, headers: &[Arc<ArcSwap<Headers>>]) -> Result<Upstreams> {
    let proxy = &config.proxy;
    let ca = proxy.upstream_ca_file.as_deref().map(authorities).transpose()?;
    // The replay session ends silences earlier where one of the two is shorter.
    let read_timeout = proxy.stream_idle_timeout_secs.max(proxy.upstream_timeout_secs);
    let read_timeout = Duration::from_secs(read_timeout.saturating_add(1));
    let kept = Duration::from_secs(proxy.upstream_idle_secs);
    let keys = seal_keys(&config.admin.signing_secrets);
    let pools = config.upstreams.iter().zip(headers).map(|(pool, headers)| {
        let server = |url: &config::Upstream| {
            Upstream::new(url.clone(), ca.clone(), read_timeout, kept, headers.clone())
        };
        let destination =
            Destination { name: pool.name.as_deref().map(Arc::from), urls: pool.url_texts() };
        let servers = pool.urls.iter().map(server).collect();
        let memory = BodyMemory::for_each(proxy, config.upstreams.len());
        let (path, resource) = (pool.path.clone(), pool.resource.clone());
        Pool::new(Arc::new(destination), path, resource, memory, servers, &keys)
    });
    Ok(Upstreams::new(pools))
}

/// Keys that ids of sessions are sealed with, one for each signing secret.
pub(super) fn seal_keys(secrets: &SigningSecrets) -> Vec<SealKey> {
    secrets.all().map(|secret| SealKey::from_secret(secret.expose().as_bytes())).collect()
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
