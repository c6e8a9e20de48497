//! Reading of the continuations that an answer hands out, as its bytes pass.

use crate::firewall::denial::{Cause, Denial};
use crate::gate::continued::{Handout, Keeping};
use crate::mcp::continued::{EventReader, Outline, Task, TaskStatus, Unreadable};

/// Reading of one answer.
#[derive(Default)]
pub(super) struct Handed {
    reader: Reader,
    keeping: Vec<Keeping>,
    status: Option<TaskStatus>,
}

#[derive(Default)]
enum Reader {
    #[default]
    None,
    Whole(Handout, Box<Outline>),
    Stream(Handout, Box<EventReader>),
}

impl Handed {
    pub(super) fn of(handout: Option<&Handout>, streams: bool) -> Self {
        let reader = match handout.cloned() {
            None => Reader::None,
            Some(handout) if streams => Reader::Stream(handout, Box::default()),
            Some(handout) => Reader::Whole(handout, Box::default()),
        };
        Self { reader, ..Self::default() }
    }

    /// Reports whether the answer is read.
    pub(super) fn is_read(&self) -> bool {
        !matches!(self.reader, Reader::None)
    }

    /// Reads on; refuses what the client must not get.
    pub(super) fn read(&mut self, chunk: &[u8], end: bool) -> Result<(), Denial> {
        let mut tasks = Vec::new();
        let read = match &mut self.reader {
            Reader::None => return Ok(()),
            Reader::Whole(_, outline) => outline.push(chunk).and_then(|()| {
                tasks.extend(if end { outline.finish()? } else { None });
                Ok(())
            }),
            Reader::Stream(_, events) => {
                let each = |task| tasks.push(task);
                events.push(chunk, each).and_then(|()| {
                    if end { events.finish(|task| tasks.push(task)) } else { Ok(()) }
                })
            }
        };
        read.map_err(|error: Unreadable| {
            let message = format!("the MCP server's answer is refused: {error}");
            Denial::upstream(Cause::Protocol, message)
        })?;
        tasks.iter().try_for_each(|task| self.take(task))
    }

    fn take(&mut self, task: &Task) -> Result<(), Denial> {
        let (Reader::Whole(handout, _) | Reader::Stream(handout, _)) = &self.reader else {
            return Ok(());
        };
        self.keeping.extend(handout.take(task)?);
        self.status = task.status.or(self.status);
        Ok(())
    }

    pub(super) fn take_keeping(&mut self) -> Vec<Keeping> {
        std::mem::take(&mut self.keeping)
    }

    pub(super) fn status(&self) -> Option<TaskStatus> {
        self.status
    }
}
