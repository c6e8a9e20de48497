//! An identity provider behind TLS, whose certificate only a private authority vouches for.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::bad_tokens;
use super::providers::{call, now_secs, trusting};
use crate::support::harness::{Answer, Gateway, eventually, refuses_to_start};
use crate::support::issuer::{Issuer, SigningKey};

/// A certificate authority made for one test.
struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    fn make() -> Self {
        let authority = Self { folder: tempfile::tempdir().unwrap() };
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        authority.openssl(&[
            &["req", "-x509"][..],
            &key,
            &["-days", "2", "-subj", "/CN=Test authority", "-keyout", "ca.key", "-out", "ca.pem"],
            &["-addext", "basicConstraints=critical,CA:TRUE"],
        ]);
        authority.openssl(&[
            &["req"][..],
            &key,
            &["-subj", "/CN=provider", "-keyout", "leaf.key", "-out", "leaf.csr"],
        ]);
        authority
    }

    fn openssl(&self, arguments: &[&[&str]]) {
        let mut command = Command::new("openssl");
        command.args(arguments.concat()).current_dir(self.folder.path());
        let made = command.output().expect("openssl is needed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Vouches for a server of this name.
    fn acceptor(&self, name: &str) -> TlsAcceptor {
        let path = |name: &str| self.folder.path().join(name);
        std::fs::write(path("leaf.ext"), format!("subjectAltName=DNS:{name}\n")).unwrap();
        self.openssl(&[
            &["x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key"][..],
            &["-CAcreateserial", "-days", "2", "-extfile", "leaf.ext", "-out", "leaf.pem"],
        ]);
        let _installed_already = rustls::crypto::ring::default_provider().install_default();
        let certificate = CertificateDer::from_pem_file(path("leaf.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(path("leaf.key")).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// An issuer whose keys and metadata are reached by https, and a key of its.
async fn issuer(acceptor: TlsAcceptor) -> (Issuer, SigningKey) {
    let issuer = Issuer::start_tls(acceptor).await;
    let key = SigningKey::p256("e");
    issuer.publish(&[&key]);
    let metadata = json!({"issuer": issuer.origin, "jwks_uri": issuer.jwks_uri()});
    issuer.serve_at("/.well-known/oauth-authorization-server", metadata);
    (issuer, key)
}

fn trusted(issuer: &Issuer, ca_file: Option<PathBuf>) -> Value {
    let mut settings = json!({"name": "private", "issuer_url": issuer.origin});
    if let Some(path) = ca_file {
        settings["ca_file"] = json!(path);
    }
    json!([settings])
}

async fn first_call(gateway: &Gateway, issuer: &Issuer, key: &SigningKey) -> Answer {
    let session = gateway.session(json!({})).await;
    let claims = bad_tokens::claims(&issuer.origin, &gateway.agent.id, now_secs());
    call(gateway, &session, &key.sign("ES256", &claims)).await
}

#[tokio::test]
async fn metadata_and_keys_come_by_https_under_the_configured_authority() {
    let authority = Authority::make();
    let (issuer, key) = issuer(authority.acceptor("localhost")).await;
    let gateway = Gateway::start(trusting(&trusted(&issuer, Some(authority.file())))).await;
    let answer = first_call(&gateway, &issuer, &key).await;
    assert_eq!(answer.status, 200, "{:?}", answer.json());
}

#[tokio::test]
async fn an_issuer_asked_about_tokens_is_asked_by_https_too() {
    let authority = Authority::make();
    let (issuer, _) = issuer(authority.acceptor("localhost")).await;
    let mut settings = trusted(&issuer, Some(authority.file()));
    settings[0]["introspection_url"] = json!(format!("{}/introspect", issuer.origin));
    settings[0]["client_id"] = json!("arbiter");
    settings[0]["client_secret"] = json!("secret");
    let gateway = Gateway::start(trusting(&settings)).await;
    let mut answer = bad_tokens::claims(&issuer.origin, &gateway.agent.id, now_secs());
    answer["active"] = json!(true);
    issuer.set_active("opaque-1", Some(answer));
    let session = gateway.session(json!({})).await;
    assert_eq!(call(&gateway, &session, "opaque-1").await.status, 200);
    assert_eq!(call(&gateway, &session, "opaque-2").await.status, 401);
}

#[tokio::test]
async fn a_certificate_that_the_authority_does_not_vouch_for_brings_no_keys() {
    let (authority, stranger) = (Authority::make(), Authority::make());
    for (what, acceptor, ca_file, reason) in [
        (
            "another authority",
            authority.acceptor("localhost"),
            Some(stranger.file()),
            "invalid peer certificate",
        ),
        ("the system's", authority.acceptor("localhost"), None, "invalid peer certificate"),
        (
            "another name",
            authority.acceptor("other.example"),
            Some(authority.file()),
            "not valid for name",
        ),
    ] {
        let (issuer, key) = issuer(acceptor).await;
        let gateway = Gateway::start(trusting(&trusted(&issuer, ca_file))).await;
        let answer = first_call(&gateway, &issuer, &key).await;
        assert_eq!((answer.status, &*answer.code()), (503, "IdentityUnavailable"), "{what}");
        assert_eq!(answer.header("www-authenticate"), None, "{what}: its token may be good");
        assert_eq!(answer.header("retry-after"), Some("5"), "{what}");
        assert_eq!(gateway.upstream.calls(), 0, "{what}");
        assert_eq!(issuer.fetches("/jwks"), 0, "{what}");
        let log = gateway.folder.path().join("log.txt");
        let said = eventually(async || {
            let log = std::fs::read_to_string(&log).unwrap();
            log.lines().find(|line| line.contains("no keys yet")).map(str::to_owned)
        });
        let said = said.await.expect("a line that says so");
        assert!(said.contains("private") && said.contains(reason), "{what}: {said}");
    }
}

#[tokio::test]
async fn an_authority_that_cannot_be_read_is_told_at_the_start() {
    let authority = Authority::make();
    let (issuer, _) = issuer(authority.acceptor("localhost")).await;
    let none = authority.folder.path().join("none.pem");
    let no_pem = authority.folder.path().join("leaf.ext");
    for (file, reason) in [(none, "cannot be read"), (no_pem, "holds no certificates")] {
        let (code, said) = refuses_to_start(&trusting(&trusted(&issuer, Some(file)))).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(
            said.contains("ca_file") && said.contains("private") && said.contains(reason),
            "{said}"
        );
    }
}
