//! People who sign in to the console at an identity provider.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use url::{Url, form_urlencoded};

use crate::support::harness::{Gateway, Setup, Upstream, eventually, json_response};
use crate::support::issuer::{SigningKey, b64};

/// Claims of the next token, on top of those that the provider sets itself.
type Claims = Arc<Mutex<Value>>;

struct Provider {
    at: Upstream,
    claims: Claims,
    /// Challenge of the code that it gave.
    challenge: Arc<Mutex<String>>,
}

impl Provider {
    fn url(&self) -> String {
        format!("http://{}", self.at.address)
    }

    async fn start() -> Self {
        let at = Upstream::start().await;
        let origin = format!("http://{}", at.address);
        let key = SigningKey::p256("k");
        let (claims, challenge) = (Claims::default(), Arc::<Mutex<String>>::default());
        let (told, asked) = (Arc::clone(&claims), Arc::clone(&challenge));
        at.answer_with(move |seen| match seen.path.as_str() {
            "/.well-known/oauth-authorization-server" => json_response(
                &json!({
                    "issuer": origin, "jwks_uri": format!("{origin}/jwks"),
                    "authorization_endpoint": format!("{origin}/authorize?tenant=a"),
                    "token_endpoint": format!("{origin}/token"),
                })
                .to_string(),
            ),
            "/jwks" => json_response(&json!({"keys": [key.jwk()]}).to_string()),
            "/token" => {
                let form: HashMap<_, _> = form_urlencoded::parse(&seen.body).into_owned().collect();
                let basic = format!("Basic {}", STANDARD.encode("console:s%2Fecret"));
                let proved = b64(digest(&SHA256, form["code_verifier"].as_bytes()));
                let good = seen.headers["authorization"] == *basic
                    && form["grant_type"] == "authorization_code"
                    && form["code"] == "good"
                    && form["redirect_uri"].ends_with("/console/sign-in/return")
                    && proved == *asked.lock().unwrap();
                if !good {
                    return StatusCode::BAD_REQUEST.into_response();
                }
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
                let mut all = json!({
                    "iss": origin, "sub": "alice", "aud": "console", "iat": now, "exp": now + 300,
                    "groups": ["approvers"],
                });
                for (name, value) in told.lock().unwrap().as_object().unwrap() {
                    all[name] = value.clone();
                }
                let header = json!({"alg": "ES256", "kid": "k"}).to_string();
                let token = key.sign_raw("ES256", &header, &all.to_string());
                json_response(&json!({"id_token": token, "access_token": "x"}).to_string())
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        });
        Self { at, claims, challenge }
    }
}

/// A browser that keeps cookies and follows nothing by itself.
struct Browser {
    client: reqwest::Client,
    origin: String,
    cookies: HashMap<String, String>,
}

struct Page {
    status: u16,
    location: String,
    cookies: Vec<String>,
    text: String,
}

impl Browser {
    fn of(gateway: &Gateway) -> Self {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { client, origin: format!("http://{}", gateway.admin), cookies: HashMap::new() }
    }

    async fn get(&mut self, path: &str, site: &str) -> Page {
        let cookies: Vec<_> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut request =
            self.client.get(format!("{}{path}", self.origin)).header("sec-fetch-site", site);
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        let answer = request.send().await.unwrap();
        let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
        let set: Vec<_> = answer.headers().get_all("set-cookie").iter().map(text).collect();
        for cookie in &set {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        Page {
            status: answer.status().as_u16(),
            location: answer.headers().get("location").map(text).unwrap_or_default(),
            cookies: set,
            text: answer.text().await.unwrap(),
        }
    }

    /// Goes to the provider; returns what it is asked.
    async fn go(&mut self, provider: &Provider) -> HashMap<String, String> {
        let sent =
            self.get("/console/sign-in/provider?next=%2Fconsole%2Fapprovals", "same-origin").await;
        assert_eq!(sent.status, 303, "{}", sent.text);
        let url = Url::parse(&sent.location).unwrap();
        assert_eq!(url.path(), "/authorize");
        let asked: HashMap<_, _> = url.query_pairs().into_owned().collect();
        provider.challenge.lock().unwrap().clone_from(&asked["code_challenge"]);
        *provider.claims.lock().unwrap() = json!({"nonce": asked["nonce"]});
        asked
    }

    async fn come_back(&mut self, code: &str, state: &str) -> Page {
        self.get(&format!("/console/sign-in/return?code={code}&state={state}"), "cross-site").await
    }
}

async fn start() -> (Provider, Gateway) {
    let provider = Provider::start().await;
    let mut setup = Setup::default().with(
        "admin.oidc",
        "{ issuer = \"corporate\", audiences = [\"arbiter-admin\"], \
           roles = { approvers = \"approver\", scrapers = \"metrics\" }, \
           client_id = \"console\", client_secret = \"s/ecret\" }",
    );
    setup.more = format!(
        "\n[[oauth.issuers]]\nname = \"corporate\"\nissuer_url = \"{}\"\naudiences = [\"agents\"]\n",
        provider.url()
    );
    let gateway = Gateway::start(setup).await;
    (provider, gateway)
}

#[tokio::test]
async fn a_person_signs_in_at_the_provider_and_sees_the_wanted_page() {
    let (provider, gateway) = start().await;
    let mut browser = Browser::of(&gateway);
    let form = browser.get("/console/sign-in", "none").await;
    assert!(form.text.contains("Sign in with corporate"), "{}", form.text);
    let asked = browser.go(&provider).await;
    assert_eq!(
        (asked["client_id"].as_str(), asked["code_challenge_method"].as_str()),
        ("console", "S256")
    );
    assert_eq!((asked["tenant"].as_str(), asked["scope"].as_str()), ("a", "openid"));
    let back = browser.come_back("good", &asked["state"]).await;
    assert_eq!(back.status, 200, "{}", back.text);
    assert!(back.text.contains("content=\"0;url=/console/approvals\""), "{}", back.text);
    let session =
        back.cookies.iter().find(|cookie| cookie.starts_with("arbiter-console=")).unwrap();
    assert!(session.contains("HttpOnly") && session.contains("SameSite=Strict"), "{session}");
    let page = browser.get("/console/approvals", "same-origin").await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("corporate:alice"), "{}", page.text);
    let signed_in = eventually(|| async {
        gateway.records().into_iter().find(|record| record["event"] == "console.sign_in")
    });
    assert_eq!(signed_in.await.expect("on record")["principal"], "corporate:alice");
    // The way back leads there once.
    let again = browser.come_back("good", &asked["state"]).await;
    assert_eq!(again.status, 403);
}

#[tokio::test]
async fn nobody_is_signed_in_by_what_is_not_of_his_own_sign_in() {
    let (provider, gateway) = start().await;
    // Another browser's answer, without a cookie and with one of another sign-in.
    let mut victim = Browser::of(&gateway);
    let asked = Browser::of(&gateway).go(&provider).await;
    assert_eq!(victim.come_back("good", &asked["state"]).await.status, 403);
    victim.go(&provider).await;
    assert_eq!(victim.come_back("good", &asked["state"]).await.status, 403);
    assert!(!provider.at.seen().iter().any(|seen| seen.path == "/token"), "nothing was exchanged");

    let mut browser = Browser::of(&gateway);
    for (code, claims) in [
        ("bad", json!({})),
        ("good", json!({"nonce": "of another sign-in"})),
        ("good", json!({"aud": "agents"})),
        ("good", json!({"aud": ["console", "other"], "azp": "other"})),
        ("good", json!({"groups": ["nobody"]})),
        ("good", json!({"agent_id": "7f3c2a10-1111-4222-8333-444455556666"})),
        ("good", json!({"exp": 1})),
    ] {
        let asked = browser.go(&provider).await;
        for (name, value) in claims.as_object().unwrap() {
            provider.claims.lock().unwrap()[name] = value.clone();
        }
        let back = browser.come_back(code, &asked["state"]).await;
        assert_eq!(back.status, 401, "{code} {claims}");
        assert!(!browser.cookies.contains_key("arbiter-console"), "{code} {claims}");
    }
    let asked = browser.go(&provider).await;
    let other = format!("{}&iss=https%3A%2F%2Fother.example", asked["state"]);
    assert_eq!(browser.come_back("good", &other).await.status, 401, "of another issuer");
    // A role without pages.
    let asked = browser.go(&provider).await;
    provider.claims.lock().unwrap()["groups"] = json!(["scrapers"]);
    assert_eq!(browser.come_back("good", &asked["state"]).await.status, 403);
    assert!(!browser.cookies.contains_key("arbiter-console"));
}
