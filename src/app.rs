//! Wiring: the parts of the process, their start order and their stop order.
//!
//! Start: state first (store, agents, sessions, audit log, policies, credentials), then the sockets,
//! then the services on them, so that every mistake is reported before the first request. Stop:
//! readiness falls, calls in flight end or run out of time, leases go back, the log is drained.
//! The data plane has Pingora's threads; store, log, admin API, reload and upkeep have their
//! own.

mod connection;
mod descriptors;
mod follow;
pub(crate) mod handover;
mod headers;
mod listener;
mod node;
mod notify;
mod on_record;
mod open;
mod parts;
mod reload;
mod services;
mod settings;
mod shared;
mod snapshot;
mod stop;
mod tls;
mod traces;
mod upkeep;
mod upstreams;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tracing::{info, warn};

use crate::admin::People;
use crate::audit::redact::Redactor;
use crate::clock::Clock;
use crate::config::{self, Backend, Config};
use crate::proxy::leave::Leaving;
use crate::proxy::listen::PreBound;
use crate::proxy::probe;
use crate::rulebook::Rulebook;
use listener::AdminService;
use parts::Parts;
use settings::{seal_key, terms};
use stop::{Draining, Signals};
use tls::Certificate;

pub(crate) use headers::Templates;
pub(crate) use reload::secrets as load_secrets;
pub(crate) use settings::{audit_settings, drift_tools};
pub(crate) use shared::out_of_time;
pub use stop::{Stopped, Switch, stop_switch};

/// Time that tasks of the control runtime may take to end.
const LAST_TASKS: Duration = Duration::from_secs(1);

/// Added to the niceness of the threads for large bodies: small calls, on the other threads, go before them.
const BULK_NICENESS: i32 = 10;

/// Addresses of a running gateway.
#[derive(Clone, Debug, Serialize)]
pub struct Started {
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    pub pid: u32,
}

/// Origin of the listening sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Sockets that systemd holds, else new ones.
    Start,
    /// Sockets of the running process, which then ends.
    TakeOver,
}

/// Starts threads for one kind of work.
fn runtime(name: &str, threads: usize) -> Result<Runtime> {
    started(name, threads, &mut Builder::new_multi_thread())
}

/// Starts threads for long work, which let other threads go first and return what they freed: see
/// [`upkeep::give_back`].
fn bulk_runtime(name: &str, threads: usize) -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.on_thread_start(let_others_go_first).on_thread_park(upkeep::give_back);
    let bulk = started(name, threads, &mut builder)?;
    bulk.spawn(upkeep::memory());
    Ok(bulk)
}

/// Makes the calling thread nicer; Linux keeps that for each thread.
fn let_others_go_first() {
    if let Err(error) = rustix::process::nice(BULK_NICENESS) {
        warn!(%error, "large bodies are read at the priority of all other work");
    }
}

fn started(name: &str, threads: usize, builder: &mut Builder) -> Result<Runtime> {
    let built = builder.worker_threads(threads).thread_name(name).enable_all().build();
    built.with_context(|| format!("starting the threads for `{name}`"))
}

/// Serves until a signal or the switch stops it, or another process takes over.
pub fn run(
    config: &Config,
    way: Way,
    stopped: Stopped,
    on_ready: impl FnOnce(&Started) -> Result<()>,
) -> Result<()> {
    let control = runtime("control", 1)?;
    let reload_signals = {
        let _within = control.enter();
        reload::Signals::watch().context("watching for signals")?
    };
    // The connections to a shared store: nothing else keeps them waiting.
    let store_io = runtime("store-io", 1)?;
    let upkeep = runtime("upkeep", 1)?;
    let certificate = config.proxy.tls.as_ref().map(Certificate::open).transpose();
    let certificate = certificate.with_context(|| config.at("proxy.tls"))?;
    let admin_tls = config.admin.tls.as_ref().map(Certificate::for_admin).transpose();
    let admin_tls = admin_tls.with_context(|| config.at("admin.tls"))?;
    let tls = certificate.as_ref().map(Certificate::settings).transpose()?;
    let taken_over = match way {
        Way::Start => None,
        Way::TakeOver => {
            // The running process is asked to end only if nothing that can be tried is wrong.
            rehearse(config)?;
            Some(handover::take_over(config)?)
        }
    };
    let mut parts = control.block_on(Parts::build(config, store_io.handle()))?;
    let sockets = match taken_over {
        Some(sockets) => sockets,
        None => handover::open(config)?,
    };
    let started = Started {
        proxy: sockets.proxy.local_addr()?,
        admin: sockets.admin.local_addr()?,
        pid: std::process::id(),
    };
    let offer = handover::offer(config, &started, &sockets);

    for hint in config.hints() {
        warn!("{hint}");
    }
    let threads = config.proxy.threads.unwrap_or_else(cores);
    let descriptors = descriptors::divide(config)?;
    let conf = ServerConf {
        threads,
        // One thread has nobody to steal from, and a runtime that could would pay for it.
        work_stealing: threads > 1,
        // The wait is over when Pingora gets the signal: see `stop`.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        upstream_keepalive_pool_size: descriptors.pool,
        max_retries: 3,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    let upstreams = Arc::new(upstreams::connect(config, &parts.headers)?);
    control.spawn(probe::watch(upstreams.clone(), parts.state.clock.clone()));
    snapshot::connect(&parts, upstreams.clone(), certificate.clone());
    // Apart from each other: what agents send does not keep answers waiting.
    let bulk = bulk_runtime("bulk", threads.div_ceil(2))?;
    let answers = bulk_runtime("answers", threads.div_ceil(2))?;
    let people = People::new(config, &parts.state.clock, control.handle())
        .context("preparing to ask the issuer of `admin.oidc`")?;
    let sources = control.block_on(parts.sources(config));
    let admin = parts.admin(config, people, sources, control.handle());
    let sealing = upstreams.clone();
    let gateway = parts.gateway(config, upstreams, (bulk.handle(), answers.handle()), &admin);
    let guard = parts.guard(config, gateway, &server, descriptors.pool, control.handle())?;
    let door = parts.door(config, descriptors.connections);
    let drain = &parts.state.drain;
    let leaving = Leaving { inner: Arc::new(guard), leaving: drain.when_leaving() };
    let closed = drain.when_closed();
    let service = PreBound::new("proxy", leaving, sockets.proxy, tls, door, closed);
    server.add_service(service.with_threads(threads));
    let admin_settings = admin_tls.as_ref().map(|(_, tls)| tls.clone());
    let admin = AdminService::new(admin, sockets.admin, admin_settings, drain.when_closed());
    let admin_ended = admin.when_ended();
    server.add_service(admin);
    let signals = {
        let _within = control.enter();
        Signals::watch().context("watching for signals")?
    };
    let successor = offer.successor.clone();
    let taken = offer.taken.subscribe();
    control.spawn(offer.serve(drain.when_leaving()));
    control.block_on(parts.start_on_record(config, &started));
    let certificates = certificate.into_iter().chain(admin_tls.map(|(certificate, _)| certificate));
    parts.start_tasks(&control, &upkeep, config, certificates.collect(), sealing, reload_signals);
    on_ready(&started)?;
    notify::report(notify::READY);
    info!(proxy = %started.proxy, admin = %started.admin, "arbiter is up");

    let signal = Draining {
        stopped,
        signals: Some(signals).into(),
        drain: parts.state.drain.clone(),
        in_flight: parts.state.in_flight.clone(),
        delay: Duration::from_secs(config.proxy.drain_delay_secs),
        patience: Duration::from_secs(config.proxy.drain_timeout_secs),
        taken,
        takeover_patience: Duration::from_secs(config.proxy.takeover_wait_secs),
        admin_ended,
    };
    server.run(RunArgs { shutdown_signal: Box::new(signal) });
    // Nothing is being judged any more.
    [bulk, answers].into_iter().for_each(Runtime::shutdown_background);
    upkeep.shutdown_timeout(LAST_TASKS);
    parts.end(&control);
    // Nothing holds log and store once these are gone.
    control.shutdown_timeout(LAST_TASKS);
    drop(parts);
    successor.release();
    // Its stream ends with the process.
    std::mem::forget(successor);
    Ok(())
}

/// Reads everything that can be read while another process holds log and store, so that a mistake
/// ends this process and not that one.
fn rehearse(config: &Config) -> Result<()> {
    let rulebook = Rulebook::load(config.policy.file.as_deref(), terms(config));
    rulebook.with_context(|| config.at("policy.file"))?;
    let secrets = reload::secrets(config, &Clock::system()).context("loading credentials")?;
    Templates::of(config)?.expand(&secrets.vault())?;
    Redactor::new(&config.audit.redaction_patterns, config.audit.redaction_replace)?;
    audit_settings(config)?;
    seal_key(config)?;
    if config.storage.backend == Backend::Memory {
        warn!("`storage.backend` is \"memory\": the running process's sessions end with it");
    }
    Ok(())
}

/// Writes the addresses of the gateway, for the process that started it.
pub fn write_ready_file(path: &Path, started: &Started) -> Result<()> {
    // Renamed into place, so that nobody reads half of it.
    let mut partial = path.to_owned().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    std::fs::write(&partial, serde_json::to_string(started)?)
        .and_then(|()| std::fs::rename(&partial, path))
        .with_context(|| format!("writing the ready file {}", path.display()))
}

/// Reads the certificate that agents would see; the end of its validity, as Unix time.
pub(crate) fn certificate_expiry(files: &config::Tls) -> Result<Option<i64>> {
    let certificate = Certificate::open(files)?;
    certificate.settings()?;
    Ok(certificate.expires())
}

/// Reads what operators would see, client authorities included; the end of its validity.
pub(crate) fn admin_certificate_expiry(files: &config::AdminTls) -> Result<Option<i64>> {
    let (certificate, _) = Certificate::for_admin(files)?;
    Ok(certificate.expires())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_for_large_bodies_let_others_go_first() {
        let niceness = || rustix::process::nice(0).unwrap();
        let bulk = bulk_runtime("bulk", 1).unwrap();
        let theirs = bulk.block_on(bulk.spawn(async move { niceness() })).unwrap();
        assert_eq!(theirs, niceness() + BULK_NICENESS);
    }
}
