//! The certificate that agents see, checked before anything listens.
//!
//! Pingora reads the files when its service starts, and a mistake there would end that service's
//! task only: a process without a listener. So they are read here first.

use anyhow::{Context, Result, anyhow};
use pingora::listeners::tls::TlsSettings;
use pingora_core::tls;

use crate::config::Tls;

/// HTTP/1.1 and, by ALPN, HTTP/2.
pub(super) fn settings(files: &Tls) -> Result<TlsSettings> {
    let text = |path: &std::path::Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| anyhow!("{} is not UTF-8", path.display()))
    };
    let (certificate, key) = (text(&files.cert_file)?, text(&files.key_file)?);
    check(&certificate, &key).with_context(|| format!("`proxy.tls` ({certificate}, {key})"))?;
    let mut settings = TlsSettings::intermediate(&certificate, &key)
        .map_err(|error| anyhow!("`proxy.tls`: {error}"))?;
    settings.enable_h2();
    Ok(settings)
}

fn check(certificate: &str, key: &str) -> Result<()> {
    tls::install_default_crypto_provider();
    let (chain, key) = tls::load_certs_and_key_files(certificate, key)
        .map_err(|error| anyhow!("{error}"))?
        .context("one of the files holds no certificate or no key")?;
    tls::ServerConfig::builder_with_protocol_versions(&[
        &tls::version::TLS12,
        &tls::version::TLS13,
    ])
    .with_no_client_auth()
    .with_single_cert(chain, key)
    .context("certificate and key do not go together")?;
    Ok(())
}
