//! The changes of all nodes, in order and without a gap, or word that something was missed.
//!
//! Changes are entries of a stream, numbered one by one. A node's bookmark holds the mark of the last one it
//! saw, which is looked at again each time: if it is another, or gone, then the server has lost what
//! it had published (a restart without its file, a failover to a replica that was behind), and only loading
//! everything again shows what is.
//!
//! Nothing of that is kept here: a load that failed is found missing by the next look from the old bookmark.

use std::time::Duration;

use redis::{cmd, pipe};

use super::super::{Bookmark, Change, Changes, Position, StoreError};
use super::link::Link;
use super::{Redis, wire};
use crate::firewall::time::Timestamp;
use crate::saturate::SaturatingFrom as _;

/// Time for which the server holds a request without an answer.
pub(super) const WAIT: Duration = Duration::from_millis(300);
/// Entries taken at once.
const PAGE: usize = 1_000;
/// Time for which a node that has not asked again counts as running.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// The node's way to the changes: a connection of its own, since a question to which there is no answer
/// yet holds it up. Nothing else may be asked on it.
#[derive(Debug)]
pub(super) struct Feed {
    link: Link,
}

#[derive(Debug)]
struct Seen {
    number: u64,
    mark: String,
}

/// An entry: its id, and names and values in turn.
type Entry = (String, Vec<String>);
type Stream = (String, Vec<Entry>);
/// The server's time: seconds, and microseconds besides.
type Time = (i64, i64);

impl Feed {
    pub(super) fn new(link: Link) -> Self {
        Self { link }
    }

    pub(super) fn hang_up(&self) {
        self.link.hang_up();
    }

    /// Returns where the changes end now, from where a node that loads everything follows them.
    pub(super) async fn start(&self, redis: &Redis) -> Result<Bookmark, StoreError> {
        let (last, connection) = latest(&self.link, redis).await?;
        let (number, mark) = last.map_or((0, None), |seen| (seen.number, Some(seen.mark)));
        Ok(Bookmark { position: Position(number), mark, connection })
    }

    pub(super) async fn changes(
        &self,
        redis: &Redis,
        bookmark: &Bookmark,
    ) -> Result<Changes, StoreError> {
        type Answer = (Option<u64>, Vec<Entry>, Time, Option<Vec<Stream>>);
        let after = bookmark.position;
        let id = format!("{}-0", after.0);
        let mut ask = pipe();
        ask.add_command(heartbeat(redis)).ignore();
        ask.cmd("GET").arg(redis.key("sequence"));
        ask.cmd("XRANGE").arg(redis.key("changes")).arg(&id).arg(&id);
        ask.cmd("TIME");
        ask.cmd("XREAD").arg("COUNT").arg(PAGE).arg("BLOCK").arg(millis(WAIT));
        ask.arg("STREAMS").arg(redis.key("changes")).arg(&id);
        let ((sequence, before, now, new), connection): (Answer, u64) =
            self.link.pipeline_by(&ask).await?;
        let reconnected = bookmark.connection != 0 && bookmark.connection != connection;

        let mut mark = before.first().map(seen).transpose()?.map(|seen| seen.mark);
        let new = new.unwrap_or_default().into_iter().flat_map(|(_, entries)| entries);
        let new: Vec<Entry> = new.collect();
        let lost = sequence.unwrap_or(0) < after.0
            || (after.0 > 0 && mark.is_none())
            || (sequence.unwrap_or(0) > after.0 && new.is_empty())
            || (bookmark.mark.is_some() && bookmark.mark != mark);
        if lost {
            return Err(StoreError::Missed);
        }
        let mut position = after;
        let mut changes = Vec::new();
        for entry in &new {
            let seen = seen(entry)?;
            if seen.number != position.0.saturating_add(1) {
                return Err(StoreError::Missed);
            }
            position = Position(seen.number);
            let change = change(entry)?;
            if change.returns_to_its_node() || field(entry, "node")? != &*redis.node {
                changes.push(change);
            }
            mark = Some(seen.mark);
        }
        let time = Some(time(now)?);
        let bookmark = Bookmark { position, mark, connection };
        Ok(Changes { changes, bookmark, time, reconnected })
    }
}

/// Returns where the changes end now.
pub(super) async fn position(redis: &Redis) -> Result<Position, StoreError> {
    let (last, _connection) = latest(&redis.link, redis).await?;
    Ok(Position(last.map_or(0, |seen| seen.number)))
}

async fn latest(link: &Link, redis: &Redis) -> Result<(Option<Seen>, u64), StoreError> {
    let mut ask = pipe();
    ask.add_command(heartbeat(redis)).ignore();
    ask.cmd("XREVRANGE").arg(redis.key("changes")).arg("+").arg("-").arg("COUNT").arg(1);
    let ((last,), connection): ((Vec<Entry>,), u64) = link.pipeline_by(&ask).await?;
    Ok((last.first().map(seen).transpose()?, connection))
}

/// Shows the others that this node runs and can give back what it holds.
fn heartbeat(redis: &Redis) -> redis::Cmd {
    let mut set = cmd("SET");
    set.arg(redis.key("node:") + &redis.node).arg(1).arg("PX").arg(millis(HEARTBEAT));
    set
}

pub(super) fn time((secs, micros): Time) -> Result<Timestamp, StoreError> {
    let all = secs.checked_mul(1_000_000).and_then(|secs| secs.checked_add(micros));
    all.map(Timestamp).ok_or_else(|| wire::damaged("time", "it lies beyond all others"))
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::saturating_from(duration.as_millis())
}

fn seen(entry: &Entry) -> Result<Seen, StoreError> {
    let number = entry.0.strip_suffix("-0").and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| wire::damaged("change", "its number is not a position"))?;
    Ok(Seen { number, mark: field(entry, "mark")?.to_owned() })
}

/// Reads an entry. An unreadable one was written by a newer node; its effect can be loaded.
fn change(entry: &Entry) -> Result<Change, StoreError> {
    wire::read_change(field(entry, "change")?).ok_or(StoreError::Missed)
}

fn field<'a>(entry: &'a Entry, name: &str) -> Result<&'a str, StoreError> {
    let pairs = entry.1.chunks_exact(2);
    let found =
        pairs.filter_map(|pair| pair.first().zip(pair.get(1))).find(|(key, _)| *key == name);
    let (_, value) = found.ok_or_else(|| wire::damaged("change", "a field is missing"))?;
    Ok(value)
}
