//! Reading of the continuations that an answer hands out, as its bytes pass.

use std::sync::Arc;

use crate::firewall::denial::{Cause, Denial};
use crate::gate::continued::{Handout, Keeping};
use crate::mcp::continued::{Answer, EventReader, Outline, TaskStatus, Unreadable};

/// Reading of one answer.
#[derive(Default)]
pub(super) struct Handed {
    reader: Reader,
    keeping: Vec<Keeping>,
    status: Option<TaskStatus>,
    /// Hosts to which questions send people.
    hosts: Vec<Box<str>>,
}

#[derive(Default)]
enum Reader {
    #[default]
    None,
    Whole(Arc<Handout>, Box<Outline>),
    Stream(Arc<Handout>, Box<EventReader>),
}

impl Handed {
    pub(super) fn of(handout: Option<Arc<Handout>>, streams: bool) -> Self {
        let reader = match handout {
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
        let mut answers = Vec::new();
        let read = match &mut self.reader {
            Reader::None => return Ok(()),
            Reader::Whole(_, outline) => outline.push(chunk).and_then(|()| {
                answers.extend(if end { outline.finish()? } else { None });
                Ok(())
            }),
            Reader::Stream(_, events) => {
                let each = |answer| answers.push(answer);
                events.push(chunk, each).and_then(|()| {
                    if end { events.finish(|answer| answers.push(answer)) } else { Ok(()) }
                })
            }
        };
        read.map_err(|error: Unreadable| {
            let message = format!("the MCP server's answer is refused: {error}");
            Denial::upstream(Cause::Protocol, message)
        })?;
        answers.iter().try_for_each(|answer| self.take(answer))
    }

    fn take(&mut self, answer: &Answer) -> Result<(), Denial> {
        let (Reader::Whole(handout, _) | Reader::Stream(handout, _)) = &self.reader else {
            return Ok(());
        };
        self.keeping.extend(handout.take(answer, &mut self.hosts)?);
        if let Answer::Task(task) = answer {
            self.status = task.status.or(self.status);
        }
        Ok(())
    }

    pub(super) fn take_keeping(&mut self) -> Vec<Keeping> {
        std::mem::take(&mut self.keeping)
    }

    pub(super) fn hosts(&self) -> &[Box<str>] {
        &self.hosts
    }

    pub(super) fn status(&self) -> Option<TaskStatus> {
        self.status
    }
}
