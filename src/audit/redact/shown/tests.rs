use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;
use crate::json::Doc;

const KEY: [u8; 32] = [7; 32];
const ALL: usize = 64 * 1024;

fn marks(about: &str, secrets: &[&str]) -> Marks {
    let known = Arc::new(Patterns::new(secrets.iter().map(|secret| secret.as_bytes())));
    Marks::new(&KEY, about.as_bytes(), known)
}

fn redactor() -> Redactor {
    Redactor::new(&[], false).unwrap()
}

fn show(json: &str, max_bytes: usize, marks: &Marks) -> (String, bool) {
    let doc = Doc::parse(json.as_bytes()).unwrap();
    let (shown, clipped) = redactor().show(doc.root(), max_bytes, marks);
    (shown.0, clipped)
}

fn shown(json: &str) -> String {
    let (text, clipped) = show(json, ALL, &marks("a session", &[]));
    assert!(!clipped, "{text}");
    text
}

/// The hash in the first mark of a text.
fn hash(text: &str) -> &str {
    let end = text.find(" bytes, ").unwrap() + " bytes, ".len();
    text.get(end..end + SHOWN_DIGITS).unwrap()
}

#[test]
fn a_place_that_is_redacted_has_its_length_and_a_hash_of_its_session() {
    let first = shown(r#"{"user":"bob","password":"hunter2"}"#);
    let mark = format!("[REDACTED 7 bytes, {}]", hash(&first));
    assert_eq!(first, format!(r#"{{"user":"bob","password":"{mark}"}}"#));
    // The same place, spelt otherwise; and within a text.
    assert_eq!(hash(&shown(r#"{ "passwd" : "\u0068unter2"}"#)), hash(&first));
    assert_eq!(shown(r#""user=bob&password=hunter2""#), format!(r#""user=bob&password={mark}""#));
    assert_eq!(shown(r#"[["password","hunter2"]]"#), format!(r#"[["password","{mark}"]]"#));
    let nested = shown(r#"{"body":"{\"token\":\"hunter2\"}"}"#);
    assert_eq!(nested, format!(r#"{{"body":"{{\"token\":\"{mark}\"}}"}}"#));
    // Another value, and the same in another session.
    assert_ne!(hash(&shown(r#"{"password":"hunter3"}"#)), hash(&first));
    let (elsewhere, _) = show(r#"{"password":"hunter2"}"#, ALL, &marks("another session", &[]));
    assert_ne!(hash(&elsewhere), hash(&first));
    // What is no text is hashed as it stands.
    assert!(shown(r#"{"secret":{"a":[1,2]}}"#).starts_with(r#"{"secret":"[REDACTED 11 bytes, "#));
    assert_eq!(shown(r#"{"a":[1,{"b":null}]}"#), r#"{"a":[1,{"b":null}]}"#);
}

#[test]
fn what_is_too_long_is_shown_up_to_the_limit_and_marked() {
    let long = "y".repeat(70_000);
    let marks = marks("a session", &[]);
    let (text, clipped) =
        show(&format!(r#"{{"a":1,"b":["{long}",2],"c":{{}},"d":3}}"#), ALL, &marks);
    assert!(clipped && text.len() > ALL && text.len() < ALL + 400, "{}", text.len());
    let parsed: Json = serde_json::from_str(&text).unwrap();
    let string = parsed["b"][0].as_str().unwrap();
    assert!(string.starts_with(&"y".repeat(60_000)) && string.contains(" [CLIPPED 70002 bytes, "));
    assert!(parsed["b"][1].as_str().unwrap().starts_with("[CLIPPED 2 bytes, "));
    assert!(parsed["[CLIPPED]"].as_str().unwrap().starts_with("[CLIPPED 13 bytes, "));
    assert_eq!((&parsed["a"], parsed.get("c")), (&Json::from(1), None));
    // Another end of what is not shown is another hash.
    let other = format!(r#"{{"a":1,"b":["{long}",2],"c":{{}},"d":4}}"#);
    let (other, _) = show(&other, ALL, &marks);
    let other: Json = serde_json::from_str(&other).unwrap();
    assert_ne!(other["[CLIPPED]"], parsed["[CLIPPED]"]);
    // Marks may take more room than what they stand for.
    let many: Vec<String> = (0..4_000).map(|n| format!(r#""key{n}":1"#)).collect();
    let many = format!("{{{}}}", many.join(",").replace("key", "key_"));
    let (text, clipped) = show(&many, ALL, &marks);
    assert!(many.len() < ALL && clipped && text.len() < ALL + 200, "{}", text.len());
    serde_json::from_str::<Json>(&text).unwrap();
}

#[test]
fn no_part_of_a_known_credential_is_shown_where_a_text_is_clipped() {
    let secret = "tok_live_4f9aC2e7B1d8Kq3Z";
    let marks = marks("a session", &[secret]);
    for lead in 40..140 {
        let text = format!(r#"{{"note":"{}{secret}{}"}}"#, "n".repeat(lead), "m".repeat(200));
        let (shown, clipped) = show(&text, 100, &marks);
        assert!(clipped);
        assert!(!shown.contains("tok_live"), "{shown}");
        serde_json::from_str::<Json>(&shown).unwrap();
    }
}

fn json() -> impl Strategy<Value = Json> {
    let text = "[a-z{}\\[\\]\"=:; \\\\é\n]{0,30}";
    let leaf = prop_oneof![
        any::<i64>().prop_map(Json::from),
        text.prop_map(Json::from),
        "password=[a-z]{1,9}".prop_map(Json::from),
    ];
    let key = prop_oneof!["[a-c]{1,3}", "[a-z\"é]{0,40}", Just("token".to_owned())];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Json::from),
            prop::collection::btree_map(key.clone(), inner, 0..8)
                .prop_map(|members| Json::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Texts with any part left out: the text stays JSON and bounded; where nothing is, it is what the log shows
    /// but for the marks.
    #[test]
    fn what_is_shown_is_json_and_bounded(json in json(), max_bytes in 1_usize..400) {
        let text = json.to_string();
        let marks = marks("a session", &["secretly-known"]);
        let (shown, clipped) = show(&text, max_bytes, &marks);
        let parsed: Json = serde_json::from_str(&shown).unwrap();
        prop_assert!(shown.len() < max_bytes + 1_200, "{} of {max_bytes}: {shown}", shown.len());
        let doc = Doc::parse(text.as_bytes()).unwrap();
        let logged = redactor().redact(doc.root(), usize::MAX, &marks.known);
        if !clipped && logged.as_str() == text {
            prop_assert_eq!(parsed, json);
        }
        prop_assert_eq!(clipped, shown.contains("[CLIPPED"));
    }
}
