use proptest::prelude::*;

use super::*;
use crate::credentials::Patterns;
use crate::json::Doc;

const ALL: usize = usize::MAX;

/// Parts of texts that hold secrets, or nearly.
const PARTS: [&str; 30] = [
    "password",
    "token",
    "n",
    "t",
    "u",
    "\u{212a}ey",
    "author",
    "secrets",
    "=",
    ":",
    " ",
    "\t",
    "\n",
    "\\",
    "\"",
    "'",
    "://",
    "/",
    "@",
    "bob",
    "Bearer ",
    "basic",
    "BASIC ",
    "X1y2",
    "{",
    "}",
    "[",
    "]",
    "${CRED",
    "Cookie",
];

fn redactor() -> Redactor {
    Redactor::new(&[], false).unwrap()
}

fn redact(text: &str, max_bytes: usize) -> String {
    redact_knowing(text, max_bytes, &[])
}

fn redact_knowing(text: &str, max_bytes: usize, secrets: &[&str]) -> String {
    let doc = Doc::parse(text.as_bytes()).unwrap();
    redactor().redact(doc.root(), max_bytes, &known(secrets)).0
}

fn known(secrets: &[&str]) -> Arc<Patterns> {
    Arc::new(Patterns::new(secrets.iter().map(|secret| secret.as_bytes())))
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
        (r#"{"a":"password","b":"token=1"}"#, r#"{"a":"password","b":"token=[REDACTED]"}"#),
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
        assert_eq!(cut["bytes"], text.len());
        let (looked_at, _) = whole.split_at(whole.floor_char_boundary(max_bytes));
        assert_eq!(cut["blake3"], blake3::hash(looked_at.as_bytes()).to_hex().to_string());
        let head = cut["head"].as_str().unwrap();
        assert!(whole.starts_with(head) && head.len() <= (max_bytes / 4).min(1_024));
    }
    assert_eq!(redact(&text, whole.len()), whole);
    assert!(!whole.contains("hunter2"));
}

#[test]
fn a_batch_is_one_list() {
    let one = Doc::parse(br#"{"token":1}"#).unwrap();
    let two = Doc::parse(br#"{"a":2}"#).unwrap();
    let batch =
        redactor().redact_batch(&[Some(one.root()), None, Some(two.root())], ALL, &known(&[]));
    assert_eq!(batch.as_str(), r#"[{"token":"[REDACTED]"},null,{"a":2}]"#);
    assert_eq!(redactor().redact_batch(&[], ALL, &known(&[])).as_str(), "[]");
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

#[test]
fn known_values_are_taken_out_wherever_they_stand() {
    const SECRET: &str = "s3cr3t/value+1";
    for (text, expected) in [
        (r#"{"note":"it is s3cr3t/value+1 !"}"#, r#"{"note":"it is [CREDENTIAL] !"}"#),
        (r#"{"a":[{"s3cr3t/value+1":1}]}"#, r#"{"a":[{"[CREDENTIAL]":1}]}"#),
        (r#"{"n":"s3cr3t\/value\u002b1"}"#, r#"{"n":"[CREDENTIAL]"}"#),
        (r#"{"n":"s3cr3t%2Fvalue%2B1"}"#, r#"{"n":"[CREDENTIAL]"}"#),
        (r#"{"n":"czNjcjN0L3ZhbHVlKzE="}"#, r#"{"n":"[CREDENTIAL]"}"#),
        (r#"{"n":"s3cr3t/value"}"#, r#"{"n":"s3cr3t/value"}"#),
        (r#"{"password":"s3cr3t/value+1"}"#, r#"{"password":"[REDACTED]"}"#),
    ] {
        assert_eq!(redact_knowing(text, ALL, &[SECRET]), expected, "{text}");
    }
    assert_eq!(
        redact_knowing(r#"{"pin":48151623}"#, ALL, &["48151623"]),
        r#"{"pin":"[CREDENTIAL]"}"#
    );
    assert_eq!(scrubbed("tool_s3cr3t/value+1", &known(&[SECRET])), "tool_[CREDENTIAL]");
    assert_eq!(scrubbed("tool", &known(&[SECRET])), "tool");
    let doc = Doc::parse(br#"{"x":"s3cr3t/value+1"}"#).unwrap();
    let batch = redactor().redact_batch(&[Some(doc.root()), None], ALL, &known(&[SECRET]));
    assert_eq!(batch.as_str(), r#"[{"x":"[CREDENTIAL]"},null]"#);
}

#[test]
fn a_known_value_is_not_shown_by_the_cut_nor_hashed() {
    const SECRET: &str = "0123456789-the-secret-9876543210";
    for before in 0..80 {
        let fill = "x".repeat(before);
        let text = format!(r#"{{"a":"{fill}{SECRET}","b":"{}"}}"#, "y".repeat(2_000));
        let cut = redact_knowing(&text, 256, &[SECRET]);
        let cut: serde_json::Value = serde_json::from_str(&cut).unwrap();
        assert_eq!(cut["truncated"], true);
        assert!(!cut["head"].as_str().unwrap().contains("0123"), "{cut}");
        let scrubbed = text.replace(SECRET, "[CREDENTIAL]");
        assert_eq!(cut["bytes"], text.len());
        assert_ne!(cut["blake3"], blake3::hash(&text.as_bytes()[..256]).to_hex().to_string());
        assert!(scrubbed.starts_with(cut["head"].as_str().unwrap()));
    }
}

proptest! {
    /// A secret that the text of a string holds is not overlooked in the string's bytes, however the
    /// string is spelled.
    #[test]
    fn no_secret_of_a_text_goes_without_doubt(
        parts in proptest::collection::vec(proptest::sample::select(&PARTS[..]), 0..8),
        spelling in proptest::collection::vec(0..4_u8, 64),
    ) {
        let text = parts.concat();
        let mut raw = String::from("\"");
        for (n, c) in text.chars().enumerate() {
            let plain = serde_json::to_string(&c).unwrap();
            match spelling[n % spelling.len()] {
                0 if c == '/' => raw.push_str("\\/"),
                1 => raw.extend(c.encode_utf16(&mut [0; 2]).iter().map(|u| format!("\\u{u:04x}"))),
                _ => raw.push_str(plain.get(1..plain.len() - 1).unwrap()),
            }
        }
        raw.push('"');
        prop_assert_eq!(&serde_json::from_str::<String>(&raw).unwrap(), &text);
        let (redactor, mut walk) = (redactor(), Walk::new(None));
        if redactor.text(&text, &mut walk).is_some() {
            prop_assert!(redactor.leaves_doubt(&raw, raw.contains('\\'), &mut walk.words), "{}", raw);
        }
    }

    /// Secrets of any form: what is written is JSON and does not hold it.
    #[test]
    fn any_secret_anywhere_leaves_json_without_it(
        secret in "[a-c\"\\\\:,{}\\[\\]]{4,12}", before in "[a-c\"{}]{0,9}", after in "[a-c\"{}]{0,9}",
    ) {
        let pasted = format!("{before}{secret}{after}");
        let text = serde_json::json!({ "k": [pasted, { &pasted: &secret }], "n": 1 });
        let out = redact_knowing(&text.to_string(), ALL, &[&secret]);
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        let plain = secret.bytes().all(|b| b.is_ascii_alphabetic());
        prop_assert!(!plain || !value.to_string().contains(&secret), "{}", out);
    }

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

/// Shapes in which tools really send secrets, and what stays of each.
#[test]
fn secrets_inside_of_strings_and_pairs_are_found() {
    const X: &str = "hunter2xx";
    for (sent, expected) in [
        (
            r#"{"body":"{\"password\": \"X\", \"n\": 1}"}"#,
            r#"{"body":"{\"password\":\"[REDACTED]\",\"n\":1}"}"#,
        ),
        (r#"{"body":"[{\"api_key\": \"X\"}]"}"#, r#"{"body":"[{\"api_key\":\"[REDACTED]\"}]"}"#),
        (
            r#"{"b":"[\"{\\\"token\\\":\\\"X\\\"}\"]"}"#,
            r#"{"b":"[\"{\\\"token\\\":\\\"[REDACTED]\\\"}\"]"}"#,
        ),
        (r#"{"b":"{\"password\": \"X\", "}"#, r#"{"b":"{\"password\": \"[REDACTED]\", "}"#),
        (r#"{"b":"user=a&password=X&x=1"}"#, r#"{"b":"user=a&password=[REDACTED]&x=1"}"#),
        (r#"{"b":"user%5Bpassword%5D=X&x=1"}"#, r#"{"b":"user%5Bpassword%5D=[REDACTED]&x=1"}"#),
        (r#"{"u":"https://bob:X@h.example/p"}"#, r#"{"u":"https://[REDACTED]@h.example/p"}"#),
        (
            r#"{"u":"https://h/p?access_token=X&q=1#f"}"#,
            r#"{"u":"https://h/p?access_token=[REDACTED]&q=1#f"}"#,
        ),
        (
            r#"{"h":[{"name":"Authorization","value":"Bearer X"}]}"#,
            r#"{"h":[{"name":"Authorization","value":"[REDACTED]"}]}"#,
        ),
        (
            r#"{"h":[{"value":"X","Key":"password"}]}"#,
            r#"{"h":[{"value":"[REDACTED]","Key":"password"}]}"#,
        ),
        (r#"{"h":[{"key":"colour","value":"red"}]}"#, r#"{"h":[{"key":"colour","value":"red"}]}"#),
        (
            r#"{"h":[["X-Api-Key","X"],["Accept","a"]]}"#,
            r#"{"h":[["X-Api-Key","[REDACTED]"],["Accept","a"]]}"#,
        ),
        (
            r#"{"h":["Authorization: Bearer X","Accept: a"]}"#,
            r#"{"h":["Authorization: [REDACTED]","Accept: a"]}"#,
        ),
        (r#"{"h":"Cookie: session=X\nHost: h"}"#, r#"{"h":"Cookie: [REDACTED]\nHost: h"}"#),
        (r#"{"h":{"Cookie":"session=X"}}"#, r#"{"h":{"Cookie":"[REDACTED]"}}"#),
        (
            r#"{"e":["DB_PASSWORD=X","HOME=/root"]}"#,
            r#"{"e":["DB_PASSWORD=[REDACTED]","HOME=/root"]}"#,
        ),
        (
            r#"{"e":"export TOKEN='X' && run --secret=X"}"#,
            r#"{"e":"export TOKEN='[REDACTED]' && run --secret=[REDACTED]"}"#,
        ),
        (
            r#"{"c":"curl -H 'Authorization: Bearer X' https://h"}"#,
            r#"{"c":"curl -H 'Authorization: [REDACTED]' https://h"}"#,
        ),
        (r#"{"h":{"X-Auth":"Basic X"}}"#, r#"{"h":{"X-Auth":"[REDACTED]"}}"#),
        (
            r#"{"t":"send Bearer X, or BASIC X"}"#,
            r#"{"t":"send Bearer [REDACTED], or BASIC [REDACTED]"}"#,
        ),
        (
            r#"{"dbpassword":"X","authtoken":"X","secretkey":"X"}"#,
            r#"{"dbpassword":"[REDACTED]","authtoken":"[REDACTED]","secretkey":"[REDACTED]"}"#,
        ),
        (r#"{"ｐａｓｓｗｏｒｄ":"X"}"#, r#"{"ｐａｓｓｗｏｒｄ":"[REDACTED]"}"#),
        (r#"{"b":"password\u003dX&x=1"}"#, r#"{"b":"password=[REDACTED]&x=1"}"#),
        (r#"{"b":"pass\u0077ord=X&x=1"}"#, r#"{"b":"password=[REDACTED]&x=1"}"#),
        (r#"{"b":"a\npassword\t= X"}"#, r#"{"b":"a\npassword\t= [REDACTED]"}"#),
        (r#"{"b":"to\u212aen: X"}"#, "{\"b\":\"to\u{212a}en: [REDACTED]\"}"),
        (r#"{"u":"https:\/\/bob:X@h\/p"}"#, r#"{"u":"https://[REDACTED]@h/p"}"#),
        (r#"{"t":"bEaReR X"}"#, r#"{"t":"bEaReR [REDACTED]"}"#),
        (r#"{"t":"Bearer\u0020X"}"#, r#"{"t":"Bearer [REDACTED]"}"#),
        (r#"{"b":"\t[[\"X-Api-Key\",\"X\"]]"}"#, r#"{"b":"[[\"X-Api-Key\",\"[REDACTED]\"]]"}"#),
        (
            r#"{"argument":{"name":"token","value":"X"}}"#,
            r#"{"argument":{"name":"token","value":"[REDACTED]"}}"#,
        ),
    ] {
        assert_eq!(redact(&sent.replace('X', X).replace("hunter2xx-A", "X-A"), ALL), expected);
    }
    for kept in [
        r#"{"author":"Jane","keyboard":"q","monkey":"see","tokenizer":"bpe","passage":"t","secretary":"Jo"}"#,
        r#"{"url":"https://h.example/p?q=token"}"#,
        r#"{"text":"the password is kept elsewhere; basic usage at 12:30, a=b"}"#,
        r#"{"text":"{ \"n\" : 1 }","u":"a@b.example:8080/x"}"#,
        r#"{"text":"${CRED:token} and a basic check, bearer of news","u":"http:\/\/h\/@x"}"#,
    ] {
        assert_eq!(redact(kept, ALL), kept);
    }
}

#[test]
fn nothing_is_looked_at_beyond_the_limit() {
    let key = "ABaABa_".repeat(20_000);
    for text in [
        format!("{{\"{key}\":1}}"),
        format!("{{\"a\":\"{key}\"}}"),
        format!("{{\"a\":\"{}\"}}", "\\ud83d\\udd11=".repeat(9_000)),
        format!("{{\"a\":\"{}\"}}", "\\\\".repeat(9_000)),
        format!("[{}1]", "\"password=x\",".repeat(9_000)),
    ] {
        for max_bytes in 256..300 {
            let cut: serde_json::Value = serde_json::from_str(&redact(&text, max_bytes)).unwrap();
            assert_eq!(cut["bytes"], text.len());
            assert!(cut["head"].as_str().unwrap().len() <= max_bytes / 4);
        }
    }
    assert_eq!(redact(&format!("{{\"{}\":1}}", "k".repeat(300)), ALL).matches(MARK).count(), 1);
}

#[test]
fn the_key_of_the_chain_stands_nowhere_else() {
    let text = r#"{"a":1,"chain_record_hash":"x","l":["b","chain_record_hash"]}"#;
    let out = redact(text, ALL);
    assert!(!out.contains("\"chain_record_hash\""), "{out}");
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value, serde_json::from_str::<serde_json::Value>(text).unwrap());
    // Nor where the arguments are cut, or a known secret goes from them.
    let doc = Doc::parse(text.as_bytes()).unwrap();
    for (max_bytes, secret) in (0..=text.len()).flat_map(|n| [(n, "unseen-value"), (n, "x\",\"l")])
    {
        let calls = [Some(doc.root()), Some(doc.root())];
        let batch = redactor().redact_batch(&calls, max_bytes, &known(&[secret]));
        for out in [redact_knowing(text, max_bytes, &[secret]), batch.as_str().to_owned()] {
            assert!(!out.contains("\"chain_record_hash\""), "{out}");
        }
    }
}
