//! The console from outside, through the router of the admin port and without a socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::header::{CONTENT_TYPE, COOKIE, HOST, HeaderMap, LOCATION, SET_COOKIE};
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;
use crate::admin::Peer;
use crate::admin::tests::{Bench, KEY};
use crate::audit::record::{Decision, Entry};
use crate::firewall::agent::AgentId;
use crate::recent::Seen;

mod large;
mod roles;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A console and one browser.
struct Visitor {
    bench: Bench,
    console: Arc<Console>,
    router: Router,
    from: IpAddr,
    cookies: Vec<(String, String)>,
}

struct Told {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Told {
    fn location(&self) -> &str {
        self.headers.get(LOCATION).map_or("", |value| value.to_str().unwrap())
    }
}

impl Visitor {
    async fn new() -> Self {
        Self::with(Bench::new().await, false)
    }

    fn with(bench: Bench, tls: bool) -> Self {
        let settings =
            Settings { tls, entry_key: [1; 32], log: Some(bench.dir.path().join("audit.jsonl")) };
        let console = Console::new(Arc::clone(&bench.admin), Arc::default(), settings);
        let console = Arc::new(console);
        let router = router(Arc::clone(&console));
        Self { bench, console, router, from: LOOPBACK, cookies: Vec::new() }
    }

    async fn answer(
        &self,
        method: &str,
        path: &str,
        form: Option<&str>,
        more: &[(&str, &str)],
    ) -> Response {
        let cookies: Vec<_> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        if !cookies.is_empty() {
            request = request.header(COOKIE, cookies.join("; "));
        }
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        let body = match form {
            Some(form) => {
                request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
                Body::from(form.to_owned())
            }
            None => Body::empty(),
        };
        let mut request = request.body(body).unwrap();
        request.extensions_mut().insert(ConnectInfo(Peer(SocketAddr::new(self.from, 1))));
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn send(
        &mut self,
        method: &str,
        path: &str,
        form: Option<&str>,
        more: &[(&str, &str)],
    ) -> Told {
        let response = self.answer(method, path, form, more).await;
        let (status, headers) = (response.status(), response.headers().clone());
        for line in headers.get_all(SET_COOKIE) {
            let line = line.to_str().unwrap();
            let (name, rest) = line.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            self.cookies.retain(|(known, _)| known != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 26).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        guarded_well(path, &headers);
        Told { status, headers, text }
    }

    async fn get(&mut self, path: &str) -> Told {
        self.send("GET", path, None, &[]).await
    }

    /// The token in the first form of a page.
    async fn token(&mut self, path: &str) -> String {
        let page = self.get(path).await.text;
        let (_, rest) = page.split_once("name=\"token\" value=\"").expect("a form");
        rest.split_once('"').unwrap().0.to_owned()
    }

    async fn sign_in(&mut self, key: &str) -> Told {
        let token = self.token("/console/sign-in").await;
        let form = format!("token={token}&key={key}&next=/console/live");
        self.send("POST", "/console/sign-in", Some(&form), &[]).await
    }

    async fn signed_in() -> Self {
        let mut visitor = Self::new().await;
        assert_eq!(visitor.sign_in(KEY).await.status, 303);
        visitor
    }

    async fn post(&mut self, path: &str, fields: &str) -> Told {
        let token = self.token("/console").await;
        self.send("POST", path, Some(&format!("token={token}&{fields}")), &[]).await
    }
}

/// Checks the headers that every answer has, whatever it is.
fn guarded_well(path: &str, headers: &HeaderMap) {
    let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
    let policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                  img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    assert_eq!(header("content-security-policy"), policy, "{path}");
    assert_eq!(header("cache-control"), "no-store", "{path}");
    assert_eq!(header("x-frame-options"), "DENY", "{path}");
    assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
}

const PAGES: [&str; 9] = [
    "/console",
    "/console/live",
    "/console/why",
    "/console/sessions",
    "/console/agents",
    "/console/approvals",
    "/console/policies",
    "/console/audit",
    "/console/health",
];

#[tokio::test]
async fn nobody_sees_a_page_without_a_sign_in() {
    let mut visitor = Visitor::new().await;
    for page in PAGES.into_iter().chain(["/console/agents/x", "/console/nothing", "/console/"]) {
        let told = visitor.get(page).await;
        assert_eq!(told.status, 303, "{page}");
        assert!(
            told.location().starts_with("/console/sign-in?next=%2Fconsole"),
            "{}",
            told.location()
        );
    }
    assert_eq!(visitor.get("/console/events?topic=live").await.status, 401);
    let told = visitor.send("POST", "/console/policies/reload", Some("token=x"), &[]).await;
    assert_eq!(told.status, 303);
    for (file, kind) in
        [("console.css", "text/css"), ("console.js", "text/javascript"), ("icon.svg", "image/svg")]
    {
        let told = visitor.get(&format!("/console/files/{file}")).await;
        assert!(told.headers[CONTENT_TYPE].to_str().unwrap().starts_with(kind), "{file}");
    }
    assert_eq!(visitor.get("/console/files/../x").await.status, 303);
    assert_eq!(visitor.get("/console/files/x").await.status, 404);
}

#[tokio::test]
async fn what_changed_before_a_stream_was_open_is_announced_on_it() {
    let mut visitor = Visitor::signed_in().await;
    let page = visitor.get("/console/approvals").await.text;
    let (_, rest) = page.split_once("data-seen=\"").unwrap();
    let seen = rest.split_once('"').unwrap().0;
    for (seen, announced) in [(seen, false), ("7-0-0", true), ("", true), ("1-2", true)] {
        let path = format!("/console/events?topic=approvals&seen={seen}");
        let mut body = visitor.answer("GET", &path, None, &[]).await.into_body();
        let first = tokio::time::timeout(3 * stream::LOOK_EVERY, body.frame()).await;
        let first = first.ok().map(|frame| frame.unwrap().unwrap().into_data().unwrap());
        let expected = announced.then_some("event: refresh\ndata: now\n\n".into());
        assert_eq!(first, expected, "{seen}");
    }
}

#[tokio::test]
async fn every_page_is_shown_after_a_sign_in_and_none_after_a_sign_out() {
    let mut visitor = Visitor::new().await;
    let told = visitor.sign_in(KEY).await;
    assert_eq!((told.status.as_u16(), told.location()), (303, "/console/live"));
    let cookie = told.headers[SET_COOKIE].to_str().unwrap();
    assert!(cookie.starts_with("arbiter-console="), "{cookie}");
    for word in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="] {
        assert!(cookie.contains(word), "{cookie}");
    }
    for page in PAGES {
        let told = visitor.get(page).await;
        assert_eq!(told.status, 200, "{page}: {}", told.text);
        assert!(
            told.text.contains("<h1>") && told.text.contains("aria-current=\"page\""),
            "{page}"
        );
        assert!(!told.text.contains("style=") && !told.text.contains("<script>"), "{page}");
    }
    assert_eq!(visitor.get("/console/nothing").await.status, 404);
    assert_eq!(visitor.send("HEAD", "/console/live", None, &[]).await.status, 200);
    assert_eq!(visitor.send("PUT", "/console/live", None, &[]).await.status, 405);
    let told = visitor.post("/console/sign-out", "").await;
    assert_eq!(told.location(), "/console/sign-in");
    assert_eq!(visitor.get("/console").await.status, 303);
}

#[tokio::test]
async fn a_wrong_key_does_not_lose_the_way() {
    let mut visitor = Visitor::new().await;
    let told = visitor.sign_in("wrong").await;
    assert!(told.text.contains("name=\"next\" value=\"/console/live\""), "{}", told.text);
    assert!(!told.text.contains("value=\"wrong\""), "the key is not shown again");
}

#[tokio::test]
async fn with_tls_the_cookies_are_bound_to_this_host() {
    let mut visitor = Visitor::with(Bench::new().await, true);
    visitor.from = "192.0.2.1".parse().unwrap();
    let told = visitor.sign_in(KEY).await;
    let cookie = told.headers[SET_COOKIE].to_str().unwrap();
    assert!(
        cookie.starts_with("__Host-arbiter-console=") && cookie.ends_with("; Secure"),
        "{cookie}"
    );
    assert_eq!(visitor.get("/console").await.status, 200);
}

#[tokio::test]
async fn nobody_signs_in_over_plain_http_from_elsewhere() {
    let mut visitor = Visitor::signed_in().await;
    visitor.from = "192.0.2.1".parse().unwrap();
    assert_eq!(visitor.get("/console").await.status, 303, "nor is a cookie taken");
    let told = visitor.get("/console/sign-in").await;
    assert_eq!(told.status, 403);
    assert!(!told.text.contains("name=\"key\""));
    let form = format!("key={KEY}");
    let told = visitor.send("POST", "/console/sign-in", Some(&form), &[]).await;
    assert_eq!(told.status, 403);
}

#[tokio::test]
async fn a_wrong_key_counts_like_one_of_the_api() {
    let mut visitor = Visitor::new().await;
    for _ in 0..60 {
        assert_eq!(visitor.sign_in("wrong").await.status, 401);
    }
    let told = visitor.sign_in(KEY).await;
    assert_eq!(told.status, 429, "even the right one: it never succeeded from here");
    assert!(told.headers.contains_key("retry-after"));
    visitor.from = "127.0.0.2".parse().unwrap();
    assert_eq!(visitor.sign_in(KEY).await.status, 303);
}

#[tokio::test]
async fn a_form_needs_the_token_and_the_origin_of_its_page() {
    let mut visitor = Visitor::signed_in().await;
    let token = visitor.token("/console").await;
    let path = "/console/policies/reload";
    let own = format!("token={token}");
    for (form, headers) in [
        ("", vec![]),
        ("token=", vec![]),
        ("token=0000", vec![]),
        (own.as_str(), vec![("origin", "http://evil.example")]),
        (own.as_str(), vec![("sec-fetch-site", "cross-site")]),
        (own.as_str(), vec![("sec-fetch-site", "same-site")]),
    ] {
        let told = visitor.send("POST", path, Some(form), &headers).await;
        assert_eq!(told.status, 403, "{form} {headers:?}");
    }
    let headers = [("origin", "http://localhost"), ("sec-fetch-site", "same-origin")];
    let told = visitor.send("POST", path, Some(&own), &headers).await;
    assert_eq!((told.status.as_u16(), told.location()), (303, "/console/policies?done=reloaded"));
    let mut other = Visitor::with(visitor.bench, false);
    other.sign_in(KEY).await;
    let told = other.send("POST", path, Some(&own), &[]).await;
    assert_eq!(told.status, 403, "another browser's token");
}

#[tokio::test]
async fn a_link_from_another_site_is_asked_for_again_once() {
    let mut visitor = Visitor::signed_in().await;
    let cookies = std::mem::take(&mut visitor.cookies);
    let told = visitor
        .send("GET", "/console/agents?cursor=x", None, &[("sec-fetch-site", "cross-site")])
        .await;
    assert_eq!(told.status, 200);
    assert!(
        told.text.contains("http-equiv=\"refresh\" content=\"0;url=/console/agents?cursor=x\""),
        "{}",
        told.text
    );
    let told =
        visitor.send("GET", "/console/agents", None, &[("sec-fetch-site", "same-origin")]).await;
    assert_eq!(told.status, 303, "without a cookie from here: to the sign-in, no further loop");
    visitor.cookies = cookies;
    assert_eq!(visitor.get("/console/agents").await.status, 200);
}

#[tokio::test]
async fn an_unknown_host_gets_nothing() {
    let mut visitor = Visitor::signed_in().await;
    let told = visitor.send("GET", "/console", None, &[("host", "evil.example")]).await;
    assert_eq!(told.status, 403, "two hosts");
    let request = Request::builder().uri("/console").header(HOST, "evil.example");
    let response =
        visitor.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 403);
}

#[tokio::test]
async fn a_person_has_a_bounded_number_of_pages_a_minute() {
    let mut visitor = Visitor::signed_in().await;
    for _ in 0..PAGES_PER_MINUTE {
        assert_eq!(visitor.get("/console/why").await.status, 200);
    }
    assert_eq!(visitor.get("/console/why").await.status, 429);
    assert_eq!(visitor.get("/console/files/console.css").await.status, 200);
    visitor.bench.admin.clock.advance_us(60_000_000);
    assert_eq!(visitor.get("/console/why").await.status, 200);
}

#[tokio::test]
async fn what_an_agent_says_is_never_markup() {
    let mut visitor = Visitor::signed_in().await;
    let hostile = "<img src=x onerror=alert(1)>\u{202e}\u{1b}[31m";
    let mut entry =
        Entry::new(visitor.bench.admin.clock.now().wall, uuid::Uuid::new_v4(), Decision::Deny);
    entry.tool_called = Some(hostile.into());
    entry.mcp_method = Some(hostile.into());
    entry.agent_id = Some(AgentId::random());
    visitor.console.recent.note(Seen::of(&entry, 1), crate::firewall::time::Mono(0));
    let page = visitor.get("/console/live").await.text;
    assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;"), "{page}");
    assert!(page.contains("U+202E") && page.contains("U+001B"), "{page}");
    assert!(!page.contains("<img src=x") && !page.contains('\u{202e}') && !page.contains('\u{1b}'));
    let page = visitor.get("/console/why?request_id=%3Cscript%3E%22%27").await.text;
    assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"), "{page}");
}

#[tokio::test]
async fn a_call_is_explained_on_the_page() {
    let mut visitor = Visitor::signed_in().await;
    let told = visitor.post("/console/policies/explain", "tool=read_file&arguments=%7B%7D").await;
    assert_eq!(told.status, 200, "{}", told.text);
    assert!(
        told.text.contains("PolicyDenied") && told.text.contains("What would have to differ"),
        "{}",
        told.text
    );
    let told = visitor.post("/console/policies/explain", "tool=read_file&arguments=x").await;
    assert!(told.text.contains("is not JSON"), "{}", told.text);
    let toml = "%5B%5Bpolicies%5D%5D%0Aid%3D%22a%22%0Aeffect%3D%22deny%22";
    let told = visitor.post("/console/policies/validate", &format!("toml={toml}")).await;
    assert!(told.text.contains("New (1)"), "{}", told.text);
    let told = visitor.post("/console/policies/validate", "toml=nonsense").await;
    assert!(told.text.contains("Mistakes"), "{}", told.text);
}
