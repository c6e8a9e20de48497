//! Sources, good and bad; no error may quote a value.

use std::fs;
use std::path::Path;

use super::*;

const VALUE: &str = "hunter2-hunter2";

fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("credentials.toml");
    fs::write(&path, text).unwrap();
    set_mode(&path, mode);
    (dir, path)
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn from_file(text: &str) -> Result<Secrets, SecretsError> {
    let (_dir, path) = file(text, 0o600);
    Secrets::load(Source::File { path, strict_file_mode: true }, Mono(0))
}

fn value_of(secrets: &Secrets, name: &str) -> String {
    secrets.vault().get(name).unwrap().value.expose().to_owned()
}

fn told(error: &SecretsError) -> String {
    let text = format!("{error} {error:?}");
    assert!(!text.contains("hunter2"), "{text}");
    let source = std::error::Error::source(error);
    format!("{error}: {}", source.map(ToString::to_string).unwrap_or_default())
}

#[test]
fn a_file_holds_values_and_their_restrictions() {
    let secrets = from_file(
        "[credentials]\nplain = \"hunter2-hunter2\"\n\"a.b-c\" = 'x\"y\\z12345'\n\
         full = { value = \"v\", tools = [\"t\"], upstreams = [\"u\"], allow_short = true }\n",
    )
    .unwrap();
    assert_eq!(value_of(&secrets, "plain"), VALUE);
    assert_eq!(value_of(&secrets, "a.b-c"), "x\"y\\z12345");
    let full = secrets.vault().get("full").cloned().unwrap();
    assert_eq!(full.tools.as_deref(), Some(&["t".to_owned()][..]));
    assert_eq!(full.upstreams.as_deref(), Some(&["u".to_owned()][..]));
    assert!(full.allow_short);
    assert_eq!(secrets.warnings().len(), 1);
    assert!(secrets.warnings()[0].ends_with(": full"), "{:?}", secrets.warnings());
    assert!(!format!("{secrets:?}").contains("hunter2"));
}

#[test]
fn a_malformed_file_is_refused_without_quoting_it() {
    for (text, expected) in [
        ("[credentials]\nok = \"x\"\nbad = hunter2\n", "line 3"),
        ("[credentials]\nbad = \"hunter2", "line 2"),
        ("[credentials]\na = \"hunter2\"\na = \"hunter2\"\n", "line 3"),
        ("[credentials]\nbad = 7\n", "`credentials.bad` must be a string"),
        ("[credentials]\nbad = { tools = [] }\n", "`credentials.bad` must be"),
        ("[credentials]\nbad = { value = \"hunter2\", tool = 1 }\n", "`credentials.bad` must be"),
        ("[credentials]\nbad = { value = [\"hunter2\"] }\n", "`credentials.bad` must be"),
        ("[credentials]\n\"a b\" = \"hunter2\"\n", "\"a b\""),
        ("[credentials]\nbad = \"\"\n", "`bad` is empty"),
        ("[other]\n", "`other` is not known"),
        ("credentials = 1\n", "`credentials` must be a table"),
    ] {
        let error = from_file(text).unwrap_err();
        assert!(told(&error).contains(expected), "{text}: {error}");
    }
    let missing = Source::File { path: "/nowhere/at/all".into(), strict_file_mode: false };
    assert!(told(&Secrets::load(missing, Mono(0)).unwrap_err()).contains("/nowhere/at/all"));
}

#[test]
fn a_file_that_others_can_read_is_warned_of_or_refused() {
    let (_dir, path) = file("[credentials]\na = \"hunter2-hunter2\"\n", 0o640);
    let load = |strict_file_mode| {
        Secrets::load(Source::File { path: path.clone(), strict_file_mode }, Mono(0))
    };
    let warnings = load(false).unwrap().warnings();
    assert!(warnings[0].contains("can be read by others (mode 640)"), "{warnings:?}");
    assert!(told(&load(true).unwrap_err()).contains("chmod 600"));
    set_mode(&path, 0o600);
    assert!(load(true).unwrap().warnings().is_empty());
}

#[test]
fn a_reload_swaps_the_set_and_an_error_keeps_it() {
    let (_dir, path) = file("[credentials]\na = \"first-value\"\n", 0o600);
    let source = Source::File { path: path.clone(), strict_file_mode: false };
    let secrets = Secrets::load(source, Mono(0)).unwrap();
    let in_use = secrets.vault();
    fs::write(&path, "[credentials]\na = \"second-value\"\nb = \"other-value\"\n").unwrap();
    assert_eq!(reload(&secrets, Mono(1)).unwrap(), 2);
    assert_eq!(value_of(&secrets, "a"), "second-value");
    assert_eq!(in_use.get("a").unwrap().value.expose(), "first-value");
    fs::write(&path, "[credentials]\na = ").unwrap();
    assert!(reload(&secrets, Mono(2)).is_err());
    assert_eq!(value_of(&secrets, "a"), "second-value");
    fs::write(&path, "[credentials]\na = \"third-value\"\n").unwrap();
    let refuse = |vault: &Vault| -> Result<(), SecretsError> {
        let place = vault.names().concat();
        Err(SecretsError::Vault { place, source: VaultError::Empty(String::new()) })
    };
    assert!(secrets.reload(Mono(3), refuse).is_err());
    assert_eq!(value_of(&secrets, "a"), "second-value");
    assert!(!secrets.is_due(Mono(u64::MAX)));
}

fn reload(secrets: &Secrets, now: Mono) -> Result<usize, SecretsError> {
    secrets.reload(now, |_| Ok(())).map(|(count, ())| count)
}

fn from_env(variables: &[(&str, &str)]) -> Result<Secrets, SecretsError> {
    let variables = variables.iter().map(|(n, v)| (OsString::from(n), OsString::from(v)));
    let environment = Environment::starting_with("ARBITER_CRED_", variables);
    assert!(!format!("{environment:?}").contains("hunter2"));
    Secrets::load(Source::Env { prefix: "ARBITER_CRED_".into(), environment }, Mono(0))
}

#[test]
fn variables_are_known_under_both_spellings() {
    let secrets = from_env(&[("ARBITER_CRED_API_TOKEN", VALUE), ("PATH", "/bin")]).unwrap();
    assert_eq!(secrets.vault().names(), ["API_TOKEN", "api_token"]);
    assert_eq!(value_of(&secrets, "api_token"), VALUE);
    for (variables, expected) in [
        (&[("ARBITER_CRED_A", "hunter2-1"), ("ARBITER_CRED_a", "hunter2-2")][..], "letter case"),
        (&[("ARBITER_CRED_A", "")], "`ARBITER_CRED_A` is empty"),
        (&[("ARBITER_CRED_", "hunter2-1")], "is not 1 to 64 letters"),
    ] {
        assert!(told(&from_env(variables).unwrap_err()).contains(expected));
    }
}

#[test]
fn a_variable_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStringExt as _;
    let value = OsString::from_vec(b"hunter2\xff".to_vec());
    let environment = Environment::starting_with("C_", [(OsString::from("C_A"), value)]);
    let source = Source::Env { prefix: "C_".into(), environment };
    assert!(told(&Secrets::load(source, Mono(0)).unwrap_err()).contains("`C_A` is not UTF-8"));
}

fn script(body: &str) -> Source {
    script_within(body, Duration::from_secs(20))
}

fn script_within(body: &str, timeout: Duration) -> Source {
    Source::Command {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), body.into()],
        ttl: Duration::from_mins(5),
        timeout,
    }
}

#[test]
fn a_command_prints_credentials() {
    for body in [
        r#"printf '{"a":"hunter2-hunter2","b":{"value":"v1234567","tools":["t"]}}'"#,
        r#"printf '{"credentials":{"a":"hunter2-hunter2","b":{"value":"v1234567"}}}'"#,
    ] {
        let secrets = Secrets::load(script(body), Mono(0)).unwrap();
        assert_eq!(value_of(&secrets, "a"), VALUE);
        assert_eq!(secrets.vault().names(), ["a", "b"]);
        assert!(!secrets.is_due(Mono(299_999_999)));
        assert!(secrets.is_due(Mono(300_000_000)));
        reload(&secrets, Mono(300_000_000)).unwrap();
        assert!(!secrets.is_due(Mono(300_000_001)));
    }
}

#[test]
fn a_command_that_fails_is_refused_without_quoting_it() {
    for (body, expected) in [
        ("echo hunter2; exit 3", "failed"),
        ("echo hunter2", "not valid JSON at line 1"),
        (r#"echo '{"a":1}'"#, "`credentials.a` must be"),
        (r#"echo '["hunter2"]'"#, "must be an object"),
        ("echo hunter2 >&2; exit 1", "failed"),
    ] {
        let error = Secrets::load(script(body), Mono(0)).unwrap_err();
        assert!(told(&error).contains(expected), "{body}: {error}");
    }
    let missing = Source::Command {
        program: "/nowhere/vault".into(),
        arguments: Vec::new(),
        ttl: Duration::ZERO,
        timeout: Duration::from_secs(1),
    };
    assert!(told(&Secrets::load(missing, Mono(0)).unwrap_err()).contains("cannot be started"));
}

#[test]
fn a_command_is_bounded_in_time_and_output() {
    let error = |source| told(&Secrets::load(source, Mono(0)).unwrap_err());
    let short = Duration::from_millis(100);
    assert!(error(script_within("exec sleep 600", short)).contains("within 100 ms"));
    assert!(error(script_within("exec >&-; exec sleep 600", short)).contains("does not end"));
    let flood = script("exec tr '\\0' x < /dev/zero");
    assert!(error(flood).contains("printed more than"));
}
