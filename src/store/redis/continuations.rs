//! Continuations in Redis: a key each, which goes at its end, and the marks of a session by their end.

use redis::cmd;

use super::super::{Replicas, StoreError};
use super::{Redis, scripts, wire};
use crate::firewall::approvals::Digest;
use crate::firewall::continuation::{Continuation, MAX_OF_SESSION};
use crate::firewall::session::SessionId;
use crate::firewall::time::Timestamp;

impl Redis {
    pub(super) async fn put_continuation(&self, one: &Continuation) -> Result<(), StoreError> {
        let mut script = self.write(&scripts::CONTINUE)?;
        script.arg(one.mark).arg(one.session).arg(wire::write("continuation", one)?);
        script.arg(one.ends.0).arg(MAX_OF_SESSION);
        self.run(&script).await
    }

    /// Takes a continuation away; false if it was not there.
    pub(super) async fn drop_continuation(
        &self,
        mark: Digest,
    ) -> Result<(bool, Replicas), StoreError> {
        let mut script = self.write(&scripts::TAKE_CONTINUATION)?;
        script.arg(mark);
        let (taken, replicas): (u8, _) = self.run_carefully(&script).await?;
        Ok((taken > 0, replicas))
    }

    pub(super) async fn load_continuation(
        &self,
        mark: Digest,
        now: Timestamp,
    ) -> Result<Option<Continuation>, StoreError> {
        self.open_for_asking()?;
        let mut get = cmd("GET");
        get.arg(self.key("c:") + &mark.to_string());
        let found: Option<String> = self.link.command(&get).await?;
        let found: Option<Continuation> =
            found.map(|text| wire::read("continuation", &text)).transpose()?;
        Ok(found.filter(|one| one.ends > now))
    }

    pub(super) async fn load_continuations(
        &self,
        session: SessionId,
        now: Timestamp,
    ) -> Result<Vec<Continuation>, StoreError> {
        self.open_for_asking()?;
        let mut range = cmd("ZRANGE");
        range.arg(self.key("cs:") + &session.to_string()).arg(0).arg(-1);
        let marks: Vec<String> = self.link.command(&range).await?;
        if marks.is_empty() {
            return Ok(Vec::new());
        }
        let mut get = cmd("MGET");
        get.arg(marks.iter().map(|mark| self.key("c:") + mark).collect::<Vec<_>>());
        let found: Vec<Option<String>> = self.link.command(&get).await?;
        let mut kept = Vec::new();
        for text in found.iter().flatten() {
            let one: Continuation = wire::read("continuation", text)?;
            kept.extend((one.ends > now).then_some(one));
        }
        Ok(kept)
    }
}
