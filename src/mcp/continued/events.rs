//! The messages in a `text/event-stream`, read as its lines pass.

use super::{Answer, Outline, Unreadable};
use crate::mcp::sse::{Cutter, Piece, content, split_mark};

/// The field whose lines make a message.
const DATA: &[u8] = b"data";

/// Follows the lines of a stream and reads the answers in its messages.
#[derive(Debug, Default)]
pub struct EventReader {
    cutter: Cutter,
    /// The beginning of the line under way, until its field is known.
    head: Vec<u8>,
    line: Line,
    begun: bool,
    has_data: bool,
    message: Outline,
}

/// The line under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Line {
    /// Too short to say.
    #[default]
    Open,
    Data,
    Other,
}

impl EventReader {
    /// Prepares to read questions, and what results hand out if that matters.
    pub fn new(reads_results: bool) -> Self {
        Self { message: Outline::new(reads_results), ..Self::default() }
    }

    /// Takes note of what passes; gives `each` the answers that are complete.
    pub fn push(
        &mut self,
        mut chunk: &[u8],
        mut each: impl FnMut(Answer),
    ) -> Result<(), Unreadable> {
        while let Some(piece) = self.cutter.next(&mut chunk) {
            match piece {
                Piece::Tail(_) => {}
                Piece::Part(bytes) => self.go_on(bytes)?,
                Piece::End(bytes) => {
                    self.go_on(content(bytes))?;
                    self.end_line()?.into_iter().for_each(&mut each);
                }
            }
        }
        Ok(())
    }

    /// Ends the stream; some clients take a message without an empty line behind it for whole.
    pub fn finish(&mut self, mut each: impl FnMut(Answer)) -> Result<(), Unreadable> {
        let last = self.end_line()?;
        let left = self.message.finish()?;
        last.into_iter().chain(left).for_each(&mut each);
        Ok(())
    }

    fn go_on(&mut self, bytes: &[u8]) -> Result<(), Unreadable> {
        match self.line {
            Line::Other => Ok(()),
            Line::Data => self.message.push(bytes),
            Line::Open => {
                self.head.extend_from_slice(bytes);
                // Decidable with a byte order mark, the field, its colon and a space.
                if self.head.len() >= 9 { self.settle() } else { Ok(()) }
            }
        }
    }

    /// Learns the field of the line under way from what there is of it.
    fn settle(&mut self) -> Result<(), Unreadable> {
        let head = std::mem::take(&mut self.head);
        let text =
            if std::mem::replace(&mut self.begun, true) { &head } else { split_mark(&head).1 };
        let value = text.strip_prefix(DATA).and_then(|rest| match rest {
            [] => Some(rest),
            [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
            _ => None,
        });
        let Some(value) = value else {
            self.line = Line::Other;
            return Ok(());
        };
        self.line = Line::Data;
        if std::mem::replace(&mut self.has_data, true) {
            self.message.push(b"\n")?;
        }
        self.message.push(value)
    }

    fn end_line(&mut self) -> Result<Vec<Answer>, Unreadable> {
        let blank = self.line == Line::Open && {
            let text = if self.begun { &self.head[..] } else { split_mark(&self.head).1 };
            text.is_empty()
        };
        if blank {
            self.head.clear();
            self.begun = true;
            self.has_data = false;
            return self.message.finish();
        }
        if self.line == Line::Open {
            self.settle()?;
        }
        self.line = Line::Open;
        Ok(Vec::new())
    }
}
