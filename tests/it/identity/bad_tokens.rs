//! Tokens that must prove nothing, each wrong in one way, and one good one to show that the rest
//! of each is right.

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use crate::support::issuer::{SigningKey, b64};

pub(crate) const AUDIENCE: &str = "https://mcp.example/mcp";

/// Keys that the issuer publishes, and those of an attacker.
pub(crate) struct Keys {
    pub rsa: SigningKey,
    pub pinned: SigningKey,
    pub p256: SigningKey,
    pub p384: SigningKey,
    pub ed: SigningKey,
    pub encryption: SigningKey,
    pub attacker: SigningKey,
}

/// The secret of a shared key that the issuer publishes by mistake.
const SHARED: &[u8] = b"a shared secret of 32 bytes here";

impl Keys {
    pub(crate) fn generate() -> Self {
        Self {
            rsa: SigningKey::rsa("r"),
            pinned: SigningKey::rsa("pinned"),
            p256: SigningKey::p256("e"),
            p384: SigningKey::p384("f"),
            ed: SigningKey::ed25519("d"),
            encryption: SigningKey::rsa("enc"),
            attacker: SigningKey::rsa("a"),
        }
    }

    pub(crate) fn published(&self) -> Vec<Value> {
        let with = |key: &SigningKey, name: &str, value: &str| {
            let mut jwk = key.jwk();
            jwk[name] = json!(value);
            jwk
        };
        vec![
            self.rsa.jwk(),
            with(&self.pinned, "alg", "RS256"),
            self.p256.jwk(),
            self.p384.jwk(),
            self.ed.jwk(),
            with(&self.encryption, "use", "enc"),
            json!({"kty": "oct", "kid": "o", "alg": "HS256", "k": b64(SHARED)}),
        ]
    }
}

/// Claims that are in order.
pub(crate) fn claims(issuer: &str, agent: &str, now_secs: i64) -> Value {
    json!({
        "iss": issuer, "aud": AUDIENCE, "sub": "user:alice", "agent_id": agent,
        "iat": now_secs, "exp": now_secs + 3_600, "jti": "j", "groups": ["ops"], "scope": "read",
    })
}

fn hs(bits: u32, secret: &[u8], header: &Value, claims: &Value) -> String {
    let body = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    let algorithm = match bits {
        384 => hmac::HMAC_SHA384,
        512 => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    let tag = hmac::sign(&hmac::Key::new(algorithm, secret), body.as_bytes());
    format!("{body}.{}", b64(tag.as_ref()))
}

/// Every bad token with what is wrong with it.
pub(crate) fn all(keys: &Keys, good: &Value, own_secret: &[u8]) -> Vec<(String, String)> {
    let mut bad = Vec::new();
    algorithms(&mut bad, keys, good, own_secret);
    key_choices(&mut bad, keys, good);
    claim_values(&mut bad, keys, good);
    claim_texts(&mut bad, keys, good);
    headers(&mut bad, keys, good);
    encodings(&mut bad, keys, good);
    bad
}

type Bad = Vec<(String, String)>;

fn algorithms(bad: &mut Bad, keys: &Keys, good: &Value, own_secret: &[u8]) {
    let text = good.to_string();
    for name in ["none", "None", "NONE", "nOnE", "rs256", "RS257", "ES512", "ES256K", "RSA1_5", ""]
    {
        let header = json!({"alg": name, "kid": "r"}).to_string();
        bad.push((format!("alg `{name}`"), keys.rsa.sign_raw("RS256", &header, &text)));
        let unsigned = format!("{}.{}.", b64(&header), b64(&text));
        bad.push((format!("alg `{name}` without a signature"), unsigned));
    }
    for (what, header) in [
        ("no alg", json!({"kid": "r"})),
        ("alg a number", json!({"alg": 256, "kid": "r"})),
        ("alg null", json!({"alg": null, "kid": "r"})),
        ("alg a list", json!({"alg": ["RS256"], "kid": "r"})),
    ] {
        bad.push((what.to_owned(), keys.rsa.sign_raw("RS256", &header.to_string(), &text)));
    }
    let modulus = keys.rsa.jwk()["n"].as_str().unwrap().to_owned();
    for (what, secret) in [
        ("the modulus", modulus.as_bytes()),
        ("the JWK", keys.rsa.jwk().to_string().as_bytes()),
        ("Arbiter's own secret", own_secret),
        ("nothing", b""),
    ] {
        for (bits, id) in [(256, "r"), (384, "r"), (512, "r"), (256, "e"), (256, "d")] {
            let header = json!({"alg": format!("HS{bits}"), "kid": id, "typ": "JWT"});
            let what = format!("HS{bits} under {what} for key `{id}`");
            bad.push((what, hs(bits, secret, &header, good)));
        }
    }
    let header = json!({"alg": "HS256", "kid": "o"});
    bad.push(("HS256 under a published secret".to_owned(), hs(256, SHARED, &header, good)));
    let header = json!({"alg": "HS256"});
    bad.push(("HS256 without a key id".to_owned(), hs(256, SHARED, &header, good)));
    for (signer, claimed, real) in [
        (&keys.p256, "RS256", "ES256"),
        (&keys.p256, "ES384", "ES256"),
        (&keys.p384, "ES256", "ES384"),
        (&keys.ed, "ES256", "EdDSA"),
        (&keys.rsa, "ES256", "RS256"),
        (&keys.rsa, "EdDSA", "RS256"),
        (&keys.rsa, "PS256", "RS256"),
        (&keys.rsa, "RS256", "RS384"),
        (&keys.rsa, "RS512", "RS256"),
        (&keys.pinned, "RS512", "RS512"),
        (&keys.pinned, "PS256", "PS256"),
    ] {
        let header = json!({"alg": claimed, "kid": signer.id}).to_string();
        let what = format!("{claimed} for key `{}` that signed {real}", signer.id);
        bad.push((what, signer.sign_raw(real, &header, &text)));
    }
}

fn key_choices(bad: &mut Bad, keys: &Keys, good: &Value) {
    let text = good.to_string();
    let jwk = keys.attacker.jwk();
    for (what, header) in [
        ("another key under a known id", json!({"alg": "RS256", "kid": "r"})),
        ("a key nobody publishes", json!({"alg": "RS256", "kid": "a"})),
        ("a key brought along", json!({"alg": "RS256", "kid": "a", "jwk": jwk})),
        ("a known id and a key brought along", json!({"alg": "RS256", "kid": "r", "jwk": jwk})),
        ("a key to be fetched", json!({"alg": "RS256", "kid": "a", "jku": "http://127.0.0.1:1/k"})),
        ("a certificate to be fetched", json!({"alg": "RS256", "x5u": "http://127.0.0.1:1/c"})),
        ("a certificate brought along", json!({"alg": "RS256", "kid": "a", "x5c": ["MIIB"]})),
        ("an id that is a path", json!({"alg": "RS256", "kid": "../../../dev/null"})),
        ("an id that is a query", json!({"alg": "RS256", "kid": "' OR 1=1 --"})),
        ("no id", json!({"alg": "RS256"})),
    ] {
        bad.push((what.to_owned(), keys.attacker.sign_raw("RS256", &header.to_string(), &text)));
    }
    for (what, header) in [
        ("no id though two keys would do", json!({"alg": "RS256"})),
        ("an empty id", json!({"alg": "RS256", "kid": ""})),
        ("an id of another case", json!({"alg": "RS256", "kid": "R"})),
        ("an id that is a number", json!({"alg": "RS256", "kid": 1})),
        ("an id that is null", json!({"alg": "RS256", "kid": null})),
        ("an id that is a list", json!({"alg": "RS256", "kid": ["r"]})),
    ] {
        bad.push((what.to_owned(), keys.rsa.sign_raw("RS256", &header.to_string(), &text)));
    }
    bad.push(("a key for encryption".to_owned(), keys.encryption.sign("RS256", good)));
}

fn claim_values(bad: &mut Bad, keys: &Keys, good: &Value) {
    let now_secs = good["iat"].as_i64().unwrap();
    let issuer = good["iss"].as_str().unwrap();
    for (name, value) in [
        ("iss", json!("https://evil.example")),
        ("iss", json!("arbiter")),
        ("iss", json!(format!("{issuer}/"))),
        ("iss", json!(issuer.to_uppercase())),
        ("iss", json!([issuer])),
        ("iss", json!("")),
        ("iss", Value::Null),
        ("aud", json!("https://mcp.example/")),
        ("aud", json!("https://mcp.example/mcp/")),
        ("aud", json!(format!("{AUDIENCE} {AUDIENCE}"))),
        ("aud", json!([])),
        ("aud", json!(["https://other.example"])),
        ("aud", json!([[AUDIENCE]])),
        ("aud", json!({AUDIENCE: true})),
        ("aud", json!("*")),
        ("aud", Value::Null),
        ("exp", json!(now_secs)),
        ("exp", json!(now_secs - 1)),
        ("exp", json!(0)),
        ("exp", json!(-1)),
        ("exp", json!((now_secs + 600).to_string())),
        ("exp", json!(true)),
        ("exp", Value::Null),
        ("nbf", json!(now_secs + 120)),
        ("nbf", json!((now_secs - 1).to_string())),
        ("iat", json!(now_secs + 120)),
        ("iat", json!({})),
        ("sub", json!("")),
        ("sub", json!(7)),
        ("sub", Value::Null),
        ("agent_id", json!("nobody")),
        ("agent_id", json!(7)),
        ("agent_id", json!([good["agent_id"]])),
        ("groups", json!({"ops": true})),
        ("groups", json!(["ops", 7])),
        ("scope", json!(7)),
        ("jti", json!(7)),
        ("cnf", json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"})),
    ] {
        let mut claims = good.clone();
        let what = format!("{name} is {value}");
        claims[name] = value;
        bad.push((what, keys.rsa.sign("RS256", &claims)));
    }
    for name in ["iss", "aud", "exp", "sub"] {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        bad.push((format!("no {name}"), keys.rsa.sign("RS256", &claims)));
    }
}

fn claim_texts(bad: &mut Bad, keys: &Keys, good: &Value) {
    let text = good.to_string();
    let open = text.strip_suffix('}').unwrap();
    let nested = format!("{}{}", "[".repeat(80), "]".repeat(80));
    for (what, claims) in [
        ("sub twice", format!(r#"{open},"sub":"admin"}}"#)),
        ("sub twice, once escaped", format!(r#"{open},"\u0073ub":"admin"}}"#)),
        ("exp twice", format!(r#"{open},"exp":4102444800}}"#)),
        ("exp with an exponent", text.replacen(r#""exp":"#, r#""exp":1e99,"old":"#, 1)),
        (
            "exp beyond any clock",
            text.replacen(r#""exp":"#, r#""exp":99999999999999999999,"old":"#, 1),
        ),
        ("nbf with an exponent", format!(r#"{open},"nbf":4.1e9}}"#)),
        ("a repeated key deep inside", format!(r#"{open},"x":{{"a":1,"a":2}}}}"#)),
        ("a lone surrogate", format!(r#"{open},"x":"\ud800"}}"#)),
        ("nesting without end", format!(r#"{open},"x":{nested}}}"#)),
        ("a byte order mark", format!("\u{feff}{text}")),
        ("data behind the claims", format!("{text}{{}}")),
        ("a comment", format!("{text}//")),
        ("a comma too many", format!("{open},}}")),
        ("claims that are a list", format!("[{text}]")),
        ("claims that are a text", json!(text).to_string()),
        ("no claims", String::new()),
        ("NaN", format!(r#"{open},"x":NaN}}"#)),
    ] {
        let header = json!({"alg": "RS256", "kid": "r"}).to_string();
        bad.push((what.to_owned(), keys.rsa.sign_raw("RS256", &header, &claims)));
    }
}

fn headers(bad: &mut Bad, keys: &Keys, good: &Value) {
    let text = good.to_string();
    for (what, header) in [
        ("crit", r#"{"alg":"RS256","kid":"r","crit":["exp"],"exp":1}"#),
        ("crit without names", r#"{"alg":"RS256","kid":"r","crit":[]}"#),
        ("crit null", r#"{"alg":"RS256","kid":"r","crit":null}"#),
        (
            "a payload that is not encoded",
            r#"{"alg":"RS256","kid":"r","b64":false,"crit":["b64"]}"#,
        ),
        ("typ of a DPoP proof", r#"{"alg":"RS256","kid":"r","typ":"dpop+jwt"}"#),
        ("typ of a logout token", r#"{"alg":"RS256","kid":"r","typ":"logout+jwt"}"#),
        ("typ of a security event", r#"{"alg":"RS256","kid":"r","typ":"secevent+jwt"}"#),
        ("typ empty", r#"{"alg":"RS256","kid":"r","typ":""}"#),
        ("typ a number", r#"{"alg":"RS256","kid":"r","typ":1}"#),
        ("alg twice", r#"{"alg":"none","kid":"r","alg":"RS256"}"#),
        ("alg twice, once escaped", r#"{"alg":"RS256","kid":"r","\u0061lg":"RS256"}"#),
        ("kid twice", r#"{"alg":"RS256","kid":"a","kid":"r"}"#),
        ("a header that is a list", r#"["RS256"]"#),
        ("a header that is no JSON", "alg=RS256"),
        ("a header with data behind it", r#"{"alg":"RS256","kid":"r"} "x""#),
        ("no header", ""),
    ] {
        bad.push((what.to_owned(), keys.rsa.sign_raw("RS256", header, &text)));
    }
}

fn encodings(bad: &mut Bad, keys: &Keys, good: &Value) {
    let signed = keys.rsa.sign("RS256", good);
    let parts: Vec<&str> = signed.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("three parts") };
    let mut other = good.clone();
    other["sub"] = json!("user:admin");
    let other = b64(other.to_string());
    let (most, last) = signature.split_at(signature.len() - 1);
    let half = signature.split_at(170).0;
    // The last character of 256 bytes carries four bits; the two below them must be zero.
    let loose = char::from(last.as_bytes()[0] + 1);
    let ec = keys.p256.sign("ES256", good);
    let (ec_body, ec_signature) = ec.rsplit_once('.').unwrap();
    let mut add = |what: &str, token: String| bad.push((what.to_owned(), token));
    add("no signature", format!("{header}.{claims}"));
    add("an empty signature", format!("{header}.{claims}."));
    add("four parts", format!("{signed}.x"));
    add("five parts", format!("{signed}.x.y"));
    add("a dot too many", format!("{header}..{claims}.{signature}"));
    add("no dot", signed.replace('.', ""));
    add("one character", "a".to_owned());
    add("two dots", "..".to_owned());
    add("padding", format!("{signed}="));
    add("padded claims", format!("{header}.{claims}==.{signature}"));
    add("the other alphabet", format!("{header}.{claims}.+{most}"));
    add("loose bits at the end", format!("{header}.{claims}.{most}{loose}"));
    add("a character missing", format!("{header}.{claims}.{most}"));
    add("a signature cut in half", format!("{header}.{claims}.{half}"));
    add("a signature with more behind it", format!("{header}.{claims}.{signature}AAAA"));
    add("a signature of zeros", format!("{header}.{claims}.{}", b64([0; 256])));
    add("a signature of ones", format!("{header}.{claims}.{}", b64([0xFF; 256])));
    add("claims of another token", format!("{header}.{other}.{signature}"));
    add("ECDSA zeros", format!("{ec_body}.{}", b64([0; 64])));
    add("ECDSA cut", format!("{ec_body}.{}", ec_signature.split_at(80).0));
    add("an RSA signature for an EC key", format!("{ec_body}.{signature}"));
    add("too long", format!("{header}.{}.{signature}", "A".repeat(32 * 1024)));
    let mut padded = good.clone();
    padded["x"] = json!("x".repeat(32 * 1024));
    add("too long though signed", keys.rsa.sign("RS256", &padded));
}
