//! The configuration from outside: defaults, the shipped file, the environment, bad values.

use super::*;

const KEY: &str = "0123456789abcdef";
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const SHIPPED: &str = include_str!("../../conf/arbiter.toml");

fn env(more: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let mut all = vec![("ARBITER_ADMIN_API_KEY", KEY), ("ARBITER_SIGNING_SECRET", SECRET)];
    all.extend_from_slice(more);
    all.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<Vec<_>>().into_iter()
}

fn good(text: &str, more: &[(&str, &str)]) -> Config {
    Config::from_toml(text, env(more)).unwrap_or_else(|errors| panic!("{text}: {errors}"))
}

fn bad(text: &str, more: &[(&str, &str)]) -> String {
    Config::from_toml(text, env(more)).expect_err(text).to_string()
}

/// Each part of `parts` must be in the message.
fn says(text: &str, parts: &[&str]) {
    let message = bad(text, &[]);
    for part in parts {
        assert!(message.contains(part), "{text}: {message:?} lacks {part:?}");
    }
}

#[test]
fn the_shipped_file_parses_to_the_defaults() {
    assert_eq!(format!("{:?}", good(SHIPPED, &[])), format!("{:?}", good("", &[])));
}

#[test]
fn the_shipped_file_has_every_key() {
    let (_, known) = Config::read(SHIPPED, env(&[])).unwrap();
    let mut shown: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut section = "";
    for line in SHIPPED.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_matches(['[', ']']);
            // Tables below a section are keys of it.
            if let Some((outer, key)) = section.split_once('.') {
                shown.entry(outer).or_default().push(key);
            }
        } else if let Some((key, _)) = line.split_once(" = ") {
            shown.entry(section).or_default().push(key);
        }
    }
    assert_eq!(known.len(), 14);
    for (section, keys) in known {
        for key in keys {
            assert!(shown.get(section).is_some_and(|s| s.contains(&key)), "{section}.{key}");
        }
    }
}

#[test]
fn every_commented_key_of_the_shipped_file_is_a_known_one() {
    let text: String = SHIPPED
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with("[[") => rest,
            Some(rest) if rest.split_once(" = ").is_some_and(|(k, _)| is_key(k)) => rest,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let message = Config::from_toml(&text, env(&[])).expect_err("placeholders").to_string();
    // Placeholders (`…`) are refused; nothing is unknown.
    assert!(!message.contains("known key"), "{message}");
    let keys = [
        "approvals.notify_url",
        "approvals.notify_secret",
        "storage.redis_url",
        "storage.encryption_key",
        "admin.signing_secrets",
    ];
    assert_eq!(message.lines().count(), keys.len(), "{message}");
    for key in keys {
        assert!(message.contains(&format!("`{key}`")), "{key}: {message}");
    }
}

fn is_key(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphabetic() || c == '_')
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = good("", &[]);
    assert_eq!(config.proxy.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:3000");
    assert!(config.proxy.require_session && config.proxy.strict_mcp);
    assert!(config.proxy.deny_non_post_methods && config.audit.enabled);
    assert!(config.audit.require_healthy && config.audit.hash_chain);
    assert_eq!(config.sessions.max_concurrent_sessions_per_agent, 10);
    assert_eq!(config.sessions.unknown_intent, UnknownIntent::Flag);
    assert_eq!(config.proxy.max_in_flight_body_bytes, 268_435_456);
    assert_eq!(config.proxy.max_calls_in_flight, 8_192);
    assert!((config.proxy.max_share_per_agent_pct - 12.5).abs() < f64::EPSILON);
    assert_eq!(config.proxy.max_refusals_per_agent_per_sec, 50);
    assert_eq!(config.proxy.min_body_rate_bytes, 65_536);
    assert_eq!(config.storage.backend, Backend::Memory);
    assert_eq!(config.credentials.provider, None);
    assert_eq!(config.policy.file, None);
}

#[test]
fn the_environment_beats_the_file() {
    let file = "[proxy]\nlisten_port = 1\nblocked_paths = [\"/a\"]\n[admin]\napi_key = \"short\"";
    let config = good(
        file,
        &[
            ("ARBITER_PROXY__LISTEN_PORT", "0"),
            ("ARBITER_PROXY__BLOCKED_PATHS", "/b, /c"),
            ("ARBITER_PROXY__ALLOWED_ORIGINS", r#"["https://a.example"]"#),
            ("ARBITER_PROXY__REQUIRE_SESSION", "false"),
            ("ARBITER_PROXY__UPSTREAM_HEADERS", r#"{"x-key":"${CRED:k}"}"#),
            ("ARBITER_SESSIONS__WARNING_THRESHOLD_PCT", "12.5"),
            ("ARBITER_CREDENTIALS__PROVIDER", "env"),
            ("ARBITER_CRED_some__thing", "x"),
            ("ARBITER_SERVICE_HOST", "10.0.0.1"),
            ("OTHER__THING", "x"),
            (
                "ARBITER_OAUTH__ISSUERS",
                r#"[{"name":"i","issuer_url":"https://i.example","jwks_uri":"https://i.example/k","audiences":["a"]}]"#,
            ),
        ],
    );
    assert_eq!(config.proxy.listen.port(), 0);
    assert_eq!(config.proxy.blocked_paths, ["/b", "/c"]);
    assert_eq!(config.proxy.allowed_origins, ["https://a.example"]);
    assert!(!config.proxy.require_session);
    assert_eq!(config.upstreams[0].headers[0].1.expose(), "${CRED:k}");
    assert!((config.sessions.warning_threshold_pct - 12.5).abs() < f64::EPSILON);
    assert_eq!(config.admin.api_key.unwrap().expose(), KEY);
    assert_eq!(config.oauth.issuers[0].agent_claim, "agent_id");
}

#[test]
fn a_collector_without_a_path_gets_that_of_traces() {
    for (given, expected) in [
        ("http://h:4318", "http://h:4318/v1/traces"),
        ("https://h/", "https://h/v1/traces"),
        ("https://h/otlp/v1/traces", "https://h/otlp/v1/traces"),
    ] {
        let config = good(&format!("[tracing]\notlp_endpoint = \"{given}\""), &[]);
        assert_eq!(config.tracing.otlp_endpoint.as_deref(), Some(expected));
    }
    assert_eq!(good("", &[]).tracing.otlp_endpoint, None, "off unless it is set");
}

#[test]
fn a_bad_variable_is_told_by_its_name() {
    for (name, value, part) in [
        ("ARBITER_PROXY__LISTEN_PORT", "http", "a whole number"),
        ("ARBITER_PROXY__LISTEN_PROT", "1", "did you mean `proxy.listen_port`"),
        ("ARBITER_PROXI__LISTEN_PORT", "1", "did you mean `proxy`"),
        ("ARBITER_PROXY__STRICT_MCP", "yes", "true or false"),
        ("ARBITER_PROXY__UPSTREAM_URL", "", "empty"),
        ("ARBITER_PROXY__BLOCKED_PATHS", "[\"/a\"", "JSON"),
        ("ARBITER_STORAGE_ENCRYPTION_KEY", "abc", "openssl rand -hex 32"),
    ] {
        let message = bad("", &[(name, value)]);
        assert!(message.contains(name) && message.contains(part), "{name}: {message}");
    }
}

#[test]
fn keys_and_secrets_must_be_there_long_and_private() {
    let read = |key: Option<&str>, secret: Option<&str>| {
        let env = [("ARBITER_ADMIN_API_KEY", key), ("ARBITER_SIGNING_SECRET", secret)];
        let env = env.into_iter().filter_map(|(n, v)| Some((n.to_owned(), v?.to_owned())));
        Config::from_toml("", env)
    };
    assert!(read(Some(KEY), Some(SECRET)).is_ok());
    let refused = |key: Option<&str>, secret: Option<&str>, variable: &str, why: &str| {
        let message = read(key, secret).expect_err(why).to_string();
        assert!(message.contains(variable) && message.contains(why), "{message}");
        for value in [key, secret].into_iter().flatten() {
            assert!(!message.contains(value), "{message} quotes a secret");
        }
    };
    let both = ("ARBITER_ADMIN_API_KEY", "ARBITER_SIGNING_SECRET");
    refused(None, Some(SECRET), both.0, "missing");
    refused(Some(KEY), None, both.1, "missing");
    refused(Some("0123456789abcde"), Some(SECRET), both.0, "shorter than 16");
    refused(Some(KEY), Some("0123456789abcdef0123456789abcde"), both.1, "shorter than 32");
    refused(Some("arbiter-dev-key"), Some(SECRET), both.0, "published default");
    let public = "arbiter-dev-secret-change-in-production";
    refused(Some(KEY), Some(public), both.1, "published default");
    refused(Some(public), Some(SECRET), both.0, "published default");
    refused(Some(SECRET), Some(SECRET), both.1, "same as");
}

#[test]
fn no_message_and_no_debug_output_quotes_a_secret() {
    let hidden = "hunter2hunter2";
    for text in [
        format!("[[oauth.issuers]]\nclient_secret = [\"{hidden}\"]"),
        format!("[admin]\napi_key = \"{hidden}"),
        format!("[proxy]\nupstream_url = \"http://u:{hidden}@host\""),
        format!("[storage]\nbackend = \"redis\"\nredis_url = \"redis://:{hidden}@h#\""),
        format!("[proxy.upstream_headers]\nx = \"${{{hidden}}}\""),
    ] {
        assert!(!bad(&text, &[]).contains(hidden), "{text}");
    }
    let config = good(&format!("[proxy.upstream_headers]\nx = \"{hidden}\""), &[]);
    let debug = format!("{config:?}");
    assert!(!debug.contains(hidden) && !debug.contains(KEY), "{debug}");
}

#[test]
fn bad_values_name_key_line_and_remedy() {
    says("[proxy]\n\nlisten_prot = 1", &["line 3", "proxy.listen_prot", "`proxy.listen_port`"]);
    says("[prxy]\nlisten_port = 1", &["line 1", "did you mean `proxy`"]);
    says("[zzzzzzzz]", &["known are: admin, agents, approvals, audit"]);
    says("proxy = 3", &["`proxy`", "a table"]);
    says("[proxy]\nlisten_port = 65536", &["line 2", "proxy.listen_port", "0 to 65535"]);
    says("[proxy]\nlisten_port = -1", &["0 to 65535"]);
    says("[proxy]\nlisten_port = 99999999999999999999", &["0 to 65535"]);
    says("[proxy]\nlisten_port = 80.5", &["whole number", "decimal"]);
    says("[proxy]\nlisten_port = \"80\"", &["whole number", "text"]);
    says("[proxy]\nlisten_addr = \"localhost\"", &["IP address"]);
    says("[proxy]\nupstream_url = \"mcp:8081\"", &["upstream_url"]);
    says("[proxy]\nupstream_url = \"ftp://h\"", &["scheme"]);
    says("[proxy]\nupstream_url = \"http://h/?a=b\"", &["query"]);
    says("[proxy]\nupstream_url = \"http://h/#a\"", &["fragment"]);
    says("[proxy]\nupstream_url = \"http://u@h/\"", &["user name"]);
    says("[proxy]\nupstream_url = \"http://h:0/\"", &["port"]);
    says("[proxy]\nupstream_url = \"http://h:99999/\"", &["port"]);
    says("[tracing]\notlp_endpoint = \"collector:4318\"", &["tracing.otlp_endpoint", "a URL"]);
    says("[tracing]\notlp_endpoint = \"http://u:p@h\"", &["OTEL_EXPORTER_OTLP_HEADERS"]);
    says("[tracing]\nsample_ratio = 1.5", &["tracing.sample_ratio", "line 2"]);
    says("[proxy]\nblocked_paths = [\"admin\"]", &["`admin`", "is not a path"]);
    says("[proxy]\nblocked_paths = \"/admin\"", &["a list"]);
    says("[proxy]\nblocked_paths = [1]", &["only texts"]);
    says("[proxy]\nallowed_origins = [\"*\"]", &["is not an origin"]);
    says("[proxy]\nallowed_origins = [\"https://a.example/x\"]", &["is not an origin"]);
    says("[proxy]\nrefusal_style = \"json\"", &["`json`", "`http`, `result`"]);
    says("[proxy]\nmax_request_body_bytes = 0", &["1 to 1073741824"]);
    says("[proxy]\nmax_in_flight_body_bytes = 5", &["max_request_body_bytes", "raise it"]);
    says("[proxy.upstream_headers]\n\"a b\" = \"x\"", &["upstream_headers.a b", "header name"]);
    says("[proxy.upstream_headers]\nHost = \"x\"", &["set by Arbiter"]);
    says("[proxy.upstream_headers]\nx = \"${CRED:}\"", &["credential"]);
    says("[proxy.upstream_headers]\nx = \"${ENV:a}\"", &["${CRED:name}"]);
    says("[proxy.upstream_headers]\nx = 1", &["upstream_headers.x", "expected text"]);
    says("[proxy.upstream_headers]\nx = \"a\"\nX = \"b\"", &["given twice"]);
    says("[policy]\nwatch = true", &["policy.file"]);
    says("[policy]\nfile = \"\"", &["policy.file", "empty"]);
    says("[sessions]\nwarning_threshold_pct = 101", &["0 to 100"]);
    says("[sessions]\nwarning_threshold_pct = nan", &["0 to 100"]);
    says("[sessions]\ndefault_call_budget = 9007199254740993", &["1 to 9007199254740992"]);
    says("[sessions]\nunknown_intent = \"deny\"", &["`off`, `flag`, `enforce`"]);
    says("[sessions]\nread_intent_keywords = [\"look at\"]", &["one word"]);
    says("[audit]\nredaction_replace = true", &["redact nothing"]);
    says("[audit]\ndurability = \"fsync\"", &["`write`, `sync`"]);
    says("[credentials]\nprovider = \"file\"", &["credentials.file_path"]);
    says("[credentials]\nprovider = \"command\"", &["credentials.command"]);
    says("[credentials]\nprovider = \"vault\"", &["`file`, `env`, `command`"]);
    says("[storage]\nbackend = \"redis\"", &["redis_url", "ARBITER_STORAGE__REDIS_URL"]);
    let redis = "[storage]\nbackend = \"redis\"\nredis_url = ";
    says(&format!("{redis}\"http://h\""), &["line 3", "redis_url", "`redis://"]);
    assert_eq!(bad(&format!("{redis}\"http://h\""), &[]).lines().count(), 1);
    says(&format!("{redis}\"redis://h\"\nredis_prefix = \"{{a}}\""), &["redis_prefix", "`A`-`Z`"]);
    says(&format!("{redis}\"redis://h\"\nredis_ca_file = \"ca.pem\""), &["`rediss://`"]);
    says(&format!("{redis}\"redis://h\"\nredis_timeout_ms = 5"), &["50 to 10000"]);
    says("[metrics]\nrequire_auth = 1", &["true or false"]);
    says("[admin]\ntoken_expiry_secs = 86401", &["1 to 86400"]);
    says("[admin]\nlisten_addr = \"0.0.0.0\"\nlisten_port = 8080", &["same address and port"]);
    says("[proxy\n", &["line 1", "not TOML"]);
    says("[proxy]\nlisten_port = 1\nlisten_port = 2", &["line 3", "not TOML"]);
}

#[test]
fn an_issuer_must_be_complete() {
    let issuer = |more: &str| {
        format!(
            "[[oauth.issuers]]\nname = \"i\"\nissuer_url = \"https://i.example\"\n\
             audiences = [\"a\"]\n{more}"
        )
    };
    good(&issuer("jwks_uri = \"https://i.example/k\""), &[]);
    good(&issuer("jwks_uri = \"http://127.0.0.1:9/k\""), &[]);
    good(&issuer("allow_http = true\njwks_uri = \"http://keycloak:8080/k\""), &[]);
    good(&issuer(""), &[]);
    let plain = issuer("").replace("https://i.example", "http://keycloak:8080");
    says(&plain, &["oauth.issuers[0].issuer_url", "plain http", "jwks_uri", "introspection_url"]);
    says(&issuer("").replace("i.example", "i.example/?a"), &["issuer_url", "query"]);
    good(&(plain + "allow_http = true"), &[]);
    says(&issuer("audiences = []").replacen("audiences = [\"a\"]\n", "", 1), &["audiences"]);
    says(&issuer("jwks_uri = \"http://keycloak:8080/k\""), &["plain http", "allow_http"]);
    let enrols = |more: &str| good(&issuer(more), &[]).oauth.issuers[0].auto_register;
    assert_eq!((enrols(""), enrols("auto_register = true")), (None, Some(1_000)));
    assert_eq!(enrols("auto_register = true\nauto_register_max = 2"), Some(2));
    says(&issuer("auto_register_max = 0"), &["1 to 100000"]);
    says(&issuer("jwks_url = \"https://i.example/k\""), &["`oauth.issuers[0].jwks_uri`"]);
    says(&issuer("introspection_url = \"https://i.example/i\""), &["client_secret"]);
    let two = issuer("jwks_uri = \"https://i.example/k\"\n").repeat(2);
    says(&two, &["two issuers"]);
    says("[[oauth.issuers]]\nname = \"i\"", &["issuer_url", "audiences"]);
    let borrowed = issuer("").replace("audiences = [\"a\"]", "");
    says(&borrowed, &["audiences", "oauth.resource"]);
    let config = good(&format!("[oauth]\nresource = \"https://r.example/mcp\"\n{borrowed}"), &[]);
    assert_eq!(config.oauth.issuers[0].audiences, ["https://r.example/mcp"]);
    says("[oauth]\nissuers = 3", &["[[oauth.issuers]]"]);
}

const HASH: &str = "blake3:00000000000000000000000000000000000000000000000000000000000000aa";

fn admin_key(name: &str, role: &str, more: &str) -> String {
    let twice = HASH.replace("aa", &format!("{:02x}", name.len() + role.len() * 8));
    format!(
        "[[admin.keys]]\nname = \"{name}\"\nrole = \"{role}\"\nkey_hash = \"{twice}\"\n{more}\n"
    )
}

#[test]
fn admin_keys_are_named_and_bounded() {
    let keys = |text: &str| good(text, &[]).admin.keys;
    let one = keys(&admin_key(
        "ci",
        "sessions",
        "owners = [\"team:a\"]\nexpires_at = 2030-01-01T00:00:00Z",
    ));
    assert_eq!((one[0].name.as_str(), one[0].role), ("ci", Role::Sessions));
    assert_eq!((one[0].owners.len(), one[0].max_trust.as_str()), (1, "basic"));
    assert_eq!(one[0].expires_at.unwrap().to_string(), "2030-01-01T00:00:00.000000Z");
    let two = admin_key("a", "viewer", "expires_at = \"2030-01-01T00:00:00Z\"");
    let next = two.replace("0000000", "1111111");
    assert_eq!(keys(&(two.clone() + &next)).len(), 2, "a key and the one that replaces it");
    says(&two.repeat(2), &["`key_hash`", "two entries"]);
    says(&(two.clone() + &next + &two.replace("0000000", "2222222")), &["more than twice"]);
    says(&(two + &next.replace("viewer", "operator")), &["`a`", "two roles"]);
    says(&admin_key("admin", "viewer", ""), &["line 2", "admin.keys[0].name", "choose another"]);
    says(&admin_key("a b", "viewer", ""), &["admin.keys[0].name"]);
    says(&admin_key("a", "root", ""), &["`root`", "`viewer`", "`admin`"]);
    says(&admin_key("a", "viewer", "owners = [\"x\"]"), &["owners", "`sessions` only"]);
    says(&admin_key("a", "viewer", "max_trust = \"basic\""), &["max_trust", "`sessions` only"]);
    says(&admin_key("a", "sessions", ""), &["owners", "[\"*\"]"]);
    says(&admin_key("a", "sessions", "owners = [\"*\", \"x\"]"), &["`*` stands alone"]);
    says(&admin_key("a", "viewer", "expires_at = \"tomorrow\""), &["expires_at", "2030-01-31"]);
    says(&admin_key("a", "viewer", "expires_at = 2030-01-01"), &["expires_at", "zone"]);
    says(&admin_key("a", "viewer", "rate_limit_per_minute = 0"), &["1 to 1000000"]);
    says(&admin_key("a", "viewer", "keyhash = \"x\""), &["keyhash", "`admin.keys[0].key_hash`"]);
    says(
        "[[admin.keys]]\nname = \"a\"",
        &["keys[0].role` is missing", "keys[0].key_hash` is missing", "admin-key new"],
    );
    says(&admin_key("a", "viewer", "").replace("blake3:", "sha256:"), &["key_hash", "`blake3:`"]);
    says(&admin_key("a", "viewer", "").replace("0000000", "ABCDEF0"), &["key_hash"]);
    let own = admin_key("a", "viewer", "");
    let own = own.replace(
        own.split('"').nth(5).unwrap(),
        &format!("blake3:{}", blake3::hash(KEY.as_bytes())),
    );
    says(&own, &["admin.api_key", "second time"]);
    says("[admin]\nwrong_keys_per_minute = 0", &["1 to 1000000"]);
    says("[admin]\nallowed_hosts = [\"http://a\"]", &["allowed_hosts", "without a port"]);
    says("[admin]\ntls = { cert_file = \"a\" }", &["admin.tls", "key_file"]);
    says("[admin]\ntls = { cert_file = \"a\", ca = \"b\", key_file = \"c\" }", &["admin.tls.ca"]);
}

#[test]
fn the_environment_key_may_be_absent_if_another_administrator_has_one() {
    let secret = || [("ARBITER_SIGNING_SECRET".to_owned(), SECRET.to_owned())].into_iter();
    let without = |text: &str| Config::from_toml(text, secret());
    assert!(without(&admin_key("root", "admin", "")).unwrap().admin.api_key.is_none());
    assert!(without(&admin_key("root", "admin", "expires_at = 2020-01-01T00:00:00Z")).is_err());
    assert!(without(&admin_key("root", "operator", "")).is_err());
}

#[test]
fn people_sign_in_with_tokens_of_their_own() {
    let issuer = "[[oauth.issuers]]\nname = \"corp\"\nissuer_url = \"https://i.example\"\n\
                  audiences = [\"agents\"]\n";
    let oidc = "[admin.oidc]\nissuer = \"corp\"\naudiences = [\"operators\"]\nclaim = \"roles\"\n\
                roles = { \"arbiter-ops\" = \"operator\" }\n";
    let admin = good(&format!("{issuer}{oidc}"), &[]).admin;
    let read = admin.oidc.unwrap();
    assert_eq!(
        (read.claim.as_str(), read.roles),
        ("roles", vec![("arbiter-ops".to_owned(), Role::Operator)])
    );
    let bad = |from: &str, to: &str, parts: &[&str]| {
        says(&format!("{issuer}{}", oidc.replace(from, to)), parts);
    };
    bad("\"corp\"", "\"none\"", &["admin.oidc.issuer", "[[oauth.issuers]]"]);
    bad("\"operators\"", "\"agents\"", &["admin.oidc.audiences", "agents' tokens"]);
    bad("audiences = [\"operators\"]\n", "", &["admin.oidc.audiences", "empty"]);
    bad("\"operator\" }", "\"sessions\" }", &["roles.arbiter-ops", "owners"]);
    bad("\"operator\" }", "\"king\" }", &["roles.arbiter-ops", "not a role"]);
    bad("{ \"arbiter-ops\" = \"operator\" }", "{}", &["admin.oidc.roles"]);
    bad("claim", "claims", &["admin.oidc.claims", "known key"]);
}

#[test]
fn all_problems_are_told_at_once() {
    let text = "[proxy]\nlisten_port = -1\nnope = 1\n[audit]\nenabled = 3\n[sessions]\n\
                default_call_budget = 0";
    let Err(errors) = Config::from_toml(text, std::iter::empty()) else { panic!("accepted") };
    let keys: Vec<_> = errors.0.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "proxy.listen_port",
            "proxy.nope",
            "sessions.default_call_budget",
            "audit.enabled",
            "admin.api_key",
            "admin.signing_secret"
        ]
    );
}

#[test]
fn an_upstream_is_read_into_its_parts() {
    let upstream = |url: &str| {
        good(&format!("[proxy]\nupstream_url = \"{url}\""), &[]).upstreams.remove(0).urls.remove(0)
    };
    let parts = upstream("http://mcp:8081/mcp");
    assert_eq!((parts.scheme, parts.host.as_str(), parts.port), (Scheme::Http, "mcp", 8081));
    assert_eq!(parts.path.as_deref(), Some("/mcp"));
    assert_eq!(upstream("https://mcp.example").port, 443);
    assert_eq!(upstream("https://mcp.example/").path, None);
    let v6 = upstream("http://[::1]:9/x");
    assert_eq!((v6.host.as_str(), v6.authority().as_str()), ("::1", "[::1]:9"));
    assert_eq!(v6.to_string(), "http://[::1]:9/x");
}

#[test]
fn a_missing_file_is_told_by_its_path() {
    let path = Path::new("/nonexistent/arbiter.toml");
    let message = Config::load(path, env(&[])).expect_err("no file").to_string();
    assert!(message.contains("/nonexistent/arbiter.toml"), "{message}");
}

#[test]
fn several_upstreams_are_told_apart_by_path_and_name() {
    let two = "[[upstreams]]\nname = \"git\"\npath = \"/git/\"\nurls = [\"http://a:1/mcp\", \"http://b:1/mcp\"]\n\
               [[upstreams]]\nname = \"files\"\npath = \"/v1/files\"\nurls = [\"https://c\"]\n\
               [upstreams.headers]\nx = \"y\"\n";
    let shown = |config: &Config| {
        let shown = |pool: &Pool| {
            format!("{:?} {} {} {}", pool.name, pool.path, pool.urls.len(), pool.headers.len())
        };
        config.upstreams.iter().map(shown).collect::<Vec<_>>().join(", ")
    };
    let named = "Some(\"git\") /git 2 0, Some(\"files\") /v1/files 1 1";
    assert_eq!(shown(&good(two, &[])), named);
    let with_default =
        format!("{two}[proxy]\nupstream_url = \"http://d:1\"\nupstream_headers = {{ a = \"b\" }}");
    assert_eq!(shown(&good(&with_default, &[])), format!("{named}, None / 1 1"));
    assert_eq!(shown(&good("", &[])), "None / 1 0");

    let one = |more: &str| format!("[[upstreams]]\n{more}");
    let git = "name = \"git\"\npath = \"/git\"\nurls = [\"http://a:1\"]\n";
    says(&one(""), &["upstreams[0].name", "upstreams[0].path", "upstreams[0].urls"]);
    says(
        &one("name = \"a:b\"\npath = \"/\"\nurls = [\"http://a\"]"),
        &["upstreams[0].name", "letters"],
    );
    for path in ["git", "//", "/a/../b", "/a//b", "/a%2fb", "/a;b", "/a/./b"] {
        let text = one(&format!("name = \"a\"\npath = \"{path}\"\nurls = [\"http://a\"]"));
        says(&text, &["upstreams[0].path"]);
    }
    says(
        &one("name = \"a\"\npath = \"/\"\nurls = [\"ftp://a\"]"),
        &["upstreams[0].urls", "scheme"],
    );
    says(&one("name = \"a\"\npath = \"/\"\nurls = [\"http://a\", \"http://a:80/\"]"), &["twice"]);
    says(&one(git).repeat(2), &["upstreams[1].name", "upstreams[1].path"]);
    says(&one(&format!("{git}weight = 1")), &["upstreams[0].weight", "not a known key"]);
    says(
        &one(&format!("{git}[proxy.upstream_headers]\na = \"b\"")),
        &["belongs to `proxy.upstream_url`"],
    );
    let root = git.replace("/git", "/");
    says(&one(&format!("{root}[proxy]\nupstream_url = \"http://d:1\"")), &["the path `/`"]);
    says("upstreams = 3", &["[[upstreams]]"]);
}

#[test]
fn tls_needs_both_files() {
    assert_eq!(good("", &[]).proxy.tls, None);
    let tls = good("[proxy.tls]\ncert_file = \"c\"\nkey_file = \"k\"", &[]).proxy.tls.unwrap();
    assert_eq!((tls.cert_file, tls.key_file), ("c".into(), "k".into()));
    says("[proxy.tls]\ncert_file = \"c\"", &["proxy.tls", "key_file"]);
    says("[proxy.tls]\ncert_file = \"c\"\nkey_file = \"k\"\nx = \"\"", &["proxy.tls.x"]);
}

#[test]
fn what_is_hardly_meant_is_said() {
    let issuer = |more: &str| {
        format!(
            "[[oauth.issuers]]\nname = \"a\"\nissuer_url = \"https://i.example\"\naudiences = [\"us\"]\n{more}"
        )
    };
    let check = |text: &str, expected: &[&str]| {
        let hints = good(text, &[]).hints();
        assert_eq!(hints.len(), expected.len(), "{text}: {hints:?}");
        for (hint, part) in hints.iter().zip(expected) {
            assert!(hint.contains(part), "{text}: {hint}");
        }
    };
    check("", &[]);
    check(
        "[proxy]\ntrusted_proxies = [\"10.0.0.0/8\", \"0.0.0.0/0\", \"::/0\"]\n",
        &["0.0.0.0/0", "::/0"],
    );
    check(&issuer(""), &["`http://`"]);
    check(&format!("[proxy]\nlisten_addr = \"127.0.0.1\"\n{}", issuer("")), &[]);
    let local = "[proxy]\nlisten_addr = \"127.0.0.1\"\n";
    let plain = "[oauth]\nresource = \"http://mcp.example/\"\n[[upstreams]]\nname = \"git\"\npath = \"/git\"\n\
                 urls = [\"http://a:1\"]\nresource = \"http://mcp.example/git\"\n";
    check(plain, &["http://mcp.example/ will", "http://mcp.example/git will"]);
    check(&format!("{local}{plain}"), &[]);
    check(&plain.replace("http://mcp", "https://mcp"), &[]);
    let secure = "[proxy.tls]\ncert_file = \"c\"\nkey_file = \"k\"\n";
    check(&format!("{secure}{plain}"), &["speaks TLS", "http://mcp.example/git is named"]);
    check(&format!("{local}{}", issuer("agent_claim = \"iss\"\n")), &["could ever match"]);
    check(&format!("{local}{}", issuer("groups_claim = \"a..b\"\n")), &["empty name"]);
    check(&format!("{local}{}", issuer("groups_claim = \"realm_access.roles\"\n")), &[]);
}

#[test]
fn tokens_for_any_resource_that_metadata_names_are_for_us() {
    let text = r#"
[oauth]
resource = "https://mcp.example/mcp"
[[oauth.issuers]]
name = "a"
issuer_url = "https://i.example"
[[upstreams]]
name = "git"
path = "/git"
urls = ["http://127.0.0.1:1"]
[[upstreams]]
name = "files"
path = "/files"
urls = ["http://127.0.0.1:2"]
resource = "https://files.example"
"#;
    let audiences = &good(text, &[]).oauth.issuers[0].audiences;
    let expected = ["https://mcp.example/mcp", "https://mcp.example/git", "https://files.example"];
    assert_eq!(*audiences, expected);
}
