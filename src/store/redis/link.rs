//! One lasting connection: made when it is needed, thrown away when it fails, made again.
//!
//! Nothing is ever asked twice: a script whose answer did not come may have run. Calls that such a
//! script booked count as spent, which is the safe side. A script may not run late either: connections
//! are numbered, and the scripts of an earlier one are refused once a later one has been used.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::{Mutex, MutexGuard};
use redis::aio::ConnectionLike;
use redis::{Cmd, FromRedisValue, Pipeline, ScriptInvocation};
use tokio::runtime::Handle;

use super::dial::{Connection, dial};
use super::fault::RedisFault;
use super::scripts::Run;
use crate::config;

/// Time for which a failed connection attempt is the answer for everyone, so that a crowd does not
/// dial.
const BREATH: Duration = Duration::from_millis(50);

type Dialling = Shared<BoxFuture<'static, Result<Connection, RedisFault>>>;

pub(super) struct Link {
    config: Arc<config::Redis>,
    /// Time limit of any request.
    patience: Duration,
    /// Distinguishes this line of connections from the node's other ones, in its writes.
    lane: &'static str,
    /// The runtime on which the connection lives: it outlasts the threads that serve
    /// calls, and does nothing else that takes long.
    home: Handle,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    /// The number of the latest connection, from one on.
    generation: u64,
    dialling: Option<Dialling>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.config.servers)
    }
}

impl Link {
    pub(super) fn new(
        config: Arc<config::Redis>,
        patience: Duration,
        lane: &'static str,
        home: Handle,
    ) -> Self {
        Self { config, patience, lane, home, current: Mutex::default() }
    }

    pub(super) async fn command<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, RedisFault> {
        Ok(self.ask(Ask::Command(cmd)).await?.0)
    }

    /// Sends several commands at once; not a transaction.
    pub(super) async fn pipeline<T: FromRedisValue>(
        &self,
        pipeline: &Pipeline,
    ) -> Result<T, RedisFault> {
        Ok(self.ask(Ask::Pipeline(pipeline)).await?.0)
    }

    /// Sends several commands at once; returns the number of the connection as well.
    pub(super) async fn pipeline_by<T: FromRedisValue>(
        &self,
        pipeline: &Pipeline,
    ) -> Result<(T, u64), RedisFault> {
        self.ask(Ask::Pipeline(pipeline)).await
    }

    pub(super) async fn script<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisFault> {
        Ok(self.ask(Ask::Script(script)).await?.0)
    }

    /// Runs a write, unless a later connection than the one it takes has been used when it arrives.
    pub(super) async fn write<T: FromRedisValue>(&self, run: &Run<'_>) -> Result<T, RedisFault> {
        Ok(self.ask(Ask::Write(run)).await?.0)
    }

    /// Gives the connection up.
    pub(super) fn hang_up(&self) {
        self.current().dialling = None;
    }

    async fn ask<T: FromRedisValue>(&self, ask: Ask<'_>) -> Result<(T, u64), RedisFault> {
        let (generation, dialling) = self.dialling();
        let answer = async {
            let mut connection = dialling.await?;
            let value = match ask {
                Ask::Command(command) => connection.req_packed_command(command).await?,
                Ask::Pipeline(pipeline) => pipeline.query_async(&mut connection).await?,
                Ask::Script(script) => script.invoke_async(&mut connection).await?,
                Ask::Write(run) => {
                    run.by(generation, self.lane).invoke_async(&mut connection).await?
                }
            };
            // An error in place of an answer has come this far as a value.
            let value = value.extract_error()?;
            T::from_redis_value(value).map_err(|_other| RedisFault::Unexpected)
        };
        let answer = tokio::time::timeout(self.patience, answer).await;
        let answer = answer.unwrap_or_else(|_elapsed| {
            Err(RedisFault::NoAnswer { after_ms: self.patience.as_millis() })
        });
        if answer.as_ref().is_err_and(RedisFault::ends_connection) {
            let mut current = self.current();
            if current.generation == generation {
                current.dialling = None;
            }
        }
        answer.map(|answer| (answer, generation))
    }

    /// The connection, or the attempt at one that all wait for together.
    fn dialling(&self) -> (u64, Dialling) {
        let mut current = self.current();
        if let Some(dialling) = &current.dialling {
            return (current.generation, dialling.clone());
        }
        let config = Arc::clone(&self.config);
        let attempt = self.home.spawn(async move {
            let dialled = dial(&config).await;
            if dialled.is_err() {
                tokio::time::sleep(BREATH).await;
            }
            dialled
        });
        let stopping = || RedisFault::Unreachable { why: "Arbiter is stopping".to_owned() };
        let attempt = async move { attempt.await.unwrap_or_else(|_stopped| Err(stopping())) };
        let dialling = attempt.boxed().shared();
        current.generation += 1;
        current.dialling = Some(dialling.clone());
        (current.generation, dialling)
    }

    /// No step under the lock can fail half-way, so one that a panic left is as good as any.
    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock()
    }
}

enum Ask<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
    Script(&'a ScriptInvocation<'a>),
    Write(&'a Run<'a>),
}
