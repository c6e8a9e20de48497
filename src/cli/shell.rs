//! `arbiter completions` and `arbiter man`: what shells and `man` read, made from the commands themselves.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Exit, Failure};

#[derive(Args, Debug)]
pub struct Completions {
    /// Shell that reads the script, for example `source <(arbiter completions bash)`.
    shell: Shell,
}

#[derive(Args, Debug)]
pub struct Man {
    /// Command that the page is about, such as `session open`; without it, Arbiter as a whole.
    command: Vec<String>,
    /// Write the pages of all commands into this folder, as `arbiter-session-open.1` and so on.
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    out: Option<PathBuf>,
}

impl Completions {
    pub(super) fn run(&self, sink: &mut dyn Write) -> Result<Exit, Failure> {
        // In memory first: the generator panics where its output is closed.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "arbiter", &mut script);
        sink.write_all(&script)?;
        Ok(Exit::Fine)
    }
}

impl Man {
    pub(super) fn run(&self, sink: &mut dyn Write) -> Result<Exit, Failure> {
        let mut root = Cli::command();
        root.build();
        if let Some(folder) = &self.out {
            let failed = |error: std::io::Error| {
                Failure::usage(format!("cannot write into {}: {error}", folder.display()))
            };
            std::fs::create_dir_all(folder).map_err(failed)?;
            clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
            return Ok(Exit::Fine);
        }
        let mut command = &root;
        for word in &self.command {
            command = command.find_subcommand(word).ok_or_else(|| {
                let known: Vec<_> =
                    command.get_subcommands().map(clap::Command::get_name).collect();
                let known = known.join(", ");
                Failure::usage(format!("no command `{word}`; there are: {known}"))
            })?;
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone()).render(&mut page)?;
        sink.write_all(&page)?;
        Ok(Exit::Fine)
    }
}
