//! Secrets of Arbiter's own tokens: the first signs, all verify, so that one can be replaced while
//! tokens of the other are in use.

use super::Secret;
use super::check::Section;
use super::file::Origin;

/// Secrets that may be in force together: a token without a key's id is tried with each.
pub const MAX_SIGNING_SECRETS: usize = 8;

/// Least length of a signing secret, in bytes.
const MIN_BYTES: usize = 32;

/// The values that the public project compiled in; anyone who reads its source knows them.
const PUBLIC_DEFAULTS: [&str; 2] = ["arbiter-dev-key", "arbiter-dev-secret-change-in-production"];

const VARIABLE: &str = "ARBITER_SIGNING_SECRET";

/// Secrets of Arbiter's own tokens; no two are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningSecrets {
    signing: Secret,
    verifying: Vec<Secret>,
}

impl SigningSecrets {
    /// The secret that signs new tokens.
    pub fn signing(&self) -> &Secret {
        &self.signing
    }

    /// Every secret that verifies tokens, the signing one first.
    pub fn all(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.signing).chain(&self.verifying)
    }

    fn of(mut secrets: Vec<Secret>) -> Option<Self> {
        if secrets.is_empty() {
            return None;
        }
        let signing = secrets.remove(0);
        secrets.retain(|secret| *secret != signing);
        Some(Self { signing, verifying: secrets })
    }
}

/// Reads one secret, a list of them, or the environment's and the list.
pub(super) fn read(s: &mut Section<'_>) -> Option<SigningSecrets> {
    let single_at = s.origin("signing_secret").or_else(|| s.origin("signing_secret_file"));
    let list_at = s.origin("signing_secrets");
    let listed = list(s, list_at.as_ref());
    match (single_at, list_at) {
        (None, Some(_)) => {
            // Asked for all the same, so that the names are known ones.
            let _none = s.secret_or_file("signing_secret", "signing_secret_file");
            SigningSecrets::of(listed?)
        }
        (single, list_at) => {
            if let (Some(Origin::Line(_)), Some(at)) = (&single, list_at) {
                let problem = "is given together with `admin.signing_secret`; keep the list alone \
                               and put the secret that signs first";
                s.problem("signing_secrets", Some(at), problem);
            }
            let names = ("signing_secret", "signing_secret_file");
            let signing = secret(s, names, MIN_BYTES, VARIABLE)?;
            let mut secrets = vec![signing];
            secrets.extend(listed?);
            SigningSecrets::of(secrets)
        }
    }
}

/// Reads `signing_secrets`; an empty list where there is none, `None` where it is wrong.
fn list(s: &mut Section<'_>, at: Option<&Origin>) -> Option<Vec<Secret>> {
    const KEY: &str = "signing_secrets";
    let texts = s.list(KEY);
    if at.is_none() {
        return Some(Vec::new());
    }
    let secrets: Vec<Secret> = texts?.into_iter().map(Secret::new).collect();
    let problem = if secrets.is_empty() {
        Some(
            "is empty; list the secret that signs first, then those that verify as well".to_owned(),
        )
    } else if secrets.len() > MAX_SIGNING_SECRETS {
        Some(format!("holds more than {MAX_SIGNING_SECRETS} secrets; remove the oldest"))
    } else {
        let twin = |(n, secret)| secrets.iter().take(n).any(|other: &Secret| other == secret);
        let fault = secrets.iter().find_map(|secret| fault(secret, MIN_BYTES));
        match fault {
            Some(fault) => Some(format!("holds a secret that {fault}; replace it")),
            None if secrets.iter().enumerate().any(twin) => {
                Some("holds one secret twice; remove one".to_owned())
            }
            None => None,
        }
    };
    match problem {
        Some(problem) => {
            s.problem(KEY, at.cloned(), problem);
            None
        }
        None => Some(secrets),
    }
}

/// Reads a key or secret, given itself or by a file, that must be there, be long enough and not be a
/// published one.
pub(super) fn secret(
    s: &mut Section<'_>,
    (name, file_name): (&'static str, &'static str),
    min_bytes: usize,
    variable: &str,
) -> Option<Secret> {
    let origin: Option<Origin> = s.origin(name).or_else(|| s.origin(file_name));
    let Some(secret) = s.secret_or_file(name, file_name) else {
        // A value of the wrong type has been reported already.
        if origin.is_none() {
            let advice = "set the environment variable";
            s.problem(name, None, format!("is missing; {advice} {variable} or {variable}_FILE"));
        }
        return None;
    };
    if let Some(fault) = fault(&secret, min_bytes) {
        let advice = "set the environment variable";
        s.problem(name, origin, format!("{fault}; {advice} {variable} to a value of your own"));
        return None;
    }
    Some(secret)
}

/// Returns the reason why a secret will not do, if there is one.
pub(super) fn fault(secret: &Secret, min_bytes: usize) -> Option<String> {
    if PUBLIC_DEFAULTS.contains(&secret.expose()) {
        return Some("is a published default, known to everyone".to_owned());
    }
    if secret.expose().len() < min_bytes {
        return Some(format!("is shorter than {min_bytes} bytes"));
    }
    None
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    const KEY: &str = "0123456789abcdef";
    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn read(toml: &str, env: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let env = env.iter().chain(&[("ARBITER_ADMIN_API_KEY", KEY)]);
        let env = env.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config =
            Config::from_toml(&format!("[admin]\n{toml}"), env.collect::<Vec<_>>().into_iter());
        let config = config.map_err(|errors| errors.to_string())?;
        Ok(config.admin.signing_secrets.all().map(|s| s.expose().to_owned()).collect())
    }

    fn list(secrets: &[&str]) -> String {
        format!("signing_secrets = {secrets:?}")
    }

    #[test]
    fn the_first_signs_and_the_environments_comes_before_the_list() {
        let env = [("ARBITER_SIGNING_SECRET", B)];
        assert_eq!(read("", &env).unwrap(), [B]);
        assert_eq!(read(&list(&[A, B]), &[]).unwrap(), [A, B]);
        assert_eq!(read(&list(&[A]), &env).unwrap(), [B, A]);
        assert_eq!(read(&list(&[A, B]), &env).unwrap(), [B, A], "the same one counts once");
        let both = format!(r#"["{A}","{B}"]"#);
        assert_eq!(read("", &[("ARBITER_ADMIN__SIGNING_SECRETS", &both)]).unwrap(), [A, B]);
    }

    #[test]
    fn a_list_that_will_not_do_is_refused_and_not_shown() {
        let check = |toml: &str, part: &str| {
            let said = read(toml, &[]).expect_err(toml);
            assert!(said.contains("admin.signing_secret") && said.contains(part), "{toml}: {said}");
            assert!(!said.contains(A) && !said.contains("hunter2"), "{said}");
        };
        check(&format!("{}\nsigning_secret = \"{B}\"", list(&[A])), "together");
        check(&list(&[]), "is empty");
        check(&list(&[A, "hunter2"]), "shorter than 32 bytes");
        check(&list(&[A, B, A]), "twice");
        check(&list(&["arbiter-dev-secret-change-in-production"]), "published default");
        let nine: Vec<_> = (0..9).map(|n| A.replace('a', &n.to_string())).collect();
        check(&list(&nine.iter().map(String::as_str).collect::<Vec<_>>()), "more than 8");
        check("signing_secrets = 3", "expected a list");
        let key = KEY.repeat(2);
        let said = read(&format!("api_key = \"{A}\"\n{}", list(&[B, A])), &[]);
        assert_eq!(said.unwrap(), [B, A], "the environment's admin key is another one");
        let env = [("ARBITER_ADMIN__SIGNING_SECRETS", key.as_str())];
        assert_eq!(read("", &env).unwrap(), [key.as_str()]);
    }

    #[test]
    fn secrets_may_stand_in_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let file = path.display().to_string();
        let env = [("ARBITER_SIGNING_SECRET_FILE", file.as_str())];
        let said = read("", &env).expect_err("no file");
        assert!(said.contains("ARBITER_SIGNING_SECRET_FILE") && said.contains(&file), "{said}");
        for (text, known) in
            [(format!("{A}\n"), true), (A.to_owned(), true), (format!("{A}\r\n"), true)]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read("", &env).is_ok(), known);
        }
        assert_eq!(read(&list(&[B]), &env).unwrap(), [A, B]);
        assert_eq!(read(&format!("signing_secret_file = {file:?}"), &[]).unwrap(), [A]);
        let in_file = format!("signing_secret_file = {file:?}");
        assert_eq!(read(&in_file, &[("ARBITER_SIGNING_SECRET", B)]).unwrap(), [B]);
        assert_eq!(read(&format!("signing_secret = {B:?}"), &env).unwrap(), [A]);
        let both = [env[0], ("ARBITER_SIGNING_SECRET", B)];
        let said = read("", &both).expect_err("both");
        assert!(said.contains("ARBITER_SIGNING_SECRET") && said.contains("together"), "{said}");
        let said = read(&format!("{in_file}\nsigning_secret = {B:?}"), &[]).expect_err("both");
        assert!(said.contains("together"), "{said}");
        for bad in ["", "\n", "two\nlines-of-some-thirty-two-bytes-or-so", "short"] {
            std::fs::write(&path, bad).unwrap();
            let said = read("", &env).expect_err(bad);
            assert!(!said.contains("two"), "{said}");
        }
        std::fs::write(&path, "x".repeat(5_000)).unwrap();
        assert!(read("", &env).expect_err("long").contains("4096"));
    }
}
