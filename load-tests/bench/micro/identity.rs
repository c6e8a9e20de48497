//! Cost of a token: remembered, of either kind, and seen for the first time.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a measurement that cannot start should stop"
)]

use std::cell::Cell;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use arbiter::clock::Clock;
use arbiter::config::{Issuer, Oauth};
use arbiter::firewall::agent::{Agent, AgentId};
use arbiter::firewall::time::Timestamp;
use arbiter::identity::Identity;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use divan::{Bencher, black_box};
use serde_json::json;
use tokio::runtime::Runtime;

#[expect(dead_code, reason = "each target takes what it needs")]
#[path = "../../../src/testkit.rs"]
mod testkit;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW_SECS: i64 = 1_800_000_000;

/// Tokens made beforehand for the calls that must each see a new one.
const FRESH: usize = 1_000;

fn main() {
    divan::main();
}

struct Bench {
    runtime: Runtime,
    clock: Clock,
    identity: Identity,
    key: RsaKeyPair,
    issuer_url: String,
    agent: AgentId,
}

impl Bench {
    fn start() -> Self {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = PublicKeyComponents::<Vec<u8>>::from(key.public_key());
        let jwk = json!({"kty": "RSA", "kid": "k", "n": b64(public.n), "e": b64(public.e)});
        let issuer_url = serve(json!({"keys": [jwk]}).to_string());
        let runtime = Runtime::new().unwrap();
        let clock = Clock::manual(Timestamp::from_secs(NOW_SECS));
        let issuer = Issuer {
            name: "bench".to_owned(),
            issuer_url: issuer_url.clone(),
            jwks_uri: Some(format!("{issuer_url}/jwks")),
            audiences: vec!["us".to_owned()],
            allow_http: false,
            ca_file: None,
            agent_claim: "agent_id".to_owned(),
            groups_claim: "groups".to_owned(),
            introspection: None,
            introspection_grace_secs: 0,
            auto_register: None,
        };
        let oauth = Oauth { jwks_cache_ttl_secs: 3_600, resource: None, issuers: vec![issuer] };
        let identity =
            Identity::with_issuers(SECRET.as_bytes(), &oauth, &clock, runtime.handle()).unwrap();
        Self { runtime, clock, identity, key, issuer_url, agent: AgentId::random() }
    }

    fn rs256(&self, n: usize) -> String {
        let header = b64(r#"{"alg":"RS256","kid":"k","typ":"at+jwt"}"#);
        let claims = json!({
            "iss": self.issuer_url, "aud": "us", "sub": "user:alice", "agent_id": self.agent,
            "iat": NOW_SECS, "exp": NOW_SECS + 3_600, "jti": n.to_string(), "scope": "read write",
        });
        let body = format!("{header}.{}", b64(claims.to_string()));
        let mut signature = vec![0; self.key.public_modulus_len()];
        let random = SystemRandom::new();
        self.key.sign(&RSA_PKCS1_SHA256, &random, body.as_bytes(), &mut signature).unwrap();
        format!("{body}.{}", b64(signature))
    }

    fn hs256(&self) -> String {
        let agent = Agent { owner: "user:alice".to_owned(), ..testkit::agent(self.agent) };
        testkit::token(SECRET, &agent, Timestamp::from_secs(NOW_SECS))
    }

    fn remembered(&self, bencher: Bencher<'_, '_>, token: &str) {
        let now = self.clock.now();
        self.runtime.block_on(self.identity.verify(token, now)).unwrap();
        bencher.bench(|| self.identity.remembered(black_box(token), now).unwrap().unwrap());
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Answers every request with one document.
fn serve(document: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            lines.by_ref().find(String::is_empty);
            let length = document.len();
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n");
            write!(&stream, "{head}\r\n{document}").unwrap();
        }
    });
    url
}

#[divan::bench]
fn remembered_hs256(bencher: Bencher<'_, '_>) {
    let bench = Bench::start();
    bench.remembered(bencher, &bench.hs256());
}

#[divan::bench]
fn remembered_rs256(bencher: Bencher<'_, '_>) {
    let bench = Bench::start();
    bench.remembered(bencher, &bench.rs256(0));
}

#[divan::bench(sample_count = 100, sample_size = 10)]
fn first_seen_rs256(bencher: Bencher<'_, '_>) {
    let bench = Bench::start();
    let now = bench.clock.now();
    bench.runtime.block_on(bench.identity.verify(&bench.rs256(FRESH + 1), now)).unwrap();
    let tokens: Vec<String> = (0..FRESH).map(|n| bench.rs256(n)).collect();
    let next = Cell::new(tokens.iter());
    bencher.bench_local(|| {
        let mut rest = next.take();
        let token = rest.next().unwrap();
        next.set(rest);
        bench.runtime.block_on(bench.identity.verify(token, now)).unwrap()
    });
}
