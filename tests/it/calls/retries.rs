//! A call is tried again only where no server can have begun it: what a tool did is not undone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::support::harness::{Gateway, Setup, Upstream, tool_call};

/// Part of a request that a server reads before it closes the connection.
#[derive(Clone, Copy, Debug)]
enum Reads {
    Nothing,
    HalfOfTheBody,
    Everything,
}

/// Length of each call's arguments; more than the kernel takes in one write.
const ARGUMENT_BYTES: usize = 4_000_000;

/// A server that never answers; gives its address and how many connections it has had.
async fn quitter(reads: Reads) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let met = Arc::new(AtomicUsize::new(0));
    let count = met.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let up_to = match reads {
                Reads::Nothing => 0,
                Reads::HalfOfTheBody => ARGUMENT_BYTES / 2,
                Reads::Everything => ARGUMENT_BYTES,
            };
            let mut read = 0;
            let mut some = vec![0; 64 * 1024];
            while read < up_to {
                match stream.read(&mut some).await {
                    Ok(0) | Err(_) => break,
                    Ok(got) => read += got,
                }
            }
            // A probe that only connects sends nothing.
            if read > 0 || matches!(reads, Reads::Nothing) {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (address, met)
}

fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn what_a_server_has_seen_of_a_call_no_other_server_sees() {
    for reads in [Reads::Nothing, Reads::HalfOfTheBody, Reads::Everything] {
        let (address, met) = quitter(reads).await;
        let second = Upstream::start().await;
        let setup = Setup::default().upstreams(&[("pool", &[address, second.address])]);
        let gateway = Gateway::start(setup).await;
        let session = gateway.session(json!({})).await;
        let call = tool_call("read_file", json!({"text": "x".repeat(ARGUMENT_BYTES)}));
        let (mut failed, mut served) = (0, 0);
        for _ in 0..6 {
            let answer = gateway.send(gateway.request_to("/pool", &session, call.clone())).await;
            match answer.status {
                200 => served += 1,
                502 => {
                    assert_eq!(answer.code(), "UpstreamFailed");
                    failed += 1;
                }
                other => panic!("{reads:?}: {other}"),
            }
        }
        assert_eq!((failed, served), (3, 3), "{reads:?}: each has its turn, and no call has two");
        assert_eq!(second.calls(), served, "{reads:?}");
        assert!(met.load(Ordering::SeqCst) >= failed, "{reads:?}");
    }
}

#[tokio::test]
async fn a_call_that_no_connection_took_goes_to_the_next_server() {
    let second = Upstream::start().await;
    let setup = Setup::default().upstreams(&[("pool", &[nowhere(), second.address])]);
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let call = tool_call("read_file", json!({"text": "x".repeat(ARGUMENT_BYTES)}));
    for calls in 1..=4 {
        let answer = gateway.send(gateway.request_to("/pool", &session, call.clone())).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(second.calls(), calls);
    }
}
