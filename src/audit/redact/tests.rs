use proptest::prelude::*;

use super::*;
use crate::mcp::json::Doc;

const ALL: usize = usize::MAX;

fn redactor() -> Redactor {
    Redactor::new(&[], false).unwrap()
}

fn redact(text: &str, max_bytes: usize) -> String {
    redactor().redact(Doc::parse(text.as_bytes()).unwrap().root(), max_bytes).0
}

#[test]
fn keys_that_name_secrets_are_found() {
    for key in PATTERNS.into_iter().chain([
        "userPassword",
        "UserPassword",
        "USER_PASSWORD",
        "passwords",
        "password2",
        "PASSWORDS",
        "db.password",
        "db-passwd",
        "my pwd",
        "pass_word",
        "PassWord",
        "passWORD",
        "DBpassword",
        "Access-Tokens",
        "accessToken",
        "ACCESSTOKEN",
        "refreshtoken",
        "refresh_tokens",
        "apiToken",
        "x_api_key",
        "X-API-Key",
        "APIKey",
        "APIKeys",
        "apiKEY",
        "APIkey",
        "apikeys",
        "keys",
        "client-secret",
        "clientSecrets",
        "clientsecret",
        "AWSSecretAccessKey",
        "awsSecret",
        "Authorization",
        "proxy-authorization",
        "auth_header",
        "basicAuth",
        "OAuthToken",
        "auth0",
        "credentials",
        "userCreds",
        "private_keys",
        "PrivateKey",
        "privatekey",
        "sshPrivateKeyPem",
        "SSN",
        "ssns",
        "userSSN",
        "SSNNumber",
        "socialSecurityNumber",
        "social-security",
        "creditcard",
        "CreditCards",
        "card.number",
        "cardNumbers",
        "CVV",
        "cvv2",
        "cvc_code",
        "$password",
        "user[password]",
        "auth:token",
        " token ",
        "__token__",
        "toke\u{200b}n",
        "to\u{212a}en",
        "URLtoken",
        "key1",
        "1key",
        "max_tokens",
    ]) {
        assert!(redactor().names_a_secret(key), "{key}");
    }
}

#[test]
fn keys_that_only_look_like_it_are_not() {
    for key in [
        "author",
        "authors",
        "keyboard",
        "monkey",
        "keynote",
        "hockey",
        "passport",
        "compass",
        "tokenizer",
        "secretary",
        "secretariat",
        "credits",
        "credit",
        "card",
        "number",
        "cardinal",
        "privateer",
        "social",
        "security",
        "cvx",
        "path",
        "content",
        "",
        "_",
        "pw",
        "pass",
        "username",
        "OAuthor",
        "authority",
        "Ke_yboard",
        "sessions",
        "ss",
        "s",
        "access",
        "client",
        "refresh",
        "api",
        "APIs",
        "numberOfCards",
        "card_and_number",
        "é",
        "日本",
    ] {
        assert!(!redactor().names_a_secret(key), "{key}");
    }
}

#[test]
fn a_secret_goes_whatever_its_type_and_depth() {
    for (text, expected) in [
        (r#"{"password":"a"}"#, r#"{"password":"[REDACTED]"}"#),
        (r#"{"pass\u0077ord":"a"}"#, r#"{"pass\u0077ord":"[REDACTED]"}"#),
        (r#"{"token":{"a":[1,{"b":2}]},"c":3}"#, r#"{"token":"[REDACTED]","c":3}"#),
        (r#"{"keys":[1,2],"x":null}"#, r#"{"keys":"[REDACTED]","x":null}"#),
        (
            r#"{"secret":null,"pwd":true,"pin":0}"#,
            r#"{"secret":"[REDACTED]","pwd":"[REDACTED]","pin":0}"#,
        ),
        (r#"[[{"a":{"b":[{"apiKey":1}]}}]]"#, r#"[[{"a":{"b":[{"apiKey":"[REDACTED]"}]}}]]"#),
        (r#"{"a":"password","b":"token=1"}"#, r#"{"a":"password","b":"token=1"}"#),
        (r"{}", r"{}"),
        (r"[]", r"[]"),
        (r#""text""#, r#""text""#),
    ] {
        assert_eq!(redact(text, ALL), expected);
    }
}

#[test]
fn everything_else_stays_as_it_came_on_one_line() {
    let text = "{ \"a\" :\r\n [ 1.50e+3 ,\t-0, \"x\\/\\u00e9é\\n\" , true ] ,\n\"b\":{ } }";
    assert_eq!(redact(text, ALL), r#"{"a":[1.50e+3,-0,"x\/\u00e9é\n",true],"b":{}}"#);
    let text = "{\"\u{85}k\":\"a\u{7f}b\u{2028}\u{9b}c😀\"}";
    assert_eq!(redact(text, ALL), r#"{"\u0085k":"a\u007fb\u2028\u009bc😀"}"#);
}

#[test]
fn long_arguments_are_cut_with_their_length_and_hash() {
    let text = format!("{{\"password\":\"hunter2\",\"x\":\"{}\"}}", "é\\n\\\"".repeat(30_000));
    let whole = redact(&text, ALL);
    for max_bytes in [0, 1, 50, 8_192, whole.len() - 1] {
        let cut = redact(&text, max_bytes);
        let cut: serde_json::Value = serde_json::from_str(&cut).unwrap();
        assert_eq!(cut["truncated"], true);
        assert_eq!(cut["bytes"], whole.len());
        assert_eq!(cut["blake3"], blake3::hash(whole.as_bytes()).to_hex().to_string());
        let head = cut["head"].as_str().unwrap();
        assert!(whole.starts_with(head) && head.len() <= (max_bytes / 4).min(1_024));
    }
    assert_eq!(redact(&text, whole.len()), whole);
    assert!(!whole.contains("hunter2"));
}

#[test]
fn a_cut_through_many_small_values_has_the_same_hash() {
    let text = format!("[{}1]", "12345,".repeat(50_000));
    let cut: serde_json::Value = serde_json::from_str(&redact(&text, 100)).unwrap();
    assert_eq!(cut["blake3"], blake3::hash(text.as_bytes()).to_hex().to_string());
    assert_eq!(cut["bytes"], text.len());
}

#[test]
fn a_batch_is_one_list() {
    let one = Doc::parse(br#"{"token":1}"#).unwrap();
    let two = Doc::parse(br#"{"a":2}"#).unwrap();
    let batch = redactor().redact_batch(&[Some(one.root()), None, Some(two.root())], ALL);
    assert_eq!(batch.as_str(), r#"[{"token":"[REDACTED]"},null,{"a":2}]"#);
    assert_eq!(redactor().redact_batch(&[], ALL).as_str(), "[]");
}

#[test]
fn configured_patterns_add_or_replace() {
    let extra = ["patient_id".to_owned(), "Diagnoses".to_owned()];
    let adds = Redactor::new(&extra, false).unwrap();
    assert!(adds.names_a_secret("thePatientID") && adds.names_a_secret("password"));
    assert!(adds.names_a_secret("diagnoses") && !adds.names_a_secret("patient"));
    let replaces = Redactor::new(&extra, true).unwrap();
    assert!(replaces.names_a_secret("patientId") && !replaces.names_a_secret("password"));
    assert_eq!(
        Redactor::new(&["--".to_owned()], false).unwrap_err(),
        EmptyPattern("--".to_owned())
    );
    assert!(!Redactor::new(&[], true).unwrap().names_a_secret("password"));
}

proptest! {
    #[test]
    fn what_is_written_is_json_of_one_line_without_the_secret(
        noise in "\\PC{0,20}",
        depth in 0..20_usize,
        max_bytes in 0..400_usize,
        key in proptest::sample::select(&PATTERNS[..]),
    ) {
        let key = serde_json::to_string(&format!("my-{key}")).unwrap();
        let noise = serde_json::to_string(&noise).unwrap();
        let mut text = format!("{{{noise}:{noise},{key}:[\"hunter2-7f3a\"]}}");
        for _ in 0..depth {
            text = format!("[ {text} , {{\"a\":{text}}}]");
            if text.len() > 20_000 { break; }
        }
        let out = redact(&text, max_bytes);
        prop_assert!(!out.contains("hunter2-7f3a"));
        prop_assert!(!out.contains(breaks_lines));
        prop_assert!(Doc::parse(out.as_bytes()).is_ok(), "{}", out);
    }
}
