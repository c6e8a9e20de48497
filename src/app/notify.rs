//! State notifications to systemd (`Type=notify`), where systemd asks for them.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

use crate::config;

pub(super) const READY: &str = "READY=1";
pub(super) const STOPPING: &str = "STOPPING=1";

/// Reports a state to the socket in `NOTIFY_SOCKET`, if there is one.
pub(super) fn report(state: &str) {
    let socket = config::environment().find(|(name, _)| name == "NOTIFY_SOCKET");
    if let Some((_, socket)) = socket
        && let Err(error) = send(&socket, state)
    {
        warn!(%error, state, "systemd was not told");
    }
}

fn send(to: &str, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    match to.strip_prefix('@') {
        Some(name) => {
            let address = SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(state.as_bytes(), &address)?;
        }
        None => {
            socket.send_to(state.as_bytes(), to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify").display().to_string();
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("arbiter-test-{}", uuid::Uuid::new_v4());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        for (socket, to) in [(by_path, path), (by_name, format!("@{name}"))] {
            send(&to, READY).unwrap();
            let mut heard = [0; 32];
            let length = socket.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], READY.as_bytes());
        }
    }
}
