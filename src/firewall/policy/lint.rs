//! Advice on regexes of allow policies that let more through than they seem to.

/// Hole in a regex: values that it lets through unexpectedly, and the matcher without that hole. `matches`
/// is the compiled regex, which is asked about such values.
pub(super) fn advice(regex: &str, matches: impl Fn(&str) -> bool) -> Option<String> {
    if let Some((_, rest)) = regex.split_once("://") {
        let begun = literal_start(&regex.replacen("https?", "https", 1));
        let named = begun.split_once("://").and_then(|(_, rest)| rest.split(['/', ':']).next());
        let named = named.filter(|host| leads_on(host, &matches)).map(str::to_owned);
        return open_host(rest).or(named).map(|host| host_advice(&host, &matches));
    }
    if regex.contains(".*@") || regex.contains(".+@") {
        return Some(mailbox_advice("corp.com"));
    }
    if let Some((_, domain)) = regex.rsplit_once('@') {
        let domain = domain.trim_end_matches([')', '$']).replace('\\', "");
        let is_name = domain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
        let several = format!("x@evil.net,a@{domain}");
        return (is_name && matches(&several)).then(|| mailbox_advice(&domain));
    }
    let open = ["/.*", "/.+", "/(.*)", "/(.+)", "/(?:.*)", "/(?:.+)"];
    let Some((before, _)) = open.iter().find_map(|open| regex.split_once(open)) else {
        return tried_path(regex, matches);
    };
    let folder = before.trim_start_matches(['^', '(']).replace('\\', "");
    let plain = folder.starts_with('/')
        && folder
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'.'));
    Some(path_advice(if plain { &folder } else { "/folder" }, "/../etc/passwd"))
}

/// `way` leads out of the folder.
fn path_advice(folder: &str, way: &str) -> String {
    format!("also matches `{folder}{way}`; use `path_under = [\"{folder}\"]`")
}

fn mailbox_advice(domain: &str) -> String {
    format!("also matches several mailboxes in one value; use `domain_in = [\"{domain}\"]`")
}

/// Tries to leave the folder that the regex begins with, by whatever it allows behind: `/projects/\S+`.
fn tried_path(regex: &str, matches: impl Fn(&str) -> bool) -> Option<String> {
    let start = literal_start(regex);
    let (folder, _) = start.strip_prefix('/')?.rsplit_once('/')?;
    let ways = ["/../etc/passwd", "/a/../../etc/passwd", "/../x.txt", "/..", "/../a"];
    let way = ways.iter().find(|way| matches(&format!("/{folder}{way}")))?;
    Some(path_advice(&format!("/{folder}"), way))
}

/// Tries to lead to another host, by whatever the regex allows behind the name: `https://api\.corp\.com\S*`.
fn leads_on(host: &str, matches: impl Fn(&str) -> bool) -> bool {
    let ways = [".evil.net", ".evil.net/", "@evil.net", "@evil.net/", ":x@evil.net/"];
    let leads = |scheme: &str, way: &str| matches(&format!("{scheme}://{host}{way}"));
    !host.is_empty() && ways.iter().any(|way| leads("https", way) || leads("http", way))
}

fn host_advice(host: &str, matches: impl Fn(&str) -> bool) -> String {
    let why = if leads_on(host, matches) {
        format!("has a host that does not end, so it also matches `{host}.evil.net`")
    } else {
        "does not say where its host begins and ends".to_owned()
    };
    format!("{why}; use `host_in = [\"{host}\"]`")
}

/// The text that all matches of a regex begin with, or one of its branches.
fn literal_start(regex: &str) -> String {
    let mut rest = regex.trim_start_matches(['^', '(']).chars();
    let mut start = String::new();
    while let Some(next) = rest.next() {
        let literal = match next {
            '\\' => rest.next().filter(|escaped| !escaped.is_ascii_alphanumeric()),
            '.' | '[' | '(' | ')' | '|' | '$' | '^' | '+' => None,
            '*' | '?' | '{' => {
                start.pop();
                None
            }
            other => Some(other),
        };
        let Some(literal) = literal else { break };
        start.push(literal);
    }
    start
}

/// Returns the host that a regex leaves open; `rest` is what follows `://`.
fn open_host(rest: &str) -> Option<String> {
    let end = rest.find(['/', ':']);
    let host = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
    let name = host.replace("\\.", ".");
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
    };
    let anchored = end.is_some() || rest.ends_with('$');
    if anchored && is_name(name.trim_end_matches('$')) && !host.replace("\\.", "").contains('.') {
        return None;
    }
    let shown: String =
        name.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).collect();
    let shown = shown.trim_end_matches('.');
    Some(if is_name(shown) { shown.to_owned() } else { "api.corp.com".to_owned() })
}

#[cfg(test)]
mod tests {
    use crate::firewall::policy::regexes::Regexes;

    fn advice(regex: &str) -> Option<String> {
        let pattern = Regexes::new(1 << 20, &|| false).whole(regex).unwrap();
        super::advice(regex, |value| pattern.is_match(value))
    }

    #[test]
    fn what_is_open_gets_a_matcher() {
        for (regex, matcher) in [
            ("/projects/.*", "path_under = [\"/projects\"]"),
            ("^/srv/data/.+$", "path_under = [\"/srv/data\"]"),
            ("(/a|/b)/.*", "path_under = [\"/folder\"]"),
            (r"https://api\.corp\.com.*", "host_in = [\"api.corp.com\"]"),
            (r"https?://api\.corp\.com", "host_in = [\"api.corp.com\"]"),
            (r"https://api.corp.com/.*", "host_in = [\"api.corp.com\"]"),
            (r"https://.*\.corp\.com/.*", "host_in = [\"api.corp.com\"]"),
            (r".*@corp\.com", "domain_in = [\"corp.com\"]"),
            (r"\S+@corp\.com", "domain_in = [\"corp.com\"]"),
            (r"[^ ]+@eu\.corp\.com$", "domain_in = [\"eu.corp.com\"]"),
            (r"/projects/\S+", "path_under = [\"/projects\"]"),
            (r"/srv/data/[\w./-]*", "path_under = [\"/srv/data\"]"),
            (r"/srv/[^/].*\.txt", "path_under = [\"/srv\"]"),
            (r"https://api\.corp\.com\S*", "host_in = [\"api.corp.com\"]"),
            (r"https?://api\.corp\.com[^ ]*", "host_in = [\"api.corp.com\"]"),
        ] {
            let advice = advice(regex).unwrap_or_else(|| panic!("{regex}"));
            assert!(advice.contains(matcher), "{regex}: {advice}");
        }
        for fine in [
            "[a-z]+",
            "/projects(/[A-Za-z0-9][A-Za-z0-9_.-]*)+",
            r"https://api\.corp\.com/v1/.*",
            r"https://api\.corp\.com:8443/.*",
            r"[a-z]+@corp\.com",
            r"[^@,; ]+@corp\.com",
            r"/projects/\w+",
            r"/projects/[a-z]+\.md",
            r"/\w+",
        ] {
            assert_eq!(advice(fine), None, "{fine}");
        }
    }
}
