use super::*;

const SECRETS: [(&str, &str); 2] = [
    ("ARBITER_ADMIN_API_KEY", KEY),
    ("ARBITER_SIGNING_SECRET", "0123456789abcdef0123456789abcdef"),
];

#[tokio::test]
async fn the_doctor_finds_what_is_well_and_what_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    fs::write(at("p.toml"), POLICIES).unwrap();
    fs::write(at("c.toml"), "[credentials]\ndb = \"hunter2hunter2\"\n").unwrap();
    fs::write(at("not.db"), "this is text, and long enough to be read as a header of a page")
        .unwrap();
    let check = async |toml: String| {
        fs::write(at("arbiter.toml"), toml).unwrap();
        run(&format!("check --config {}", at("arbiter.toml").display()), &SECRETS).await
    };
    let base = |policy: &str, more: &str| {
        let dir = dir.path().display();
        format!(
            "[proxy]\nlisten_port = 0\nlisten_addr = \"127.0.0.1\"\n\
             upstream_url = \"http://127.0.0.1:{port}\"\n[policy]\nfile = \"{dir}/{policy}\"\n\
             [audit]\nfile_path = \"{dir}/new/audit.jsonl\"\n[credentials]\nprovider = \"file\"\n\
             file_path = \"{dir}/c.toml\"\n{more}"
        )
    };
    let db = at("arbiter.db");
    let sqlite = |path: &str| {
        format!(
            "[storage]\nbackend = \"sqlite\"\nsqlite_path = \"{path}\"\n[admin]\nlisten_port = 0"
        )
    };
    let traces = format!("\n[tracing]\notlp_endpoint = \"http://127.0.0.1:{port}\"");
    let ran = check(base("p.toml", &(sqlite(&db.display().to_string()) + &traces))).await;
    assert_eq!(ran.exit, Exit::Fine, "{ran:?}");
    for line in [
        "ok    policies     1 in",
        "ok    audit log",
        "ok    storage",
        "ok    upstream",
        "ok    collector",
    ] {
        assert!(ran.out.contains(line), "{line}: {ran:?}");
    }
    assert!(!ran.out.contains("hunter2") && !ran.out.contains(KEY), "{ran:?}");
    // Looking leaves nothing behind.
    assert!(!db.exists() && !at("new").exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);

    let ran = check(base("none.toml", "[admin]\nlisten_port = 0")).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.out.contains("fail  policies"), "{ran:?}");
    assert!(ran.out.contains("warn  storage"), "{ran:?}");
    let ran = check(base("p.toml", &format!("[admin]\nlisten_port = {port}"))).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.out.contains("fail  admin port"), "{ran:?}");
    // Under systemd that port is held for the service.
    let held = format!("check --socket-activated --config {}", at("arbiter.toml").display());
    let ran = run(&held, &SECRETS).await;
    assert_eq!(ran.exit, Exit::Fine, "{ran:?}");
    assert!(!ran.out.contains("admin port"), "{ran:?}");
    let ran = check(base("p.toml", &sqlite(&at("not.db").display().to_string()))).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.out.contains("fail  storage"), "{ran:?}");
    let header = "[admin]\nlisten_port = 0\n[proxy.upstream_headers]\nx = \"${CRED:none}\"";
    let ran = check(base("p.toml", header)).await;
    assert_eq!(ran.exit, Exit::No);
    let place =
        |line: usize, key: &str| format!("{}:{line}: `{key}`", at("arbiter.toml").display());
    let lines =
        |text: &str, key: &str| 1 + text.lines().position(|line| line.starts_with(key)).unwrap();
    let given = base("p.toml", header);
    let line = place(lines(&given, "x ="), "proxy.upstream_headers.x");
    assert!(ran.out.contains(&format!("fail  credentials  {line}: credential `none`")), "{ran:?}");
    let missing = base("none.toml", "[proxy.tls]\ncert_file = \"c.pem\"\nkey_file = \"k.pem\"");
    let ran = check(missing.clone()).await;
    let line = place(lines(&missing, "[proxy.tls]"), "proxy.tls");
    assert!(
        ran.out.contains(&format!("{line}: `proxy.tls.cert_file` c.pem: No such file")),
        "{ran:?}"
    );
    let line = place(lines(&missing, "file ="), "policy.file");
    assert!(
        ran.out.contains(&format!("fail  policies     {line}: cannot read policies")),
        "{ran:?}"
    );
    let ran = check("[proxy]\nlisten_prot = 1\n[nope]\n".to_owned()).await;
    assert_eq!((ran.exit, ran.out.lines().count()), (Exit::Usage, 2), "{ran:?}");
    let json = format!("check --json --config {}", at("arbiter.toml").display());
    let ran = run(&json, &SECRETS).await;
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(told[0]["result"], "fail", "{ran:?}");
}

#[tokio::test]
async fn the_doctor_says_what_is_wrong_with_redis() {
    let dir = tempfile::tempdir().unwrap();
    let toml = dir.path().join("arbiter.toml");
    let check = async |url: &str| {
        let audit = dir.path().join("audit.jsonl");
        let text = format!(
            "[proxy]\nlisten_port = 0\n[admin]\nlisten_port = 0\n[audit]\nfile_path = \"{}\"\n\
             [storage]\nbackend = \"redis\"\nredis_url = \"{url}\"",
            audit.display()
        );
        fs::write(&toml, text).unwrap();
        let ran = run(&format!("check --config {}", toml.display()), &SECRETS).await;
        assert!(!format!("{ran:?}").contains("hunter2"), "{ran:?}");
        ran.out.lines().find(|line| line.contains("  storage  ")).unwrap().to_owned()
    };
    let forgetful = RedisServer::start().await;
    let address = format!("127.0.0.1:{}", forgetful.port);
    let said = check(&format!("redis://{address}")).await;
    assert!(said.starts_with("warn") && said.contains("`appendonly yes`"), "{said}");
    let said = check(&format!("redis://:hunter2@{address}")).await;
    assert!(said.starts_with("fail") && said.contains("user or the password"), "{said}");
    let said = check(&format!("rediss://{address}")).await;
    assert!(said.starts_with("fail") && said.contains("speak TLS"), "{said}");
    drop(forgetful);
    let said = check(&format!("redis://{address}")).await;
    assert!(said.starts_with("fail") && said.contains("cannot be reached"), "{said}");
    let durable = RedisServer::keeping_everything().await;
    let said = check(&format!("redis://127.0.0.1:{}", durable.port)).await;
    assert!(said.starts_with("ok") && said.contains("`appendfsync always`"), "{said}");
}
