//! A way to a server that can be cut, and on which what is sent can be held back.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Clone, Copy, PartialEq)]
enum Gate {
    Open,
    Held,
    Cut,
}

/// Gates of the connections accepted from now on.
type Gates = Arc<Mutex<watch::Sender<Gate>>>;

pub(super) struct Proxy {
    pub port: u16,
    gates: Gates,
    accepting: JoinHandle<()>,
}

/// Connections on which what the client sends is held back.
pub(super) struct Held(watch::Sender<Gate>);

impl Proxy {
    pub(super) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let gates: Gates = Arc::new(Mutex::new(watch::Sender::new(Gate::Open)));
        let theirs = Arc::clone(&gates);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let gate = theirs.lock().subscribe();
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(carry(from_client, to_server, gate.clone(), true));
                tokio::spawn(carry(from_server, to_client, gate, false));
            }
        });
        Self { port: own, gates, accepting }
    }

    /// Holds back what comes by the connections there are; later ones are free.
    pub(super) fn hold(&self) -> Held {
        Held(self.close(Gate::Held))
    }

    pub(super) fn cut(&self) {
        self.close(Gate::Cut);
    }

    fn close(&self, gate: Gate) -> watch::Sender<Gate> {
        let old = std::mem::replace(&mut *self.gates.lock(), watch::Sender::new(Gate::Open));
        old.send_replace(gate);
        old
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Held {
    /// Lets go what was held back, and waits until it has been delivered.
    pub(super) async fn release(self) {
        self.0.send_replace(Gate::Open);
        // The client has gone: its side ends when all that it sent has been passed on.
        let closed = tokio::time::timeout(Duration::from_secs(10), self.0.closed());
        closed.await.expect("the connection ends");
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut gate: watch::Receiver<Gate>,
    is_client: bool,
) {
    let mut bytes = vec![0; 65_536];
    loop {
        let read = tokio::select! {
            read = from.read(&mut bytes) => read,
            cut = async { gate.wait_for(|&gate| gate == Gate::Cut).await.is_ok() } => {
                if cut {
                    return;
                }
                // Nobody can cut it any more.
                from.read(&mut bytes).await
            }
        };
        let Ok(count @ 1..) = read else { return };
        if is_client && gate.wait_for(|&gate| gate != Gate::Held).await.is_err() {
            return;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
