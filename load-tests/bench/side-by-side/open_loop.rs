//! Open-loop load: requests leave at a fixed rate, however long answers take, so waiting shows in the tail.
//!
//! `open_loop <port> <requests a second> <seconds> [connections]`, against 127.0.0.1. The request is read
//! from the environment as in `call.lua` (`AUTHORIZATION`, `AGENT_ID`, `SESSION_ID`, `BODY`), so that no
//! token is in a command line. A latency counts from the time at which the request was due, not from the
//! time at which its connection was free. Prints one line of JSON.

#![expect(
    clippy::print_stdout,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a measuring tool prints its result, ends when it is called wrongly, and reads the clock itself"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of one request, head and body.
fn request(port: u16) -> Vec<u8> {
    let given = |name: &str| std::env::var(name).unwrap_or_default();
    let body = given("BODY");
    format!(
        "POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2025-11-25\r\n\
         Authorization: {}\r\nx-agent-id: {}\r\nx-arbiter-session: {}\r\nContent-Length: {}\r\n\r\n{body}",
        given("AUTHORIZATION"),
        given("AGENT_ID"),
        given("SESSION_ID"),
        body.len(),
    )
    .into_bytes()
}

/// Reads one answer with a `Content-Length`; returns whether its status is 200.
fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    buffer.clear();
    let mut piece = [0; 4_096];
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .and_then(|value| value.trim().parse::<usize>().ok())
                .expect("the answer has a Content-Length");
            if buffer.len() >= end + 4 + length {
                return head.starts_with("http/1.1 200");
            }
        }
        let read = stream.read(&mut piece).expect("the connection can be read");
        assert!(read > 0, "the connection was closed");
        buffer.extend_from_slice(&piece[..read]);
    }
}

/// Schedule of one connection's requests.
struct Schedule {
    first: Instant,
    gap: Duration,
    count: u32,
}

/// Sends the requests of one connection; returns their latencies in microseconds and the failures.
fn connection(port: u16, schedule: &Schedule) -> (Vec<u64>, u32) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the port takes connections");
    stream.set_nodelay(true).expect("the socket takes options");
    let (bytes, mut buffer) = (request(port), Vec::with_capacity(4_096));
    let (mut latencies, mut failed) = (Vec::new(), 0);
    for turn in 0..schedule.count {
        let due = schedule.first + schedule.gap * turn;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(&bytes).expect("the connection can be written");
        failed += u32::from(!answer(&mut stream, &mut buffer));
        latencies.push(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    (latencies, failed)
}

fn main() {
    let numbers: Vec<u32> = std::env::args().skip(1).map_while(|word| word.parse().ok()).collect();
    let [port, rate, seconds, more @ ..] = numbers.as_slice() else {
        panic!("usage: open_loop <port> <requests a second> <seconds> [connections]");
    };
    let port = u16::try_from(*port).expect("a port has 16 bits");
    let connections = more.first().copied().unwrap_or(32).max(1);
    let gap = Duration::from_secs(1) * connections / *rate;
    let count = rate * seconds / connections;
    let start = Instant::now() + Duration::from_millis(100);
    let threads: Vec<_> = (0..connections)
        .map(|n| {
            let first = start + Duration::from_secs(1) * n / *rate;
            thread::spawn(move || connection(port, &Schedule { first, gap, count }))
        })
        .collect();
    let (mut latencies, mut failed) = (Vec::new(), 0);
    for thread in threads {
        let (mut part, bad) = thread.join().expect("a connection's thread ends");
        latencies.append(&mut part);
        failed += bad;
    }
    latencies.sort_unstable();
    let at = |share: usize| latencies.get(latencies.len() * share / 1_000).copied().unwrap_or(0);
    println!(
        "{{\"requests\":{},\"failed\":{failed},\"p50_us\":{},\"p99_us\":{},\"p999_us\":{}}}",
        latencies.len(),
        at(500),
        at(990),
        at(999)
    );
}
