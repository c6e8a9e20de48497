//! Hand-over of the listening sockets to the next process on the same machine.
//!
//! A running gateway listens on a control socket, mode 0600, and answers only processes of its own
//! user (`SO_PEERCRED`). One that asks to take over gets duplicates of both listening sockets with
//! the answer; from then on new connections wait in their queues, the old process ends its calls,
//! gives up log and store, and says so by a last line (or by ending, which the kernel reports
//! likewise). Only then does the next process open log and store and accept.

use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use listenfd::ListenFd;
use parking_lot::Mutex;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{info, warn};

use super::Started;
use crate::config::Config;

const WHO: &str = "who\n";
const TAKE_OVER: &str = "take over\n";
/// Time within which a process that has released log and store ends.
const LAST_STEPS: Duration = Duration::from_secs(2);

const RELEASED: &str = "released\n";

/// Time that the other end may take over a line.
const LINE: Duration = Duration::from_secs(5);

/// Time that the old process may take over everything: its waits end long before.
const RELEASE: Duration = Duration::from_mins(2);

/// Answer of a running gateway about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    pub version: String,
    pub pid: u32,
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
}

/// The two listening sockets.
pub(super) struct Sockets {
    pub(super) proxy: TcpListener,
    pub(super) admin: TcpListener,
}

/// Offer of this process to the next one.
pub(super) struct Offer {
    /// None if there can be no control socket.
    control: Option<Control>,
    pub(super) taken: watch::Sender<bool>,
    pub(super) successor: Successor,
}

/// Opens the control socket. Without one everything else works, so its lack is a warning.
pub(super) fn offer(config: &Config, started: &Started, sockets: &Sockets) -> Offer {
    let running = Running {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: started.pid,
        proxy: started.proxy,
        admin: started.admin,
    };
    let control = config.control_socket().and_then(|path: PathBuf| {
        let opened = Control::open(&path, running, sockets);
        opened
            .inspect_err(|error| {
                let path = path.display();
                warn!(%path, %error, "no control socket, so `serve --takeover` cannot replace this");
            })
            .ok()
    });
    Offer { control, taken: watch::Sender::new(false), successor: Successor::default() }
}

impl Offer {
    /// Answers until another process takes over or the gateway leaves, and removes the socket.
    pub(super) async fn serve(self, mut leaving: watch::Receiver<bool>) {
        let Self { control: Some(control), taken, successor } = self else { return };
        let path = control.path.clone();
        tokio::select! {
            ended = control.hand_over(&successor) => match ended {
                Ok(()) => {}
                Err(error) => {
                    warn!(%error, "control socket ended, so this process cannot be replaced");
                    return;
                }
            },
            _left = leaving.wait_for(|leaving| *leaving) => {}
        }
        if let Err(error) = fs::remove_file(&path) {
            warn!(path = %path.display(), %error, "control socket was not removed");
        }
        let is_taken = successor.0.lock().is_some();
        taken.send_replace(is_taken);
    }
}

/// The control socket of a running gateway.
struct Control {
    path: PathBuf,
    listener: UnixListener,
    running: Running,
    sockets: Sockets,
}

/// The process that takes over, once there is one.
#[derive(Clone, Default)]
pub(super) struct Successor(Arc<Mutex<Option<UnixStream>>>);

impl Successor {
    /// Tells the process that takes over that log and store are closed. The stream stays open: its end is
    /// the end of this process, when the kernel has freed what a straggling task may still hold.
    pub(super) fn release(&self) {
        let mut stream = self.0.lock();
        let Some(stream) = stream.as_mut() else { return };
        if let Err(error) = stream.write_all(RELEASED.as_bytes()) {
            warn!(%error, "the process that takes over does not listen any more");
        }
    }
}

impl Control {
    /// Puts the control socket in its place, in that of a process that has gone.
    fn open(path: &Path, running: Running, sockets: &Sockets) -> io::Result<Self> {
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::other("another running gateway has this control socket"));
        }
        // Made under another name and renamed, so that nobody can ever connect who must not.
        let mut partial = path.as_os_str().to_owned();
        partial.push(".new");
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&partial)?;
        fs::set_permissions(&partial, Permissions::from_mode(0o600))?;
        fs::rename(&partial, path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            path: path.to_owned(),
            listener,
            running,
            sockets: Sockets {
                proxy: sockets.proxy.try_clone()?,
                admin: sockets.admin.try_clone()?,
            },
        })
    }

    /// Answers questions until another process has got the sockets.
    async fn hand_over(self, successor: &Successor) -> io::Result<()> {
        let control = Arc::new(self);
        let listener = tokio::net::UnixListener::from_std(control.listener.try_clone()?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let (control, stream) = (control.clone(), stream.into_std()?);
            let answered = tokio::task::spawn_blocking(move || control.answer(stream));
            match answered.await.map_err(io::Error::other)? {
                Ok(None) => {}
                Ok(taking) => {
                    *successor.0.lock() = taking;
                    return Ok(());
                }
                Err(error) => warn!(%error, "control socket: a request was not answered"),
            }
        }
    }

    /// Answers one request; gives the connection back if it was to take over.
    fn answer(&self, stream: UnixStream) -> io::Result<Option<UnixStream>> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(LINE))?;
        stream.set_write_timeout(Some(LINE))?;
        let peer = socket_peercred(&stream)?;
        if peer.uid != geteuid() {
            return Err(io::Error::other(format!("refused a process of user {:?}", peer.uid)));
        }
        let asked = read_line(&stream, 64)?;
        let mut line = serde_json::to_vec(&self.running).map_err(io::Error::other)?;
        line.push(b'\n');
        match asked.as_str() {
            WHO => {
                (&stream).write_all(&line)?;
                Ok(None)
            }
            TAKE_OVER => {
                self.send_sockets(&stream, &line)?;
                info!(pid = ?peer.pid, "another process takes over");
                Ok(Some(stream))
            }
            _ => Err(io::Error::other("it asked for something unknown")),
        }
    }

    fn send_sockets(&self, stream: &UnixStream, line: &[u8]) -> io::Result<()> {
        let sockets = [self.sockets.proxy.as_fd(), self.sockets.admin.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut attached = SendAncillaryBuffer::new(&mut space);
        if !attached.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::Error::other("the sockets do not fit into one message"));
        }
        let sent = sendmsg(stream, &[IoSlice::new(line)], &mut attached, SendFlags::NOSIGNAL)?;
        if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

/// Reads one line; nothing may follow it.
fn read_line(stream: &UnixStream, most: u64) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(io::Read::take(stream, most)).read_line(&mut line)?;
    Ok(line)
}

/// Opens both listening sockets: those that systemd holds for this process, else new ones.
pub(super) fn open(config: &Config) -> Result<Sockets> {
    let mut held = ListenFd::from_env();
    match held.len() {
        0 => Ok(Sockets {
            proxy: bind(config.proxy.listen, "proxy.listen_port")?,
            admin: bind(config.admin.listen, "admin.listen_port")?,
        }),
        2 => {
            let mut take = |n| -> Result<TcpListener> {
                let socket = held.take_tcp_listener(n)?.context("it is taken already")?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            };
            let advice = "socket activation: name two TCP sockets, the proxy's first";
            Ok(Sockets { proxy: take(0).context(advice)?, admin: take(1).context(advice)? })
        }
        n => bail!("socket activation: {n} sockets were given; name two, the proxy's first"),
    }
}

/// Time within which a process that is just ending gives up its address.
const ADDRESS_FREED: Duration = Duration::from_secs(1);

/// Listens on an address, and waits briefly for a process that is just ending to give it up.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let mut waited = Duration::ZERO;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && waited < ADDRESS_FREED => {
                #[expect(clippy::disallowed_methods, reason = "nothing is served yet")]
                std::thread::sleep(LOOK_AGAIN);
                waited += LOOK_AGAIN;
            }
            bound => return bound,
        }
    }
}

/// Connections that may wait to be accepted; the kernel takes no more than `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Interval between two tries to listen.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

fn bind(address: SocketAddr, key: &str) -> Result<TcpListener> {
    let listener = listen(address)
        .with_context(|| format!("cannot listen on {address}: choose another `{key}`"))?;
    prepare(&listener)?;
    Ok(listener)
}

/// Makes a socket ready to be served, one of another process, too.
///
/// The standard library has 128 connections wait. The kernel drops what comes beyond, and the client tries again a
/// second later.
fn prepare(listener: &TcpListener) -> Result<()> {
    rustix::net::listen(listener, BACKLOG).context("listening with a longer queue")?;
    listener.set_nonblocking(true).context("preparing a socket")
}

fn connect(path: &Path) -> Result<UnixStream> {
    let stream = UnixStream::connect(path)
        .with_context(|| format!("no gateway answers at the control socket {}", path.display()))?;
    let peer = socket_peercred(&stream)?;
    ensure!(
        peer.uid == geteuid(),
        "the control socket {} is another user's; run this as the user of the running gateway",
        path.display()
    );
    stream.set_read_timeout(Some(LINE))?;
    stream.set_write_timeout(Some(LINE))?;
    Ok(stream)
}

/// Asks the gateway that runs, if one does, about itself.
pub(crate) fn who(path: &Path) -> Option<Running> {
    let stream = connect(path).ok()?;
    (&stream).write_all(WHO.as_bytes()).ok()?;
    serde_json::from_str(&read_line(&stream, 4_096).ok()?).ok()
}

/// Takes the sockets of a running gateway over; returns when it has given up log and store.
pub(super) fn take_over(config: &Config) -> Result<Sockets> {
    let path = config.control_socket().context("`proxy.control_socket` is not set")?;
    take_over_at(&path)
}

fn take_over_at(path: &Path) -> Result<Sockets> {
    let stream = connect(path)?;
    (&stream).write_all(TAKE_OVER.as_bytes())?;
    let (running, sockets) = receive_sockets(&stream)?;
    info!(pid = running.pid, version = running.version, "taking over; waiting for log and store");
    stream.set_read_timeout(Some(RELEASE))?;
    match read_line(&stream, 64) {
        // The process has ended already: the kernel has freed what it held.
        Ok(line) if line.is_empty() => Ok(sockets),
        Ok(line) if line == RELEASED => {
            stream.set_read_timeout(Some(LAST_STEPS))?;
            // A process that takes longer holds neither log nor store: it said so.
            let _end = read_line(&stream, 64);
            Ok(sockets)
        }
        Ok(_) => bail!("the running gateway said something unknown while it was to end"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(sockets),
        Err(error) => Err(error).context("waiting for the running gateway to end"),
    }
}

fn receive_sockets(stream: &UnixStream) -> Result<(Running, Sockets)> {
    let mut answer = [0; 4_096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut attached = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut answer)],
        &mut attached,
        RecvFlags::CMSG_CLOEXEC,
    )
    .context("asking the running gateway for its sockets")?;
    let answer = answer.get(..received.bytes).unwrap_or_default();
    let running: Running = serde_json::from_slice(answer)
        .context("the running gateway refused, or is of a version that cannot hand over")?;
    let mut received: Vec<OwnedFd> = Vec::new();
    for message in attached.drain() {
        if let RecvAncillaryMessage::ScmRights(sockets) = message {
            received.extend(sockets);
        }
    }
    let mut sockets = received.into_iter().map(TcpListener::from);
    let (Some(proxy), Some(admin), None) = (sockets.next(), sockets.next(), sockets.next()) else {
        bail!("the running gateway did not send its two sockets");
    };
    for (socket, expected) in [(&proxy, running.proxy), (&admin, running.admin)] {
        ensure!(socket.local_addr()? == expected, "the running gateway sent another socket");
        prepare(socket)?;
    }
    Ok((running, Sockets { proxy, admin }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets() -> Sockets {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        Sockets { proxy: bind(), admin: bind() }
    }

    fn running(sockets: &Sockets) -> Running {
        Running {
            version: "1".to_owned(),
            pid: 7,
            proxy: sockets.proxy.local_addr().unwrap(),
            admin: sockets.admin.local_addr().unwrap(),
        }
    }

    #[test]
    fn three_hundred_clients_wait_to_be_accepted() {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)), "proxy.listen_port").unwrap();
        let address = listener.local_addr().unwrap();
        // The kernel drops what finds a full queue, and the client tries again after a second.
        let connect =
            |_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500));
        let waiting: Vec<_> = (0..300).map(connect).collect::<Result<_, _>>().unwrap();
        assert_eq!(waiting.len(), 300);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_sockets_pass_and_the_wait_ends_with_the_release() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let sockets = sockets();
        let control = Control::open(&path, running(&sockets), &sockets).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (successor, taken) = (Successor::default(), watch::Sender::new(false));
        let mut when_taken = taken.subscribe();
        let offer = Offer { control: Some(control), taken, successor: successor.clone() };
        let (_stays, leaving) = watch::channel(false);
        let serving = tokio::spawn(offer.serve(leaving));
        let at = path.clone();
        let told = tokio::task::spawn_blocking(move || who(&at)).await.unwrap();
        assert_eq!(told, Some(running(&sockets)));
        assert!(Control::open(&path, running(&sockets), &sockets).is_err());

        let at = path.clone();
        let takes = tokio::task::spawn_blocking(move || take_over_at(&at));
        when_taken.wait_for(|taken| *taken).await.unwrap();
        serving.await.unwrap();
        assert!(!path.exists(), "the next process makes one of its own");
        assert!(!takes.is_finished(), "log and store are not free yet");
        successor.release();
        // As at the end of the process.
        drop(successor);
        let got = takes.await.unwrap().unwrap();
        assert_eq!(got.proxy.local_addr().unwrap(), sockets.proxy.local_addr().unwrap());
        assert_eq!(got.admin.local_addr().unwrap(), sockets.admin.local_addr().unwrap());
    }

    #[test]
    fn a_socket_that_nobody_serves_is_replaced_and_not_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        drop(UnixListener::bind(&path).unwrap());
        assert!(take_over_at(&path).err().unwrap().to_string().contains("control socket"));
        assert_eq!(who(&path), None);
        let sockets = sockets();
        Control::open(&path, running(&sockets), &sockets).unwrap();
    }
}
