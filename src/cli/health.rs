//! `arbiter health`: for people, and for container health checks.

use std::io::Write;

use clap::Args;

use super::print::Out;
use super::{Env, Exit, Failure, Remote};

#[derive(Args, Debug)]
pub struct Health {
    #[command(flatten)]
    remote: Remote,
}

impl Health {
    pub(super) async fn run(&self, env: &Env, sink: &mut dyn Write) -> Result<Exit, Failure> {
        let reply = self.remote.target(env)?.ask_openly(&["ready"]).await?;
        if !reply.status.is_success() {
            return Err(Failure::new(Exit::No, reply.complaint()));
        }
        Out::new(self.remote.output, sink).thing(&reply.body)?;
        Ok(Exit::Fine)
    }
}
