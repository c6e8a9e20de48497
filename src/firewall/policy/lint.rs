//! Advice on regexes of allow policies that let more through than they seem to.

/// Hole in a regex: values that it lets through unexpectedly, and the matcher without that hole.
pub(super) fn advice(regex: &str) -> Option<String> {
    if let Some((_, rest)) = regex.split_once("://") {
        return host_advice(rest);
    }
    if regex.contains(".*@") || regex.contains(".+@") {
        let advice =
            "also matches several mailboxes in one value; use `domain_in = [\"corp.com\"]`";
        return Some(advice.to_owned());
    }
    let open = ["/.*", "/.+", "/(.*)", "/(.+)", "/(?:.*)", "/(?:.+)"];
    let (before, _) = open.iter().find_map(|open| regex.split_once(open))?;
    let folder = before.trim_start_matches(['^', '(']).replace('\\', "");
    let plain = folder.starts_with('/')
        && folder
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'.'));
    let folder = if plain { folder.as_str() } else { "/folder" };
    Some(format!("also matches `{folder}/../etc/passwd`; use `path_under = [\"{folder}\"]`"))
}

/// `rest` is what follows `://`.
fn host_advice(rest: &str) -> Option<String> {
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
    let shown = if is_name(shown) { shown } else { "api.corp.com" };
    Some(format!(
        "has a host that does not end, so it also matches `{shown}.evil.net`; use `host_in = [\"{shown}\"]`"
    ))
}

#[cfg(test)]
mod tests {
    use super::advice;

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
        ] {
            assert_eq!(advice(fine), None, "{fine}");
        }
    }
}
