//! A small identity provider for one test: keys of every kind, rotation, and moods.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
}

/// A key pair with a name.
pub(crate) struct SigningKey {
    pub id: String,
    pair: Pair,
}

impl SigningKey {
    pub(crate) fn rsa(id: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        Self { id: id.to_owned(), pair: Pair::Rsa(pair) }
    }

    pub(crate) fn p256(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { id: id.to_owned(), pair: Pair::Ec(pair, "P-256") }
    }

    pub(crate) fn p384(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        Self { id: id.to_owned(), pair: Pair::Ec(pair, "P-384") }
    }

    pub(crate) fn ed25519(id: &str) -> Self {
        Self { id: id.to_owned(), pair: Pair::Ed(Ed25519KeyPair::generate().unwrap()) }
    }

    /// The public half.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": b64(public.n), "e": b64(public.e)})
            }
            Pair::Ec(pair, curve) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(match *curve {
                    "P-256" => 32,
                    _ => 48,
                });
                json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y)})
            }
            Pair::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key().as_ref())})
            }
        };
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk
    }

    /// Signs texts as they are, so that a test can write any header and any claims.
    pub(crate) fn sign_raw(&self, algorithm: &str, header: &str, claims: &str) -> String {
        let body = format!("{}.{}", b64(header), b64(claims));
        let rng = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &rng, body.as_bytes(), &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair, _) => pair.sign(&rng, body.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(body.as_bytes()).as_ref().to_vec(),
        };
        format!("{body}.{}", b64(signature))
    }

    /// A token with this key's usual header.
    pub(crate) fn sign(&self, algorithm: &str, claims: &Value) -> String {
        let header = json!({"alg": algorithm, "kid": self.id, "typ": "at+jwt"}).to_string();
        self.sign_raw(algorithm, &header, &claims.to_string())
    }
}

/// The identity provider.
#[derive(Clone)]
pub(crate) struct Issuer {
    pub origin: String,
    state: Arc<Moods>,
}

struct Moods {
    documents: Mutex<HashMap<String, Document>>,
    /// Answers about tokens; what is not listed is not active.
    active: Mutex<HashMap<String, Value>>,
    fetches: Mutex<HashMap<String, usize>>,
    credentials: Mutex<Vec<String>>,
    questions: AtomicUsize,
    max_age_secs: AtomicUsize,
    down: AtomicBool,
    /// A permit for each answer, while answers are held back.
    held: Mutex<Option<Arc<Semaphore>>>,
}

#[derive(Clone)]
enum Document {
    Json(Value),
    Large(usize),
    Redirect(String),
}

/// A listener behind TLS; a handshake that fails is no connection.
struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (connection, peer) = self.tcp.accept().await.unwrap();
            if let Ok(connection) = self.acceptor.accept(connection).await {
                return (connection, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl Issuer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = Self::at(format!("http://{}", listener.local_addr().unwrap()));
        let router = issuer.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        issuer
    }

    /// One that is reached by https, at `localhost`.
    pub(crate) async fn start_tls(acceptor: TlsAcceptor) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let issuer = Self::at(format!("https://localhost:{port}"));
        let router = issuer.router();
        tokio::spawn(async move { axum::serve(TlsListener { tcp, acceptor }, router).await });
        issuer
    }

    fn router(&self) -> axum::Router {
        axum::Router::new().fallback(serve).with_state(self.clone())
    }

    fn at(origin: String) -> Self {
        let state = Arc::new(Moods {
            documents: Mutex::default(),
            active: Mutex::default(),
            fetches: Mutex::default(),
            credentials: Mutex::default(),
            questions: AtomicUsize::new(0),
            max_age_secs: AtomicUsize::new(0),
            down: AtomicBool::new(false),
            held: Mutex::default(),
        });
        Self { origin, state }
    }

    /// Says for how long documents stay true; 0: says nothing.
    pub(crate) fn set_max_age(&self, secs: usize) {
        self.state.max_age_secs.store(secs, Ordering::SeqCst);
    }

    pub(crate) fn jwks_uri(&self) -> String {
        format!("{}/jwks", self.origin)
    }

    pub(crate) fn publish(&self, keys: &[&SigningKey]) {
        self.publish_jwks(&keys.iter().map(|key| key.jwk()).collect::<Vec<_>>());
    }

    pub(crate) fn publish_jwks(&self, keys: &[Value]) {
        self.serve_at("/jwks", json!({"keys": keys}));
    }

    pub(crate) fn serve_at(&self, path: &str, document: Value) {
        self.state.documents.lock().unwrap().insert(path.to_owned(), Document::Json(document));
    }

    pub(crate) fn serve_bytes_at(&self, path: &str, bytes: usize) {
        self.state.documents.lock().unwrap().insert(path.to_owned(), Document::Large(bytes));
    }

    pub(crate) fn redirect(&self, path: &str, to: &str) {
        let document = Document::Redirect(to.to_owned());
        self.state.documents.lock().unwrap().insert(path.to_owned(), document);
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
    }

    /// Keeps every answer back until as many permits are added as there are requests.
    pub(crate) fn hold(&self) -> Arc<Semaphore> {
        let held = Arc::new(Semaphore::new(0));
        *self.state.held.lock().unwrap() = Some(Arc::clone(&held));
        held
    }

    /// Returns the number of requests for a path.
    pub(crate) fn fetches(&self, path: &str) -> usize {
        self.state.fetches.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    pub(crate) fn set_active(&self, token: &str, answer: Option<Value>) {
        let mut active = self.state.active.lock().unwrap();
        match answer {
            Some(answer) => active.insert(token.to_owned(), answer),
            None => active.remove(token),
        };
    }

    /// Returns the number of introspection requests for a token.
    pub(crate) fn questions(&self) -> usize {
        self.state.questions.load(Ordering::SeqCst)
    }

    /// The `Authorization` headers of those who asked.
    pub(crate) fn credentials(&self) -> Vec<String> {
        self.state.credentials.lock().unwrap().clone()
    }
}

async fn serve(State(issuer): State<Issuer>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    *issuer.state.fetches.lock().unwrap().entry(path.clone()).or_default() += 1;
    let held = issuer.state.held.lock().unwrap().clone();
    if let Some(held) = held {
        held.acquire().await.unwrap().forget();
    }
    if issuer.state.down.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if path == "/introspect" {
        let body = to_bytes(body, 1 << 20).await.unwrap();
        issuer.state.questions.fetch_add(1, Ordering::SeqCst);
        let sent = head.headers.get("authorization").map(|value| value.to_str().unwrap());
        issuer.state.credentials.lock().unwrap().push(sent.unwrap_or_default().to_owned());
        let form = std::str::from_utf8(&body).unwrap();
        let token = form.strip_prefix("token=").and_then(|rest| rest.split('&').next()).unwrap();
        let answer = issuer.state.active.lock().unwrap().get(token).cloned();
        return axum::Json(answer.unwrap_or_else(|| json!({"active": false}))).into_response();
    }
    let document = issuer.state.documents.lock().unwrap().get(&path).cloned();
    match document {
        Some(Document::Json(document)) => {
            let mut answer = axum::Json(document).into_response();
            let secs = issuer.state.max_age_secs.load(Ordering::SeqCst);
            if secs > 0 {
                let value = format!("public, max-age={secs}").parse().unwrap();
                answer.headers_mut().insert("cache-control", value);
            }
            answer
        }
        Some(Document::Large(bytes)) => Body::from(vec![b' '; bytes]).into_response(),
        Some(Document::Redirect(to)) => (StatusCode::FOUND, [("location", to)]).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
