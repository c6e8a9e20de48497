//! Query string: rejects unknown and repeated parameters.

use axum::extract::Query;
use axum::http::Uri;

use super::error::{ApiError, Code};

/// A query parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parameter {
    Limit,
    Cursor,
    AgentId,
    Status,
    RequestId,
    SessionId,
    Tool,
    Code,
    Since,
    Until,
    /// A cursor into the audit log.
    RecordCursor,
}

impl Parameter {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Cursor | Self::RecordCursor => "cursor",
            Self::AgentId => "agent_id",
            Self::Status => "status",
            Self::RequestId => "request_id",
            Self::SessionId => "session_id",
            Self::Tool => "tool",
            Self::Code => "code",
            Self::Since => "since",
            Self::Until => "until",
        }
    }
}

/// The parameters of one request.
#[derive(Debug, Default)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads a query, and refuses what `known` does not name.
    pub(crate) fn read(uri: &Uri, known: &[Parameter]) -> Result<Self, ApiError> {
        let pairs: Query<Vec<(String, String)>> = Query::try_from_uri(uri)
            .map_err(|_bad| ApiError::new(Code::MalformedRequest, "the query cannot be read"))?;
        for (at, (name, value)) in pairs.0.iter().enumerate() {
            if !known.iter().any(|parameter| parameter.name() == name) {
                let name: String = name.chars().take(64).collect();
                return Err(ApiError::field(name, "is not a parameter of this endpoint"));
            }
            if pairs.0.iter().take(at).any(|(other, _)| other == name) {
                return Err(ApiError::field(name, "is given twice"));
            }
            if value.is_empty() {
                return Err(ApiError::field(name, "is empty; give it a value or leave it out"));
            }
        }
        Ok(Self(pairs.0))
    }

    /// Reads one parameter by `parse`; `expected` names its form in a refusal.
    pub(crate) fn get<T>(
        &self,
        parameter: Parameter,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let name = parameter.name();
        let Some((_, value)) = self.0.iter().find(|(n, _)| n == name) else { return Ok(None) };
        match parse(value) {
            Some(value) => Ok(Some(value)),
            None => Err(ApiError::field(name, format!("must be {expected}"))),
        }
    }

    /// Returns the number of items to list, 100 by default.
    pub(crate) fn limit(&self) -> Result<usize, ApiError> {
        let parse = |text: &str| text.parse().ok().filter(|n| (1..=MAX_PAGE).contains(n));
        let expected = format!("a number from 1 to {MAX_PAGE}");
        Ok(self.get(Parameter::Limit, &expected, parse)?.unwrap_or(DEFAULT_PAGE))
    }
}

/// Items of a list in one answer.
pub(crate) const DEFAULT_PAGE: usize = 100;
pub(crate) const MAX_PAGE: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Parameters, ApiError> {
        let uri = format!("/x{query}").parse().unwrap();
        Parameters::read(&uri, &[Parameter::Limit, Parameter::Cursor])
    }

    #[test]
    fn only_known_parameters_are_read_once() {
        assert_eq!(read("").unwrap().limit(), Ok(DEFAULT_PAGE));
        assert_eq!(read("?limit=7").unwrap().limit(), Ok(7));
        for bad in ["?limit=0", "?limit=1001", "?limit=-1", "?limit=a"] {
            let error = read(bad).unwrap().limit().expect_err(bad);
            assert_eq!(error.field.as_deref(), Some("limit"), "{bad}");
        }
        for (bad, field) in [
            ("?limit=1&limit=2", "limit"),
            ("?limit=", "limit"),
            ("?colour=red", "colour"),
            ("?status=active", "status"),
        ] {
            assert_eq!(read(bad).expect_err(bad).field.as_deref(), Some(field), "{bad}");
        }
    }
}
