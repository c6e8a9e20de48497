//! Arbiter's own log: lines on stderr, as text for people or JSON for machines.
//!
//! Nothing here sees a body, a token or a header value: those are never given to the log. Libraries
//! that print what goes over the wire at low levels are held at `warn` unless they are asked for by
//! name.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

mod libraries;

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Libraries that could print what passes through them.
const QUIET: [&str; 6] = ["h2", "hyper", "hyper_util", "reqwest", "rmcp", "rustls"];

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("log filter is not understood: {0}; use for example `info` or `info,arbiter=debug`")]
    Filter(#[from] ParseError),
    #[error("a log is set up already")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Displays an error with everything that caused it, outermost first, for a line of the log.
pub struct Causes<'e>(pub &'e (dyn std::error::Error + 'static));

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut said = self.0.to_string();
        let mut next = self.0.source();
        while let Some(cause) = next {
            // An error that is transparent, or that quotes its cause, has said it already.
            let text = cause.to_string();
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            said = text;
            next = cause.source();
        }
        Ok(())
    }
}

/// Sets up the log of this process. `filter` is a level or `RUST_LOG`'s language.
pub fn init(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parse(filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(TelemetryError::Twice)?;
    libraries::follow().map_err(|twice| TelemetryError::Twice(twice.to_string().into()))
}

/// The operator's filter behind the quiet ones, so that what it names wins.
fn parse(filter: &str) -> Result<EnvFilter, ParseError> {
    let quiet: String = QUIET.iter().flat_map(|name| [*name, "=warn,"]).collect();
    EnvFilter::try_new(format!("{quiet}{filter}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        enum Told {
            #[error("the store could not commit")]
            Outer(#[source] Box<Told>),
            #[error(transparent)]
            Through(Box<Told>),
            #[error("disk full")]
            Inner,
        }
        let inner = || Box::new(Told::Inner);
        let shown = |error: &Told| Causes(error).to_string();
        assert_eq!(shown(&Told::Outer(inner())), "the store could not commit: disk full");
        assert_eq!(shown(&Told::Through(inner())), "disk full");
        let twice = Told::Outer(Box::new(Told::Outer(inner())));
        assert_eq!(shown(&twice), "the store could not commit: disk full");
    }

    #[test]
    fn libraries_stay_quiet_unless_named() {
        let shown = |filter: &str| parse(filter).unwrap().to_string();
        assert!(shown("trace").contains("hyper=warn"));
        assert!(shown("trace,hyper=debug").contains("hyper=debug"));
        assert!(!shown("trace,hyper=debug").contains("hyper=warn"));
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        assert!(parse("arbiter=loud").is_err());
    }

    #[test]
    fn a_second_log_is_refused() {
        let first = init("warn", LogFormat::Json);
        let second = init("warn", LogFormat::Text);
        assert!(first.is_ok());
        assert!(matches!(second, Err(TelemetryError::Twice(_))));
    }
}
