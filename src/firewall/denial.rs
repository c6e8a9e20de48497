//! Every refusal, and the one table that says how each looks from outside.

use serde_json::{Map, Value};

/// Stage of a request at which it was refused.
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

/// Category of a refusal for the audit log.
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
    HostDenied               403    403 Protocol    Protocol;
    OriginDenied             403    403 Protocol    Protocol;
    NotMcp                   403    403 Protocol    Protocol;
    UnsupportedMediaType     415    415 Protocol    Protocol;
    BodyTooLarge             413    413 Protocol    Protocol;
    RequestTooSlow           408    408 Protocol    Protocol;
    UriTooLong               414    414 Protocol    Protocol;
    HeadTooLarge             431    431 Protocol    Protocol;
    NotJson                  400 -32700 Protocol    Protocol;
    MalformedRequest         400 -32600 Protocol    Protocol;
    MetaMissing              400 -32602 Protocol    Protocol;
    VersionUnsupported       400 -32022 Protocol    Protocol;
    CapabilityMissing        400 -32021 Protocol    Protocol;
    HeaderMismatch           400 -32020 Protocol    Protocol;
    MethodNotFound           404 -32601 Protocol    Protocol;
    TokenMissing             401    401 Identity    Governance;
    TokenInvalid             401    401 Identity    Governance;
    TokenExpired             401    401 Identity    Governance;
    IdentityUnavailable      503    503 Identity    Infrastructure;
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
    TaskUnknown              200 -32602 Session     Governance;
    ContinuationUnknown      403    403 Session     Governance;
    SessionExpired           408    408 Session     Infrastructure;
    SessionClosed            408    408 Session     Infrastructure;
    BudgetExhausted          429    429 Session     Infrastructure;
    RateLimited              429    429 Session     Infrastructure;
    PolicyDenied             403    403 Policy      Governance;
    EscalationRequired       403    403 Policy      Governance;
    ApprovalDenied           403    403 Policy      Governance;
    TooManyApprovals         429    429 Policy      Governance;
    DriftDetected            403    403 Drift       Governance;
    CredentialUnknown        403    403 Credentials Governance;
    CredentialNotAuthorized  403    403 Credentials Governance;
    CredentialMisplaced      403    403 Credentials Governance;
    CredentialTooShort       403    403 Credentials Governance;
    Frozen                   403    403 Gateway     Governance;
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
    /// The name the agent and the log see. Requests can be malformed in several ways, each with its own
    /// JSON-RPC code.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotJson
            | Self::MetaMissing
            | Self::VersionUnsupported
            | Self::CapabilityMissing => "MalformedRequest",
            _ => self.row().name,
        }
    }
}

/// Reason why an upstream's answer did not reach the agent: one list for answers, records and
/// metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its name could not be resolved.
    Dns,
    /// The upstream takes no connections.
    Refused,
    /// TLS could not be agreed on, its certificate included.
    Tls,
    /// The upstream did not answer in time.
    Timeout,
    /// The upstream closed the connection too early.
    Reset,
    /// The upstream answered with something else than was due.
    Protocol,
    /// Its answer is larger than is allowed.
    TooLarge,
    /// The upstream does not accept the gateway's own credentials.
    Credentials,
}

impl Cause {
    pub const ALL: [Self; 8] = [
        Self::Dns,
        Self::Refused,
        Self::Tls,
        Self::Timeout,
        Self::Reset,
        Self::Protocol,
        Self::TooLarge,
        Self::Credentials,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Refused => "refused",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::TooLarge => "too_large",
            Self::Credentials => "credentials",
        }
    }

    /// The refusal that a call gets for this cause.
    pub fn code(self) -> Code {
        match self {
            Self::Timeout => Code::UpstreamTimeout,
            Self::TooLarge => Code::UpstreamResponseTooLarge,
            Self::Dns
            | Self::Refused
            | Self::Tls
            | Self::Reset
            | Self::Protocol
            | Self::Credentials => Code::UpstreamFailed,
        }
    }
}

/// One refusal: its cause, and the agent's message.
#[derive(Clone, Debug, PartialEq)]
pub struct Denial {
    pub code: Code,
    /// Tells the agent what to do next. Quotes no secret, no other agent's data, no policy text.
    pub message: String,
    pub retry_after_secs: Option<u64>,
    /// Reason why the upstream failed, if it did.
    pub cause: Option<Cause>,
    /// Further members of `error.data`.
    pub details: Map<String, Value>,
}

impl Denial {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message, retry_after_secs: None, cause: None, details: Map::new() }
    }

    /// The refusal of a call whose upstream failed.
    pub fn upstream(cause: Cause, message: impl Into<String>) -> Self {
        let mut denial = Self::new(cause.code(), message).with("cause", cause.as_str());
        denial.cause = Some(cause);
        denial
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
