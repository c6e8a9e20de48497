//! Reading of what an answer hands out and asks, as its bytes pass.

use std::sync::Arc;

use crate::firewall::denial::{Cause, Denial};
use crate::gate::asking::Asked;
use crate::gate::continued::{Handout, Keeping};
use crate::mcp::continued::{Answer, EventReader, Outline, TaskStatus, Unreadable};

/// Reading of one answer.
#[derive(Default)]
pub(super) struct Handed {
    reader: Reader,
    asked: Option<Asked>,
    /// Set if the answer could hand out anything.
    handout: Option<Arc<Handout>>,
    keeping: Vec<Keeping>,
    status: Option<TaskStatus>,
    /// Hosts to which questions send people.
    hosts: Vec<Box<str>>,
}

#[derive(Default)]
enum Reader {
    #[default]
    None,
    Whole(Outline),
    Stream(Box<EventReader>),
}

impl Handed {
    pub(super) fn of(asked: &Asked, handout: Option<Arc<Handout>>, streams: bool) -> Self {
        let reads_results = handout.is_some();
        let reader = if streams {
            Reader::Stream(Box::new(EventReader::new(reads_results)))
        } else {
            Reader::Whole(Outline::new(reads_results))
        };
        Self { reader, asked: Some(asked.clone()), handout, ..Self::default() }
    }

    /// Reports whether the answer is read.
    pub(super) fn is_read(&self) -> bool {
        !matches!(self.reader, Reader::None)
    }

    /// Reports whether the rest of the answer decides if what has come of it may leave.
    pub(super) fn is_open(&self) -> bool {
        match &self.reader {
            Reader::Whole(outline) => outline.may_tell(),
            Reader::None | Reader::Stream(_) => false,
        }
    }

    /// Reads on; refuses what the client must not get.
    pub(super) fn read(&mut self, chunk: &[u8], end: bool) -> Result<(), Denial> {
        let mut answers = Vec::new();
        let read = match &mut self.reader {
            Reader::None => return Ok(()),
            Reader::Whole(outline) => outline.push(chunk).and_then(|()| {
                answers = if end { outline.finish()? } else { Vec::new() };
                Ok(())
            }),
            Reader::Stream(events) => {
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
        if let (Some(asked), Some(questions)) = (&self.asked, answer.questions()) {
            asked.check(questions, &mut self.hosts)?;
        }
        let Some(handout) = &self.handout else { return Ok(()) };
        self.keeping.extend(handout.take(answer)?);
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
