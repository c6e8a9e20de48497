//! Lists of a running Arbiter: read page by page, filtered, and cut where the operator asks for it.

use clap::Args;
use reqwest::Method;
use serde_json::Value;

use super::Failure;
use super::client::Target;
use crate::saturate::SaturatingFrom as _;

/// Entries that are asked for at once.
const PAGE: usize = 1_000;

/// Part of a list that is printed.
#[derive(Args, Clone, Debug)]
pub(super) struct Paging {
    /// Largest number of entries to print; all of them unless given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Begin behind the entry with this id.
    #[arg(long, value_name = "ID")]
    cursor: Option<String>,
}

/// One list of the admin API.
pub(super) struct List<'a> {
    /// Path of the endpoint.
    pub(super) path: &'a str,
    /// Member of the answer that holds the entries.
    pub(super) entries: &'a str,
    /// Member of an entry that holds its id, which is a cursor, too.
    pub(super) id: &'a str,
    /// Filters that the endpoint knows.
    pub(super) query: &'a [(&'a str, Option<&'a str>)],
}

impl Paging {
    /// Reads the entries that `keep` accepts, and reports on standard error where more follow.
    pub(super) async fn read(
        &self,
        target: &Target,
        list: &List<'_>,
        keep: impl Fn(&Value) -> bool,
    ) -> Result<Vec<Value>, Failure> {
        let limit = self.limit.map(usize::saturating_from);
        // One more than is printed, so that it is known whether more follow.
        let wanted = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
        let mut kept = list.read(target, self.cursor.clone(), wanted, keep).await?;
        let Some(limit) = limit.filter(|limit| kept.len() > *limit) else { return Ok(kept) };
        kept.truncate(limit);
        let last = kept.last().and_then(|entry| entry.get(list.id)).and_then(Value::as_str);
        super::complain(&format!("more follow: --cursor {}", last.unwrap_or_default()));
        Ok(kept)
    }
}

impl List<'_> {
    /// Reads every entry.
    pub(super) async fn all(&self, target: &Target) -> Result<Vec<Value>, Failure> {
        self.read(target, None, usize::MAX, |_entry| true).await
    }

    async fn read(
        &self,
        target: &Target,
        mut cursor: Option<String>,
        wanted: usize,
        keep: impl Fn(&Value) -> bool,
    ) -> Result<Vec<Value>, Failure> {
        let given = self.query.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
        let given: Vec<_> = given.collect();
        let page = wanted.min(PAGE).to_string();
        let mut kept = Vec::new();
        loop {
            let mut query = given.clone();
            query.push(("limit", &page));
            if let Some(cursor) = &cursor {
                query.push(("cursor", cursor));
            }
            let mut answer = target.ask(Method::GET, &[self.path], &query, None).await?;
            if let Some(Value::Array(entries)) = answer.get_mut(self.entries).map(Value::take) {
                kept.extend(entries.into_iter().filter(&keep));
            }
            let next = answer.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            if next.is_none() || kept.len() >= wanted {
                kept.truncate(wanted);
                return Ok(kept);
            }
            cursor = next;
        }
    }
}

/// Reports whether a list of texts in an entry holds this one.
pub(super) fn lists(entry: &Value, member: &str, wanted: &str) -> bool {
    let items = entry.get(member).and_then(Value::as_array);
    items.is_some_and(|items| items.iter().any(|item| item == wanted))
}
