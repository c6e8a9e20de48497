//! The certificates that agents and operators see: read before anything listens, and again when its files change.
//!
//! Pingora would read the files once, when its service starts, and a mistake there would end that
//! service's task only: a process without a listener. So they are read here, and every handshake
//! asks for what is in force. Files that cannot be used leave the old certificate in force.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora::listeners::tls::TlsSettings;
use pingora_core::tls;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::audit::chain::HexHash;
use crate::config::{AdminTls, Tls};

/// Identity of the two files: device, inode, length, and modification time.
type Seen = [Option<(u64, u64, u64, i64, i64)>; 2];

/// A certificate chain with its key, in two files.
pub(super) struct Certificate {
    /// Section of the configuration that names the files.
    section: &'static str,
    chain_file: String,
    key_file: String,
    in_force: ArcSwap<CertifiedKey>,
    /// At the last reading, whatever came of it.
    seen: Mutex<Seen>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("file", &self.chain_file).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.in_force.load_full())
    }
}

impl Certificate {
    /// The one that agents see.
    pub(super) fn open(files: &Tls) -> Result<Arc<Self>> {
        Self::of("proxy.tls", &files.cert_file, &files.key_file)
    }

    fn of(section: &'static str, cert_file: &Path, key_file: &Path) -> Result<Arc<Self>> {
        let text = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .ok_or_else(|| anyhow!("{} is not UTF-8", path.display()))
        };
        let (certificate, key) = (text(cert_file)?, text(key_file)?);
        let seen = Mutex::new(seen(&certificate, &key));
        let in_force = ArcSwap::from_pointee(read(section, &certificate, &key)?);
        Ok(Arc::new(Self { section, chain_file: certificate, key_file: key, in_force, seen }))
    }

    /// HTTP/1.1 and, by ALPN, HTTP/2.
    pub(super) fn settings(self: &Arc<Self>) -> Result<TlsSettings> {
        let mut settings = TlsSettings::intermediate(&self.chain_file, &self.key_file)
            .map_err(|error| anyhow!("`proxy.tls`: {error}"))?;
        settings.set_cert_resolver(self.clone());
        settings.enable_h2();
        Ok(settings)
    }

    /// End of the certificate's validity, as Unix time; `None` if it cannot be read.
    pub(super) fn expires(&self) -> Option<i64> {
        let in_force = self.in_force.load();
        let (_, certificate) = x509_parser::parse_x509_certificate(in_force.cert.first()?).ok()?;
        Some(certificate.validity().not_after.timestamp())
    }

    /// Reports whether the files are others than at the last reading.
    pub(super) fn has_changed(&self) -> bool {
        let now = seen(&self.chain_file, &self.key_file);
        *self.seen.lock() != now
    }

    /// Reads both files again, for [`Certificate::put`].
    pub(super) fn read(&self) -> Result<New> {
        // Before the files: what changes while they are read is read once more.
        let now = seen(&self.chain_file, &self.key_file);
        *self.seen.lock() = now;
        read(self.section, &self.chain_file, &self.key_file).map(|key| New(Arc::new(key)))
    }

    /// Puts what was read in force. Connections that are open stay as they are.
    pub(super) fn put(&self, new: New) {
        self.in_force.store(new.0);
    }

    pub(super) fn section(&self) -> &'static str {
        self.section
    }

    pub(super) fn fingerprint(&self) -> String {
        fingerprint(&self.in_force.load())
    }

    /// The admin port's certificate, and how TLS is spoken there.
    pub(super) fn for_admin(files: &AdminTls) -> Result<(Arc<Self>, Arc<ServerConfig>)> {
        let certificate = Self::of("admin.tls", &files.cert_file, &files.key_file)?;
        let builder = ServerConfig::builder();
        let builder = match &files.client_ca_file {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let shown = path.display();
                let mut roots = RootCertStore::empty();
                let found = CertificateDer::pem_file_iter(path)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .with_context(|| format!("`admin.tls` client_ca_file {shown}"))?;
                for certificate in found {
                    roots.add(certificate).with_context(|| format!("client_ca_file {shown}"))?;
                }
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
                let problem = || format!("client_ca_file {shown} holds no certificate");
                builder.with_client_cert_verifier(verifier.with_context(problem)?)
            }
        };
        let mut config = builder.with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((certificate, Arc::new(config)))
    }
}

/// A certificate that was read and is not in force yet.
pub(super) struct New(Arc<CertifiedKey>);

impl New {
    pub(super) fn fingerprint(&self) -> String {
        fingerprint(&self.0)
    }
}

/// SHA-256 of the certificate, as other tools show it.
fn fingerprint(key: &CertifiedKey) -> String {
    let Some(certificate) = key.cert.first() else { return String::new() };
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let hash = hash.as_ref().first_chunk().copied().unwrap_or_default();
    HexHash::from_bytes(hash).to_string()
}

fn seen(certificate: &str, key: &str) -> Seen {
    [certificate, key].map(|path| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
    })
}

fn read(section: &str, certificate: &str, key: &str) -> Result<CertifiedKey> {
    let at = || format!("`{section}` ({certificate}, {key})");
    // Pingora reports a file that it cannot read without the name.
    for (name, path) in [("cert_file", certificate), ("key_file", key)] {
        std::fs::File::open(path).with_context(|| format!("`{section}.{name}` {path}"))?;
    }
    tls::install_default_crypto_provider();
    let provider = CryptoProvider::get_default().context("no cryptography is installed")?;
    let (chain, key) = tls::load_certs_and_key_files(certificate, key)
        .map_err(|error| anyhow!("{error}"))
        .with_context(at)?
        .context("one of the files holds no certificate or no key")
        .with_context(at)?;
    CertifiedKey::from_der(chain, key, provider)
        .context("certificate and key do not go together")
        .with_context(at)
}
