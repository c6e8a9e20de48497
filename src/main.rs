//! `arbiter`: reads the arguments and hands over.

use std::process::ExitCode;

use arbiter::app;
use arbiter::cli::{self, Cli, Command, Exit};
use arbiter::config::{self, Config};
use arbiter::{demo, telemetry};
use clap::Parser;

// Without transparent huge pages: each idle stream holds some buffers of 64 KiB that are all but
// empty, and with them the kernel would make every page of those resident.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(serve) => serve_calls(&serve),
        Command::Demo(shown) => show(&shown).or_else(quiet_if_the_reader_left),
        Command::Tool(tool) => return cli::run(&tool),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            cli::complain(&format!("{error:#}"));
            Exit::Usage.into()
        }
    }
}

fn serve_calls(serve: &cli::Serve) -> anyhow::Result<Exit> {
    let config = Config::load(&serve.config, config::environment())?;
    telemetry::init(&serve.log.log_level, serve.log.log_format.into())?;
    let (_switch, stopped) = app::stop_switch();
    let way = if serve.takeover { app::Way::TakeOver } else { app::Way::Start };
    app::run(&config, way, stopped, |started| match &serve.ready_file {
        Some(path) => app::write_ready_file(path, started),
        None => Ok(()),
    })?;
    Ok(Exit::Fine)
}

/// Ends in peace where nobody reads the output any more, as with `arbiter demo --once | head`.
fn quiet_if_the_reader_left(error: anyhow::Error) -> anyhow::Result<Exit> {
    let io = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind)
    };
    let reader_left = error.chain().any(|cause| io(cause) == Some(std::io::ErrorKind::BrokenPipe));
    if reader_left { Ok(Exit::Fine) } else { Err(error) }
}

fn show(shown: &cli::Demo) -> anyhow::Result<Exit> {
    telemetry::init(&shown.log.log_level, shown.log.log_format.into())?;
    let options =
        demo::Options { once: shown.once, proxy_port: shown.port, admin_port: shown.admin_port };
    let fine = demo::run(options, &mut std::io::stdout())?;
    Ok(if fine { Exit::Fine } else { Exit::No })
}
