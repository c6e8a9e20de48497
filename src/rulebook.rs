//! The policies in force: read from files, replaced whole, or not at all.
//!
//! Requests take one snapshot and keep it, so a reload never changes a decision halfway. A file
//! with a mistake keeps the old set. Watching compares contents rather than asking the file system
//! for events: a mounted `ConfigMap` swaps symbolic links, and a change must stay the same for one look before
//! it is read, so that a file is not taken half written.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::firewall::policy::{Limits, PolicyError, PolicySet, Source};
use crate::firewall::rules::Rules;
use crate::firewall::terms::Terms;

/// The most that policy files may hold together: what is larger was put there by mistake.
const MAX_BYTES: usize = 64 << 20;

/// Rules that were read and are not in force yet.
#[derive(Debug)]
pub struct Draft {
    policies: PolicySet,
    digest: Option<blake3::Hash>,
}

impl Draft {
    pub fn policies(&self) -> &PolicySet {
        &self.policies
    }
}

/// Source of rules, and the rules in force.
#[derive(Debug)]
pub struct Rulebook {
    path: Option<PathBuf>,
    terms: Terms,
    rules: ArcSwap<Rules>,
    /// Hash of the files last read, good or bad.
    read: Mutex<Option<blake3::Hash>>,
    /// Held from reading to putting in force, so that no two reloads mix.
    turn: Arc<Semaphore>,
}

/// Proof that no other reload goes on.
pub type Turn = Option<OwnedSemaphorePermit>;

/// Reason why the files make no rules.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("cannot read policies from {path}: {problem}")]
    Read { path: PathBuf, problem: std::io::Error },
    #[error("the folder {path} holds no file that ends in `.toml`{}", passed_over(.others))]
    NoFiles { path: PathBuf, others: Vec<String> },
    #[error(
        "{path} is no TOML file by its name, and policies are TOML: write them in a `.toml` file"
    )]
    NotToml { path: PathBuf },
    #[error("the policy files at {path} are larger than 64 MiB together")]
    TooLarge { path: PathBuf },
    #[error("{}", list(.0))]
    Mistakes(Vec<PolicyError>),
}

/// Names some files that were not read for their names.
fn passed_over(others: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = others.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("`, `");
    match others.len().saturating_sub(SHOWN) {
        _ if others.is_empty() => ", so every request would be refused".to_owned(),
        0 => format!("; `{shown}` is not read, as policies are TOML"),
        more => format!("; `{shown}` and {more} more are not read, as policies are TOML"),
    }
}

fn list(mistakes: &[PolicyError]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl ReloadError {
    /// Returns the error as a list of mistakes; those without a line are on line 0.
    pub fn mistakes(&self) -> Vec<PolicyError> {
        let whole = |path: &Path| PolicyError {
            source: path.display().to_string(),
            line: 0,
            column: 0,
            message: self.to_string(),
        };
        match self {
            Self::Mistakes(mistakes) => mistakes.clone(),
            Self::Read { path, .. }
            | Self::NoFiles { path, .. }
            | Self::NotToml { path }
            | Self::TooLarge { path } => vec![whole(path)],
        }
    }
}

/// Reads a file or folder as a running Arbiter would. Blocks on files. Without the names of the
/// upstreams, those in the policies are not checked.
pub fn policies_at(path: &Path, upstreams: Option<&[Box<str>]>) -> Result<PolicySet, ReloadError> {
    Files::read(path)?.parse(&Limits { upstreams, ..Limits::default() })
}

fn limits(terms: &Terms) -> Limits<'_> {
    Limits { upstreams: Some(&terms.upstreams), ..Limits::default() }
}

impl Rulebook {
    /// Reads the file or folder; without one everything is refused.
    pub fn load(path: Option<&Path>, terms: Terms) -> Result<Self, ReloadError> {
        let (policies, read) = match path {
            None => (PolicySet::empty(), None),
            Some(path) => {
                let files = Files::read(path)?;
                (files.parse(&limits(&terms))?, Some(files.digest()))
            }
        };
        Ok(Self {
            path: path.map(Path::to_owned),
            rules: ArcSwap::from_pointee(Rules { policies, terms: terms.clone() }),
            terms,
            read: Mutex::new(read),
            turn: Arc::new(Semaphore::new(1)),
        })
    }

    /// Returns the rules in force now; a reload does not change them for their holder.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Waits until no other reload goes on.
    pub async fn turn(&self) -> Turn {
        // It is never closed, so there is always one.
        Arc::clone(&self.turn).acquire_owned().await.ok()
    }

    /// Reads the files without using them yet. Blocks on files.
    pub fn read(&self) -> Result<Draft, ReloadError> {
        match &self.path {
            Some(path) => self.draft(&Files::read(path)?),
            None => Ok(Draft { policies: PolicySet::empty(), digest: None }),
        }
    }

    fn draft(&self, files: &Files) -> Result<Draft, ReloadError> {
        let digest = Some(files.digest());
        // Remembered even when it is bad, so that watching reports a mistake once.
        *self.last_read() = digest;
        Ok(Draft { policies: files.parse(&limits(&self.terms))?, digest })
    }

    /// Puts what was read in force, unless something newer was read meanwhile. Returns what is in
    /// force now.
    pub fn put(&self, draft: Draft) -> Arc<Rules> {
        let last_read = self.last_read();
        if *last_read == draft.digest {
            self.rules
                .store(Arc::new(Rules { policies: draft.policies, terms: self.terms.clone() }));
        }
        self.rules()
    }

    /// Lets the watch take up again what was read last: it could not be put in force.
    pub fn forget_read(&self) {
        *self.last_read() = None;
    }

    fn last_read(&self) -> MutexGuard<'_, Option<blake3::Hash>> {
        self.read.lock()
    }

    /// Reads the files again: all of them replace the old set, or it stays.
    #[cfg(test)]
    pub(crate) fn reload(&self) -> Result<usize, ReloadError> {
        Ok(self.put(self.read()?).policies.len())
    }

    /// Begins to look at the files every `period`.
    pub fn watch(self: &Arc<Self>, period: Duration) -> Watch {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Watch { book: Arc::clone(self), ticks, look: Look::default() }
    }

    /// One look: reads what has changed and has not changed again since the look before.
    fn look(&self, look: &mut Look) -> Option<Result<Draft, ReloadError>> {
        let files = match Files::read(self.path.as_deref()?) {
            Ok(files) => files,
            Err(error) => {
                let text = error.to_string();
                let known = look.failure.as_ref() == Some(&text);
                look.failure = Some(text);
                look.seen = None;
                return (!known).then_some(Err(error));
            }
        };
        look.failure = None;
        let digest = files.digest();
        let stands_still = look.seen.replace(digest) == Some(digest);
        let known = *self.last_read() == Some(digest);
        (stands_still && !known).then(|| self.draft(&files))
    }
}

/// Looks at the files again and again.
pub struct Watch {
    book: Arc<Rulebook>,
    ticks: tokio::time::Interval,
    look: Look,
}

impl Watch {
    /// Waits until the files have changed and change no more; reads them, good or bad. Nobody else
    /// reloads while the turn is held.
    pub async fn changed(&mut self) -> (Result<Draft, ReloadError>, Turn) {
        loop {
            self.ticks.tick().await;
            let turn = self.book.turn().await;
            let book = Arc::clone(&self.book);
            let mut look = std::mem::take(&mut self.look);
            let looked = tokio::task::spawn_blocking(move || {
                let read = book.look(&mut look);
                (look, read)
            });
            // A panic in there is a bug that must not end the watch.
            let Ok((look, read)) = looked.await else { continue };
            self.look = look;
            if let Some(read) = read {
                return (read, turn);
            }
        }
    }

    /// Reports the last change again: nothing came of it.
    pub fn look_again(&mut self) {
        self.look = Look::default();
    }
}

/// Result of the last look.
#[derive(Default)]
struct Look {
    seen: Option<blake3::Hash>,
    failure: Option<String>,
}

/// The texts of all policy files, by name.
struct Files(Vec<(String, String)>);

impl Files {
    fn read(path: &Path) -> Result<Self, ReloadError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |problem| ReloadError::Read { path, problem }
        };
        let ending = |path: &Path| path.extension().map(std::ffi::OsStr::to_ascii_lowercase);
        if !std::fs::metadata(path).map_err(failed(path))?.is_dir() {
            if ending(path)
                .is_some_and(|ending| ending == "yaml" || ending == "yml" || ending == "json")
            {
                return Err(ReloadError::NotToml { path: path.to_owned() });
            }
            let text = std::fs::read_to_string(path).map_err(failed(path))?;
            return Self(vec![(path.display().to_string(), text)]).bounded(path);
        }
        let (mut files, mut others) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(path).map_err(failed(path))? {
            let file = entry.map_err(failed(path))?.path();
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_toml = file.extension().is_some_and(|ending| ending == "toml");
            // A ConfigMap keeps its real files under names that begin with a dot.
            if !is_toml || name.starts_with('.') {
                others.extend(Some(name).filter(|name| !name.starts_with('.')));
                continue;
            }
            // Follows links, which is what a mounted ConfigMap consists of.
            if std::fs::metadata(&file).map_err(failed(&file))?.is_file() {
                files.push((name, std::fs::read_to_string(&file).map_err(failed(&file))?));
            }
        }
        if files.is_empty() {
            others.sort();
            return Err(ReloadError::NoFiles { path: path.to_owned(), others });
        }
        files.sort();
        Self(files).bounded(path)
    }

    fn bounded(self, path: &Path) -> Result<Self, ReloadError> {
        if self.0.iter().map(|(_, text)| text.len()).sum::<usize>() > MAX_BYTES {
            return Err(ReloadError::TooLarge { path: path.to_owned() });
        }
        Ok(self)
    }

    fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (name, text) in &self.0 {
            // Lengths first, so that no text can be moved between neighbours unseen.
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        hasher.finalize()
    }

    fn parse(&self, limits: &Limits<'_>) -> Result<PolicySet, ReloadError> {
        let sources: Vec<_> = self.0.iter().map(|(name, text)| Source { name, text }).collect();
        PolicySet::parse_within(&sources, limits).map_err(ReloadError::Mistakes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn policy(id: &str) -> String {
        format!("[[policies]]\nid = \"{id}\"\neffect = \"allow\"\nallowed_tools = [\"t\"]\n")
    }

    fn counts(book: &Rulebook, look: &mut Look) -> Option<Result<usize, String>> {
        let put = |draft| book.put(draft).policies.len();
        book.look(look).map(|read| read.map(put).map_err(|error| error.to_string()))
    }

    #[test]
    fn without_a_file_nothing_is_allowed() {
        let book = Rulebook::load(None, Terms::default()).unwrap();
        assert!(book.rules().policies.is_empty());
        assert_eq!(book.reload().unwrap(), 0);
    }

    #[test]
    fn a_path_that_is_missing_or_holds_nothing_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none.toml");
        let error = Rulebook::load(Some(&missing), Terms::default()).unwrap_err();
        assert!(error.to_string().contains("none.toml"), "{error}");
        assert!(matches!(
            Rulebook::load(Some(dir.path()), Terms::default()),
            Err(ReloadError::NoFiles { .. })
        ));
        let message =
            |path: &Path| Rulebook::load(Some(path), Terms::default()).unwrap_err().to_string();
        assert!(message(dir.path()).contains("every request would be refused"));
        for name in ["a.yaml", "b.YML", "c.json", "d"] {
            fs::write(dir.path().join(name), "policies: []").unwrap();
        }
        let said = message(dir.path());
        assert!(said.contains("`a.yaml`, `b.YML`, `c.json` and 1 more are not read"), "{said}");
        for name in ["a.yaml", "b.YML", "c.json"] {
            let said = message(&dir.path().join(name));
            assert!(said.contains(name) && said.contains("policies are TOML"), "{said}");
        }
        fs::write(dir.path().join("a.toml"), [0xFF]).unwrap();
        assert!(matches!(
            Rulebook::load(Some(dir.path()), Terms::default()),
            Err(ReloadError::Read { .. })
        ));
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b.toml"), policy("b")).unwrap();
        fs::write(dir.path().join("a.toml"), policy("a")).unwrap();
        fs::write(dir.path().join("notes.txt"), "not policies").unwrap();
        fs::write(dir.path().join(".hidden.toml"), "not policies").unwrap();
        let files = Files::read(dir.path()).unwrap();
        let names: Vec<_> = files.0.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a.toml", "b.toml"]);
        assert_eq!(
            Rulebook::load(Some(dir.path()), Terms::default()).unwrap().rules().policies.len(),
            2
        );
    }

    #[test]
    fn a_reload_is_all_or_nothing_and_holders_keep_their_set() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.toml"), policy("a")).unwrap();
        let book = Rulebook::load(Some(dir.path()), Terms::default()).unwrap();
        let held = book.rules();
        fs::write(dir.path().join("b.toml"), policy("b")).unwrap();
        assert_eq!(book.reload().unwrap(), 2);
        assert_eq!((held.policies.len(), book.rules().policies.len()), (1, 2));
        fs::write(dir.path().join("c.toml"), "[[policies]]\nid = 3\neffect = \"deny\"\n").unwrap();
        let mistakes = book.reload().unwrap_err().mistakes();
        assert_eq!((mistakes[0].source.as_str(), mistakes[0].line), ("c.toml", 2));
        assert_eq!(book.rules().policies.len(), 2);
    }

    #[test]
    fn what_was_read_earlier_does_not_replace_what_was_read_later() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, policy("a")).unwrap();
        let book = Rulebook::load(Some(&file), Terms::default()).unwrap();
        let earlier = book.read().unwrap();
        fs::write(&file, policy("b") + &policy("c")).unwrap();
        let later = book.read().unwrap();
        assert_eq!(book.put(later).policies.len(), 2);
        assert_eq!(book.put(earlier).policies.len(), 2);
    }

    #[test]
    fn a_change_is_read_when_it_has_stood_still_for_one_look() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, policy("a")).unwrap();
        let book = Rulebook::load(Some(&file), Terms::default()).unwrap();
        let mut look = Look::default();
        assert_eq!(counts(&book, &mut look), None);
        fs::write(&file, "").unwrap();
        assert_eq!(counts(&book, &mut look), None);
        fs::write(&file, policy("b") + &policy("c")).unwrap();
        assert_eq!(counts(&book, &mut look), None);
        assert_eq!(counts(&book, &mut look), Some(Ok(2)));
        assert_eq!(counts(&book, &mut look), None);
    }

    #[test]
    fn a_mistake_is_told_once_and_the_old_set_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, policy("a")).unwrap();
        let book = Rulebook::load(Some(&file), Terms::default()).unwrap();
        let mut look = Look::default();
        fs::write(&file, "[[policies]]\n").unwrap();
        assert_eq!(counts(&book, &mut look), None);
        assert!(matches!(counts(&book, &mut look), Some(Err(_))));
        assert_eq!(counts(&book, &mut look), None);
        fs::remove_file(&file).unwrap();
        assert!(matches!(counts(&book, &mut look), Some(Err(_))));
        assert_eq!(counts(&book, &mut look), None);
        assert_eq!(book.rules().policies.len(), 1);
    }

    #[tokio::test]
    async fn watching_reads_each_change() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, policy("a")).unwrap();
        let book = Arc::new(Rulebook::load(Some(&file), Terms::default()).unwrap());
        let mut watch = book.watch(Duration::from_millis(5));
        fs::write(&file, policy("a") + &policy("b")).unwrap();
        let (read, turn) = watch.changed().await;
        assert_eq!(book.put(read.unwrap()).policies.len(), 2);
        drop(turn);
        fs::write(&file, "[[policies]]\n").unwrap();
        assert!(watch.changed().await.0.is_err());
        assert_eq!(book.rules().policies.len(), 2);
    }

    #[tokio::test]
    async fn a_change_that_came_to_nothing_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, policy("a")).unwrap();
        let book = Arc::new(Rulebook::load(Some(&file), Terms::default()).unwrap());
        let mut watch = book.watch(Duration::from_millis(5));
        for text in [policy("a") + &policy("b"), "[[policies]]\n".to_owned()] {
            fs::write(&file, &text).unwrap();
            for _ in 0..3 {
                let (read, _turn) = watch.changed().await;
                assert_eq!(read.is_ok(), text.contains("effect"));
                book.forget_read();
                watch.look_again();
            }
        }
        fs::remove_file(&file).unwrap();
        assert!(watch.changed().await.0.is_err());
        watch.look_again();
        assert!(watch.changed().await.0.is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_config_map_that_swaps_its_links_is_noticed() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        for (version, ids) in [("..1", "a"), ("..2", "b")] {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("p.toml"), policy(ids)).unwrap();
        }
        let data = dir.path().join("..data");
        symlink("..1", &data).unwrap();
        symlink("..data/p.toml", dir.path().join("p.toml")).unwrap();
        let book = Rulebook::load(Some(dir.path()), Terms::default()).unwrap();
        let before = book.rules().policies.version().to_owned();
        symlink("..2", dir.path().join("..tmp")).unwrap();
        fs::rename(dir.path().join("..tmp"), &data).unwrap();
        let mut look = Look::default();
        assert_eq!(counts(&book, &mut look), None);
        assert_eq!(counts(&book, &mut look), Some(Ok(1)));
        assert_ne!(book.rules().policies.version(), before);
    }
}
