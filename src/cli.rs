//! The command line: what an operator types, and what the process answers with.
//!
//! Commands for a running Arbiter speak its admin API; the key comes from the environment only, so
//! that no list of processes and no shell history contains it. The process says by its exit code
//! how it went: see [`Exit`].

mod admin_key;
mod agent;
mod approval;
mod audit;
mod check;
mod client;
mod freeze;
mod health;
mod init;
mod list;
mod policy;
pub(crate) mod print;
mod session;
mod shell;
mod storage;
#[cfg(test)]
mod tests;
mod token;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use client::{PemFiles, Target};
use print::{Format, Out};

use crate::config::{self, Secret};
use crate::telemetry::LogFormat;

const EXIT_CODES: &str =
    "Exit codes: 0 fine, 1 the answer is no, 2 usage or configuration, 3 cannot connect.";

/// A tool-call firewall for AI agents.
#[derive(Debug, Parser)]
#[command(name = "arbiter", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the proxy and the admin API.
    Serve(Serve),
    /// Show everything in one process, an MCP server included.
    Demo(Demo),
    #[command(flatten)]
    Tool(Tool),
}

#[derive(Args, Clone, Debug)]
pub struct Serve {
    /// The configuration file.
    #[arg(long, default_value = "conf/arbiter.toml", env = "ARBITER_CONFIG")]
    pub config: PathBuf,
    /// Write the bound addresses as JSON to this file once requests are served.
    #[arg(long)]
    pub ready_file: Option<PathBuf>,
    /// Take the listening sockets over from the running process, which then ends.
    #[arg(long)]
    pub takeover: bool,
    #[command(flatten)]
    pub log: Log,
}

#[derive(Args, Clone, Debug)]
pub struct Demo {
    /// Run the tour once and leave, instead of waiting for you.
    #[arg(long)]
    pub once: bool,
    /// Port of the proxy; 0 takes any free one.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Port of the admin API; 0 takes any free one.
    #[arg(long, default_value_t = 0)]
    pub admin_port: u16,
    #[command(flatten)]
    pub log: Log,
}

#[derive(Args, Clone, Debug)]
pub struct Log {
    /// A level, or filters such as `info,arbiter=debug`.
    #[arg(long, default_value = "info", env = "RUST_LOG")]
    pub log_level: String,
    /// Format of log lines on standard error.
    #[arg(long, value_enum, default_value_t = LogLines::Text)]
    pub log_format: LogLines,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLines {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl From<LogLines> for LogFormat {
    fn from(lines: LogLines) -> Self {
        match lines {
            LogLines::Text => Self::Text,
            LogLines::Json => Self::Json,
        }
    }
}

/// Commands that ask something and leave.
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// Write a configuration, starter policies and keys of your own into a folder.
    Init(init::Init),
    /// Check the configuration and everything it points to.
    Check(check::Check),
    /// Make keys for operators.
    #[command(subcommand)]
    AdminKey(admin_key::AdminKey),
    /// Register, show, trust and revoke agents.
    #[command(subcommand)]
    Agent(agent::Agent),
    /// Decide calls that a policy holds back for a person.
    #[command(subcommand)]
    Approval(approval::Approval),
    /// Stop everything, or one agent, owner, tool or upstream.
    #[command(subcommand)]
    Freeze(freeze::Freeze),
    /// Let go on what was frozen.
    Unfreeze(freeze::Unfreeze),
    /// Open, show and close task sessions.
    #[command(subcommand)]
    Session(session::Session),
    /// Issue tokens for all agents at once.
    #[command(subcommand)]
    Token(token::Token),
    /// Check policies and ask what they would decide.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Verify and read the audit log.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Back up the SQLite file; restore, encrypt, rekey or check it while Arbiter does not run.
    #[command(subcommand)]
    Storage(storage::Storage),
    /// Ask a running Arbiter whether it serves calls.
    Health(health::Health),
    /// Print a script that completes commands and options in a shell.
    Completions(shell::Completions),
    /// Print a manual page, or write all of them into a folder.
    Man(shell::Man),
}

/// Address of a running Arbiter.
#[derive(Args, Clone, Debug)]
struct Remote {
    /// Address of the admin API.
    #[arg(long, default_value = "http://127.0.0.1:3000", env = "ARBITER_ADMIN_URL")]
    admin_url: String,
    /// A PEM file of the authorities to trust for https, instead of the system's.
    #[arg(long, env = "ARBITER_ADMIN_CA_FILE")]
    admin_ca_file: Option<PathBuf>,
    /// A PEM file with the certificate to show, and its key.
    #[arg(long, env = "ARBITER_ADMIN_CERT_FILE")]
    admin_cert_file: Option<PathBuf>,
    #[command(flatten)]
    output: Format,
}

impl Remote {
    /// Returns the gateway to ask and the printer of its answer.
    fn open<'s>(&self, env: &Env, sink: &'s mut dyn Write) -> Result<(Target, Out<'s>), Failure> {
        Ok((self.target(env)?, Out::new(self.output, sink)))
    }

    fn target(&self, env: &Env) -> Result<Target, Failure> {
        let files = PemFiles {
            authorities: self.admin_ca_file.as_deref(),
            certificate: self.admin_cert_file.as_deref(),
        };
        Target::new(&self.admin_url, admin_key(env)?, files)
    }
}

/// Reads the admin key from the environment, or from the file that it names.
fn admin_key(env: &Env) -> Result<Option<Secret>, Failure> {
    const KEY: &str = "ARBITER_ADMIN_API_KEY";
    const FILE: &str = "ARBITER_ADMIN_API_KEY_FILE";
    match (env.get(KEY), env.get(FILE)) {
        (Some(_), Some(_)) => {
            Err(Failure::usage(format!("{KEY} and {FILE} are both set; keep one")))
        }
        (Some(key), None) => Ok(Some(Secret::new(key.to_owned()))),
        (None, Some(path)) => {
            let key = Secret::from_file(std::path::Path::new(path));
            key.map(Some).map_err(|problem| Failure::usage(format!("{FILE} {problem}")))
        }
        (None, None) => Ok(None),
    }
}

/// The process's environment, read once.
struct Env(Vec<(String, String)>);

impl Env {
    fn get(&self, wanted: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }
}

/// Exit code of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Fine,
    /// The answer is no: refused, invalid, damaged, not ready.
    No,
    /// The command line or the configuration is wrong.
    Usage,
    /// Arbiter cannot be reached.
    Unreachable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Fine => 0,
            Exit::No => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
        })
    }
}

/// Reason why a command failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Failure {
    exit: Exit,
    message: String,
    /// The reader of the output closed it, as `head` does.
    reader_left: bool,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), reader_left: false }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl From<std::io::Error> for Failure {
    /// Only printing fails this way: the reader of the output has gone.
    fn from(error: std::io::Error) -> Self {
        let reader_left = error.kind() == std::io::ErrorKind::BrokenPipe;
        let message = format!("cannot write the output: {error}");
        Self { reader_left, ..Self::new(Exit::No, message) }
    }
}

/// Says on stderr why the process ends.
pub fn complain(message: &str) {
    print::complain(message);
}

/// Runs a command to its end, printing to the process's own output.
pub fn run(tool: &Tool) -> ExitCode {
    let env = Env(config::environment().collect());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            print::complain(&format!("cannot start: {error}"));
            return Exit::Usage.into();
        }
    };
    print::colour_terminals(&env);
    let mut stdout = std::io::stdout().lock();
    match runtime.block_on(run_with(tool, &env, &mut stdout)) {
        Ok(exit) => exit.into(),
        // The reader of the output has seen enough: nothing went wrong, and nobody reads a message.
        Err(Failure { reader_left: true, .. }) => Exit::Fine.into(),
        Err(failure) => {
            print::complain(&failure.message);
            failure.exit.into()
        }
    }
}

async fn run_with(tool: &Tool, env: &Env, sink: &mut dyn Write) -> Result<Exit, Failure> {
    match tool {
        Tool::Init(init) => init.run(sink),
        Tool::Check(check) => check.run(env, &mut Out::new(check.output, sink)).await,
        Tool::AdminKey(key) => key.run(sink),
        Tool::Agent(agent) => agent.run(env, sink).await,
        Tool::Approval(approval) => approval.run(env, sink).await,
        Tool::Freeze(freeze) => freeze.run(env, sink).await,
        Tool::Unfreeze(unfreeze) => unfreeze.run(env, sink).await,
        Tool::Session(session) => session.run(env, sink).await,
        Tool::Token(token) => token.run(env, sink).await,
        Tool::Policy(policy) => policy.run(env, sink).await,
        Tool::Audit(audit) => audit.run(env, sink).await,
        Tool::Storage(storage) => storage.run(env, sink).await,
        Tool::Health(health) => health.run(env, sink).await,
        Tool::Completions(completions) => completions.run(sink),
        Tool::Man(man) => man.run(sink),
    }
}
