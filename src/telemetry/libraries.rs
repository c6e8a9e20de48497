//! Lines that libraries write to the `log` crate, Pingora's above all, as lines of this log.
//!
//! Warnings and errors only: below them a library shows what passes through it. Clients can provoke most
//! of these lines, so each is clipped and stays one line, and there are few a minute; the first of the
//! next minute then says how many were left out.

use std::sync::LazyLock;

use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::firewall::time::Mono;

/// Most lines a minute.
const MOST_LINES: u64 = 20;
const MINUTE_US: u64 = 60_000_000;
/// Longest text of a line.
const MAX_CHARS: usize = 256;

/// Has the lines of libraries written to the log from now on.
pub(super) fn follow() -> Result<(), SetLoggerError> {
    log::set_logger(&*LIBRARIES)?;
    log::set_max_level(LevelFilter::Warn);
    Ok(())
}

static LIBRARIES: LazyLock<Libraries> =
    LazyLock::new(|| Libraries { clock: Clock::system(), lines: Mutex::default() });

struct Libraries {
    clock: Clock,
    lines: Mutex<Lines>,
}

/// Lines of one minute.
#[derive(Debug, Default)]
struct Lines {
    ends_us: u64,
    written: u64,
    left_out: u64,
}

impl Lines {
    /// Reports whether a line may be written, and how many were left out in the minute before.
    fn next(&mut self, now: Mono) -> Option<u64> {
        let mut left_out = 0;
        if now.0 >= self.ends_us {
            left_out = self.left_out;
            *self = Self { ends_us: now.0.saturating_add(MINUTE_US), ..Self::default() };
        }
        if self.written == MOST_LINES {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.written += 1;
        Some(left_out)
    }
}

impl Log for Libraries {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = self.clock.now().mono;
        let due = self.lines.lock().next(now);
        let Some(left_out) = due else { return };
        let (library, text) = (record.target(), one_line(&record.args().to_string()));
        if record.level() == Level::Error {
            tracing::error!(library, left_out, "{text}");
        } else {
            tracing::warn!(library, left_out, "{text}");
        }
    }

    fn flush(&self) {}
}

fn one_line(text: &str) -> String {
    text.chars().take(MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::Arc;

    use super::*;

    /// Bytes that the log would hold.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn warnings_of_libraries_reach_the_log_with_their_source_and_are_few() {
        let libraries = Libraries { clock: Clock::system(), lines: Mutex::default() };
        let written = Written::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::with_default(log.finish(), || {
            let mut line = Record::builder();
            line.target("pingora_core::server");
            libraries.log(&line.level(Level::Info).args(format_args!("a head")).build());
            for _ in 0..1_000 {
                libraries.log(&line.level(Level::Error).args(format_args!("gone\nwrong")).build());
            }
        });
        let text = String::from_utf8(written.0.lock().clone()).unwrap();
        assert_eq!(text.lines().count() as u64, MOST_LINES, "{text}");
        assert!(text.contains("ERROR") && text.contains("gone wrong"), "{text}");
        assert!(text.contains("library=\"pingora_core::server\""), "{text}");
        assert!(!text.contains("a head"), "{text}");
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut lines = Lines::default();
        let written = (0..1_000).filter(|n| lines.next(Mono(*n)).is_some()).count();
        assert_eq!(written as u64, MOST_LINES);
        assert_eq!(lines.next(Mono(MINUTE_US - 1)), None);
        assert_eq!(lines.next(Mono(MINUTE_US)), Some(1_000 - MOST_LINES + 1));
        assert_eq!(lines.next(Mono(MINUTE_US + 1)), Some(0));
    }

    #[test]
    fn a_text_is_one_short_line() {
        assert_eq!(one_line("a\r\nb\u{1b}[31m"), "a  b [31m");
        assert_eq!(one_line(&"é".repeat(1_000)).chars().count(), MAX_CHARS);
    }
}
