use super::*;

#[tokio::test]
async fn policies_are_validated_offline() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    let shown = file.display();
    fs::write(&file, POLICIES).unwrap();
    for path in [file.as_path(), dir.path()] {
        let ran = run(&format!("policy validate {}", path.display()), &[]).await;
        assert_eq!(ran.exit, Exit::Fine, "{ran:?}");
        assert!(ran.out.starts_with("1 policies"), "{ran:?}");
    }
    fs::write(&file, "[[policies]]\nid = \"a\"\neffect = \"permit\"\n").unwrap();
    let ran = run(&format!("policy validate {shown}"), &[]).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.out.contains("p.toml:3:"), "{ran:?}");
    let ran = run(&format!("policy validate {shown} --json"), &[]).await;
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&told["valid"], &told["errors"][0]["line"]), (&false.into(), &3.into()));
    let ran = run("policy validate /nonexistent.toml", &[]).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.out.contains("nonexistent"), "{ran:?}");
}

#[tokio::test]
async fn a_call_is_explained_offline_and_by_a_running_arbiter() {
    let arbiter = Running::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    fs::write(&file, POLICIES).unwrap();
    fs::write(arbiter.bench.policies(), POLICIES).unwrap();
    arbiter.bench.admin.rulebook.reload().unwrap();
    let offline = format!("--file {}", file.display());
    for (amount, exit, told) in [
        ("9007199254740993", Exit::Fine, "allow by policy `big`"),
        ("9007199254740994", Exit::No, "deny: PolicyDenied, no policy allows"),
    ] {
        let line = format!("policy explain --tool pay --arguments {{\"n\":{amount}}}");
        let ran = run(&format!("{line} {offline}"), &[]).await;
        assert_eq!(ran.exit, exit, "{amount}: {ran:?}");
        assert!(ran.out.starts_with(told) && ran.out.contains("POLICY_ID"), "{ran:?}");
    }
    // serde's numbers pass through a running Arbiter's client as they are up to 2^64.
    let line = "policy explain --tool pay --arguments {\"n\":9007199254740994}";
    assert_eq!(arbiter.run(line).await.exit, Exit::No);
    assert_eq!(
        arbiter.run("policy explain --tool pay --arguments {\"n\":1}").await.exit,
        Exit::Fine
    );
    let ran = run(&format!("policy explain --tool pay --arguments [ {offline}"), &[]).await;
    assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
    let id = "11111111-2222-4333-8444-555555555555";
    let ran = run(&format!("policy explain --tool pay --agent {id} {offline}"), &[]).await;
    assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
    let sub = "policy explain --tool pay --sub u --group g --scope s --intent read";
    let ran = run(&format!("{sub} --capability c --trust-level basic {offline}"), &[]).await;
    assert_eq!(ran.exit, Exit::No, "the argument is required: {ran:?}");
}
