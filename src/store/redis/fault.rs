//! Faults of a Redis server, described with their remedy. The server's own text is repeated only
//! where it cannot contain what was sent, which may be a password.

use std::path::PathBuf;

use redis::{ErrorKind, RedisError, ServerErrorKind};

#[derive(Clone, Debug, thiserror::Error)]
pub enum RedisFault {
    #[error("Redis cannot be reached: {why}")]
    Unreachable { why: String },
    #[error("Redis did not answer within {after_ms} ms")]
    NoAnswer { after_ms: u128 },
    #[error("Redis refuses the user or the password in `storage.redis_url` ({code})")]
    Refused { code: String },
    #[error(
        "the Redis user may not do what Arbiter needs: give it `~{{prefix}}:*` and the commands that \
         the README lists ({said})"
    )]
    NotAllowed { said: String },
    #[error("this Redis is a replica, which cannot be written to: give the primary's address")]
    Replica,
    #[error("Redis has no memory left: raise `maxmemory`")]
    Full,
    #[error("Redis could not do it ({code})")]
    Failed { code: String },
    #[error("cannot read `storage.redis_ca_file` {path}: {why}", path = path.display())]
    CaFile { path: PathBuf, why: String },
    #[error(
        "Redis may evict what Arbiter keeps, and with it what was spent: its `maxmemory-policy` is \
         `{policy}`; set it to `noeviction`"
    )]
    Evicts { policy: String },
    #[error("the keys under this `storage.redis_prefix` were written by another version ({found})")]
    Format { found: String },
    #[error("Redis answered something unexpected")]
    Unexpected,
}

impl RedisFault {
    /// Reports whether the connection it came by is of no more use.
    pub(super) fn ends_connection(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::NoAnswer { .. }
            | Self::Refused { .. }
            // After a failover the address may lead to the new primary.
            | Self::Replica
            | Self::Unexpected => true,
            // Another node of the cluster has the keys now.
            Self::Failed { code } => {
                matches!(code.as_str(), "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN")
            }
            Self::NotAllowed { .. }
            | Self::Full
            | Self::CaFile { .. }
            | Self::Evicts { .. }
            | Self::Format { .. } => false,
        }
    }
}

impl From<RedisError> for RedisFault {
    fn from(error: RedisError) -> Self {
        let code = error.code().unwrap_or_default().to_owned();
        match (error.kind(), code.as_str()) {
            (ErrorKind::AuthenticationFailed, _) | (_, "WRONGPASS" | "NOAUTH") => {
                let code =
                    if code.is_empty() { "no such user or password".to_owned() } else { code };
                Self::Refused { code }
            }
            // The server names the command or the key, never the arguments.
            (ErrorKind::Server(ServerErrorKind::NoPerm), _) => {
                Self::NotAllowed { said: error.detail().unwrap_or("NOPERM").to_owned() }
            }
            (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => Self::Replica,
            (_, "OOM") => Self::Full,
            // These come from this side: the operating system, TLS, or the library.
            (ErrorKind::Io, _) => Self::Unreachable { why: error.to_string() },
            (ErrorKind::MasterNameNotFoundBySentinel, _) => {
                Self::Unreachable { why: "no sentinel knows a primary of this service".to_owned() }
            }
            (ErrorKind::ClusterConnectionNotFound, _) => Self::Unreachable {
                why: "no node of the cluster answers for these keys".to_owned(),
            },
            (ErrorKind::Parse | ErrorKind::UnexpectedReturnType, _) => Self::Unexpected,
            (_, "") => Self::Failed { code: error.category().to_owned() },
            (_, _) => Self::Failed { code },
        }
    }
}
