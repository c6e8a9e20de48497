//! Errors of the admin API: `{"error":"<Code>","message":"…"}` for every cause.

use std::fmt;

use axum::Json;
use axum::http::header::{CONNECTION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::firewall::policy::PolicyError;

/// One refusal or failure of an admin call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub code: Code,
    pub message: String,
    /// The field of the request that is to blame.
    pub field: Option<String>,
    pub retry_after_secs: Option<u64>,
    /// Mistakes in policy files.
    pub mistakes: Vec<Mistake>,
}

/// One mistake in a policy text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Mistake {
    /// Name of the file.
    source: String,
    /// From 1 on; 0 when the file as a whole is meant.
    line: usize,
    /// In characters, from 1 on.
    column: usize,
    message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.source, self.line, self.column, self.message)
    }
}

impl From<PolicyError> for Mistake {
    fn from(error: PolicyError) -> Self {
        let PolicyError { source, line, column, message } = error;
        Self { source, line, column, message }
    }
}

macro_rules! codes {
    ($($code:ident $status:ident;)*) => {
        /// Error code, for programs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
        #[schemars(rename = "ErrorCode")]
        pub enum Code { $($code),* }

        impl Code {
            pub fn name(self) -> &'static str {
                match self { $(Self::$code => stringify!($code)),* }
            }

            pub fn status(self) -> StatusCode {
                match self { $(Self::$code => StatusCode::$status),* }
            }
        }
    };
}

codes! {
    MalformedRequest BAD_REQUEST;
    InvalidField BAD_REQUEST;
    ScopeNarrowingViolation BAD_REQUEST;
    DelegationCycle BAD_REQUEST;
    Unauthorized UNAUTHORIZED;
    Forbidden FORBIDDEN;
    HostDenied FORBIDDEN;
    NotFound NOT_FOUND;
    MethodNotAllowed METHOD_NOT_ALLOWED;
    RequestTimeout REQUEST_TIMEOUT;
    AgentInactive CONFLICT;
    AlreadyDecided CONFLICT;
    NotYetCheckpointed CONFLICT;
    NotSupported CONFLICT;
    BodyTooLarge PAYLOAD_TOO_LARGE;
    UriTooLong URI_TOO_LONG;
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE;
    PolicyInvalid UNPROCESSABLE_ENTITY;
    HeadTooLarge REQUEST_HEADER_FIELDS_TOO_LARGE;
    TooManyRevoked TOO_MANY_REQUESTS;
    TooManyFreezes TOO_MANY_REQUESTS;
    TooManySessions TOO_MANY_REQUESTS;
    TooManySearches TOO_MANY_REQUESTS;
    RateLimited TOO_MANY_REQUESTS;
    Internal INTERNAL_SERVER_ERROR;
    AuditUnavailable SERVICE_UNAVAILABLE;
    StoreUnavailable SERVICE_UNAVAILABLE;
    IdentityUnavailable SERVICE_UNAVAILABLE;
    SearchUnfinished SERVICE_UNAVAILABLE;
    Draining SERVICE_UNAVAILABLE;
}

/// The body of every answer that is not a success.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ErrorBody {
    /// Error code, for programs.
    error: Code,
    /// Description of the error and the remedy, for people.
    message: String,
    /// The field of the request that is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// Mistakes in policy files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    errors: Vec<Mistake>,
}

impl ApiError {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            field: None,
            retry_after_secs: None,
            mistakes: Vec::new(),
        }
    }

    /// A field whose value will not do. The message begins with its name.
    pub fn field(field: impl Into<String>, problem: impl AsRef<str>) -> Self {
        let field = field.into();
        let message = format!("`{field}` {}", problem.as_ref());
        Self { field: Some(field), ..Self::new(Code::InvalidField, message) }
    }

    /// Something that the path names is not there.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no such {what}"))
    }

    #[must_use]
    pub fn retry_after(mut self, secs: u64) -> Self {
        self.retry_after_secs = Some(secs);
        self
    }

    #[must_use]
    pub fn with_mistakes(mut self, mistakes: Vec<Mistake>) -> Self {
        self.mistakes = mistakes;
        self
    }

    #[must_use]
    pub fn of_field(mut self, field: &str) -> Self {
        self.field = Some(field.to_owned());
        self
    }

    /// Names the field as a member of another one.
    #[must_use]
    pub fn inside(mut self, outer: &str) -> Self {
        if let Some(field) = &mut self.field {
            let inner = std::mem::replace(field, format!("{outer}.{field}"));
            self.message = self.message.replacen(&format!("`{inner}`"), &format!("`{field}`"), 1);
        }
        self
    }
}

impl ApiError {
    /// Adds the headers that the answer has besides those of its body.
    pub fn complete(&self, headers: &mut HeaderMap) {
        if let Some(secs) = self.retry_after_secs {
            headers.insert(RETRY_AFTER, HeaderValue::from(secs));
        }
        // The rest of the body is not waited for.
        if matches!(self.code, Code::BodyTooLarge | Code::RequestTimeout) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Writes the body of the answer.
    #[expect(clippy::expect_used, reason = "strings and numbers are always JSON")]
    pub fn text(self) -> String {
        serde_json::to_string(&ErrorBody::from(self)).expect("a body of strings and numbers")
    }
}

impl From<ApiError> for ErrorBody {
    fn from(error: ApiError) -> Self {
        let ApiError { code, message, field, retry_after_secs: _, mistakes } = error;
        Self { error: code, message, field, errors: mistakes }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::new();
        self.complete(&mut headers);
        (self.code.status(), headers, Json(ErrorBody::from(self))).into_response()
    }
}
