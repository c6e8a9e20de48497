//! Every refusal, and the one table that says how each looks from outside.

use serde_json::{Map, Value};

/// At which stage of a request's life it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Protocol,
    Identity,
    Session,
    Policy,
    Drift,
    Credentials,
    Gateway,
    Upstream,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Identity => "identity",
            Self::Session => "session",
            Self::Policy => "policy",
            Self::Drift => "drift",
            Self::Credentials => "credentials",
            Self::Gateway => "gateway",
            Self::Upstream => "upstream",
        }
    }
}

/// Whose business a refusal is, for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    Governance,
    Infrastructure,
    Protocol,
}

impl Category {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Governance => "governance",
            Self::Infrastructure => "infrastructure",
            Self::Protocol => "protocol",
        }
    }
}

/// One row of the refusal table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub status: u16,
    /// JSON-RPC `error.code`: the JSON-RPC or MCP one where there is one, else the status.
    pub rpc: i32,
    pub stage: Stage,
    pub category: Category,
}

macro_rules! table {
    ($($code:ident $status:literal $rpc:literal $stage:ident $category:ident;)*) => {
        /// The cause of a refusal.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($code),* }

        impl Code {
            /// Every cause, in the table's order.
            pub const ALL: &[Self] = &[$(Self::$code),*];

            pub fn row(self) -> Row {
                match self {
                    $(Self::$code => Row {
                        name: stringify!($code),
                        status: $status,
                        rpc: $rpc,
                        stage: Stage::$stage,
                        category: Category::$category,
                    }),*
                }
            }
        }
    };
}

#[rustfmt::skip]
table! {
    MethodNotAllowed         405    405 Protocol    Protocol;
    HttpVersionNotSupported  505    505 Protocol    Protocol;
    PathBlocked              403    403 Protocol    Protocol;
    OriginDenied             403    403 Protocol    Protocol;
    NotMcp                   403    403 Protocol    Protocol;
    UnsupportedMediaType     415    415 Protocol    Protocol;
    BodyTooLarge             413    413 Protocol    Protocol;
    RequestTooSlow           408    408 Protocol    Protocol;
    UriTooLong               414    414 Protocol    Protocol;
    HeadTooLarge             431    431 Protocol    Protocol;
    NotJson                  400 -32700 Protocol    Protocol;
    MalformedRequest         400 -32600 Protocol    Protocol;
    HeaderMismatch           400 -32020 Protocol    Protocol;
    TokenMissing             401    401 Identity    Governance;
    TokenInvalid             401    401 Identity    Governance;
    TokenExpired             401    401 Identity    Governance;
    AgentUnknown             403    403 Identity    Governance;
    AgentInactive            403    403 Identity    Governance;
    InsufficientScope        403    403 Identity    Governance;
    SessionRequired          403    403 Session     Governance;
    SessionUnknown           403    403 Session     Governance;
    AgentIdRequired          403    403 Session     Governance;
    AgentMismatch            403    403 Session     Governance;
    ToolNotAuthorized        403    403 Session     Governance;
    ResourceNotAuthorized    403    403 Session     Governance;
    PromptNotAuthorized      403    403 Session     Governance;
    MethodNotAuthorized      403    403 Session     Governance;
    SensitivityExceeded      403    403 Session     Governance;
    McpSessionUnknown        404    404 Session     Governance;
    SessionExpired           408    408 Session     Infrastructure;
    SessionClosed            408    408 Session     Infrastructure;
    BudgetExhausted          429    429 Session     Infrastructure;
    RateLimited              429    429 Session     Infrastructure;
    PolicyDenied             403    403 Policy      Governance;
    EscalationRequired       403    403 Policy      Governance;
    DriftDetected            403    403 Drift       Governance;
    CredentialUnknown        403    403 Credentials Governance;
    CredentialNotAuthorized  403    403 Credentials Governance;
    CredentialMisplaced      403    403 Credentials Governance;
    CredentialTooShort       403    403 Credentials Governance;
    TooManyRefusals          429    429 Gateway     Governance;
    TooManyInFlight          429    429 Gateway     Infrastructure;
    InternalError            500 -32603 Gateway     Infrastructure;
    AuditUnavailable         503    503 Gateway     Infrastructure;
    StoreUnavailable         503    503 Gateway     Infrastructure;
    Overloaded               503    503 Gateway     Infrastructure;
    UpstreamFailed           502    502 Upstream    Infrastructure;
    UpstreamResponseTooLarge 502    502 Upstream    Infrastructure;
    UpstreamTimeout          504    504 Upstream    Infrastructure;
}

impl Code {
    /// The name the agent and the log see. Text that is not JSON is a malformed request too.
    pub fn name(self) -> &'static str {
        if self == Self::NotJson { "MalformedRequest" } else { self.row().name }
    }
}

/// One refusal: what it was, and what the agent is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Denial {
    pub code: Code,
    /// Tells the agent what to do next. Quotes no secret, no other agent's data, no policy text.
    pub message: String,
    pub retry_after_secs: Option<u64>,
    /// Further members of `error.data`.
    pub details: Map<String, Value>,
}

impl Denial {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_secs: None, details: Map::new() }
    }

    #[must_use]
    pub fn retry_after(mut self, secs: u64) -> Self {
        self.retry_after_secs = Some(secs);
        self
    }

    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }
}
