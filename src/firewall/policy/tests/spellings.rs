//! Law: no respelling that a usual server resolves to the same resource makes a decision laxer.
//!
//! The reference resolver shares no code with the canonical form. The resolver reads a URI as
//! Python's `urllib.parse` and `posixpath.normpath` do, which is how most MCP servers find a file.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;

/// Resource that a usual server reaches: scheme, host with port, path.
type Place = (String, String, String);

fn resolve(uri: &str) -> Option<Place> {
    let uri: String = uri.trim().chars().filter(|c| !matches!(c, '\t' | '\n' | '\r')).collect();
    let (scheme, rest) = uri.split_once(':')?;
    let scheme = scheme.to_lowercase();
    let rest = rest.split(['?', '#']).next().unwrap();
    let (host, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    };
    let host = host.rsplit('@').next().unwrap().to_lowercase();
    let port = match &*scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let host = host.strip_suffix(port).unwrap_or(&host).trim_end_matches('.').to_owned();
    let host = if scheme == "file" { String::new() } else { host };
    let mut kept: Vec<String> = Vec::new();
    for part in unquote(path).replace('\\', "/").split('/') {
        match part {
            "" | "." => {}
            ".." => drop(kept.pop()),
            part => kept.push(part.to_owned()),
        }
    }
    Some((scheme, host, kept.join("/")))
}

fn unquote(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, left @ ..] = rest {
        let code = left
            .get(..2)
            .filter(|_| *byte == b'%')
            .and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        out.push(code.unwrap_or(*byte));
        rest = if code.is_some() { &left[2..] } else { left };
    }
    String::from_utf8_lossy(&out).into_owned()
}

const BASES: [&str; 8] = [
    "file:///etc/passwd",
    "file:///srv/hr/pay.csv",
    "file:///srv/hr",
    "file:///srv/a$b",
    "https://api.corp.com/v1/users",
    "https://api.corp.com/",
    "x://vault/keys/a@b",
    "file:///srv/grüße",
];

const PATTERNS: [&str; 12] = [
    "*",
    "file:///*",
    "file:///etc/*",
    "file:///etc/passwd",
    "file:///srv/*",
    "file:///srv/hr/*",
    "file:///srv/hr/pay.csv",
    "https://api.corp.com/*",
    "https://api.corp.com/v1/users",
    "https://api.corp.com/v1/*",
    "x://vault/*",
    "x://vault/keys/a@b",
];

/// One change of a spelling; which one, where, and with which character.
fn respelled(uri: &str, change: u8, at: usize) -> String {
    let mut places: Vec<usize> = uri.char_indices().map(|(at, _)| at).collect();
    places.push(uri.len());
    let at = places[at % places.len()];
    let behind_scheme = uri.find("://").map_or(0, |at| at + 3);
    let slashes: Vec<usize> =
        uri.match_indices('/').map(|(at, _)| at).filter(|at| *at >= behind_scheme).collect();
    let path = slashes.first().copied().unwrap_or(uri.len());
    let slash = slashes.get(at % slashes.len().max(1)).copied().unwrap_or(path);
    let insert = |at: usize, text: &str| {
        let (before, after) = uri.split_at(at);
        format!("{before}{text}{after}")
    };
    match change {
        0 | 1 if at < uri.len() && at >= path => {
            let (before, after) = uri.split_at(at);
            let mut rest = after.chars();
            let c = rest.next().unwrap().to_string();
            let escaped = c.bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat();
            let escaped = if change == 0 { escaped } else { escaped.to_uppercase() };
            format!("{before}{escaped}{}", rest.as_str())
        }
        2 => insert(slash, "/."),
        3 => insert(slash, "/x/.."),
        4 => insert(slash, "/"),
        5 => insert(slash, "/%2e%2E/x/.."),
        6 => uri.replacen("file", "FILE", 1).replacen("https", "hTTps", 1),
        7 => uri.replacen("file:///", "file://localhost/", 1).replacen(".com/", ".com:443/", 1),
        8 => uri.replacen("file:///", "file:/", 1).replacen("api", "API", 1),
        9 => uri.replacen("://", "://u:p@", 1),
        10 => format!("{uri}/"),
        11 => format!("{uri}#x"),
        12 => format!("{uri}?x=1"),
        13 => insert(slash, "\\"),
        14 => insert(at, "\n"),
        15 => uri.replacen(".com/", ".com./", 1),
        16 => format!("{uri} "),
        17 => insert(slash, "/..%2f..%2f"),
        _ => insert(at, "/../"),
    }
}

fn any_policy() -> impl Strategy<Value = String> {
    let effect = select(&["allow", "allow", "deny", "escalate"][..]);
    let tier = select(&["public", "internal", "restricted"][..]);
    (effect, subsequence(&PATTERNS[..], 1..3), tier, 0..4_u32).prop_map(
        |(effect, resources, tier, priority)| {
            format!(
                "effect = '{effect}'\nallowed_resources = {resources:?}\n\
                 data_sensitivity = '{tier}'\npriority = {priority}\n"
            )
        },
    )
}

/// Degree to which a decision opens: denied, left to a person or to no policy, allowed at a tier that few
/// sessions may reach, or at one that all may.
fn laxness(decision: Decision<'_>) -> (u8, Reverse<Sensitivity>) {
    let closed = Reverse(Sensitivity::Restricted);
    match decision {
        Decision::Deny(_) => (0, closed),
        Decision::NoMatch | Decision::Escalate(_) => (1, closed),
        Decision::Allow(policy) => (2, Reverse(policy.data_sensitivity)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_respelling_is_laxer(
        base in select(&BASES[..]),
        policies in prop::collection::vec(any_policy(), 1..6),
        changes in prop::collection::vec((0..19_u8, 0..40_usize), 1..4),
    ) {
        let texts = policies.iter().enumerate();
        let texts: Vec<_> =
            texts.map(|(n, policy)| format!("[[policies]]\nid = 'p{n}'\n{policy}")).collect();
        let set = set(&texts.concat());
        let other = changes
            .iter()
            .fold(base.to_owned(), |uri, (change, at)| respelled(&uri, *change, *at));
        let same = resolve(&other) == resolve(base);
        let (agent, principal) = (agent(), principal());
        let facts = Facts { agent: &agent, principal: &principal, intent: None };
        let decide = |uri| {
            let asked = Asked::of(Target::Resource(uri));
            let decision = set.evaluate(&facts, &asked);
            assert_eq!(said(decision), said(set.evaluate_plainly(&facts, &asked)), "{uri}");
            laxness(decision)
        };
        if same {
            let (first, second) = (decide(base), decide(&other));
            prop_assert!(second <= first, "{base} {first:?}, {other} {second:?}: {texts:#?}");
        } else {
            decide(&other);
        }
    }
}

/// The trials of the review that found the kind, with the answer that each must have.
#[test]
fn what_evaded_deny_rules_and_tiers_is_refused() {
    let set = set("
        [[policies]]
        id = 'all'
        effect = 'allow'
        allowed_resources = ['file:///*']
        data_sensitivity = 'public'
        [[policies]]
        id = 'hr'
        effect = 'allow'
        allowed_resources = ['file:///srv/hr/*']
        data_sensitivity = 'restricted'
        priority = 100
        [[policies]]
        id = 'etc'
        effect = 'deny'
        allowed_resources = ['file:///etc/*']
        priority = 500");
    for (uri, expected) in [
        ("file:///etc/passwd", "deny etc"),
        ("file:///%65tc/passwd", "deny etc"),
        ("file:///./etc/passwd", "deny etc"),
        ("file:///etc%2Fpasswd", "deny etc"),
        ("FILE://localhost/etc/passwd", "deny etc"),
        ("file://other/etc/passwd", "deny etc"),
        ("file:///x/../etc/passwd?y#z", "deny etc"),
        ("file:////etc/passwd", "deny etc"),
        ("file:///etc", "deny etc"),
        ("file:///srv/hr/pay.csv", "allow hr"),
        ("file:///srv/%68r/pay.csv", "allow hr"),
        ("file:///srv/./hr/pay.csv", "allow hr"),
        ("file:///srv/hr%2Fpay.csv", "deny etc"),
        ("file://x/srv/hr/pay.csv", "no match"),
        ("file:///srv/public.csv", "allow all"),
        ("file:///srv/grüße.txt", "allow all"),
        ("https://h/x", "no match"),
    ] {
        assert_eq!(decide_for(&set, None, Target::Resource(uri), "{}"), expected, "{uri}");
    }
}
