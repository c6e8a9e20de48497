#!/usr/bin/env python3
"""What streams cost: time to the first event and to each later one, straight and through Arbiter, and memory for each
idle stream.

    load-tests/streams.py [--calls 200] [--events 500] [--streams 2000] [--within-ms 2] [--within-kib 100]

Arbiter is $ARBITER_BIN or target/debug/arbiter; figures of a debug build are upper bounds. Server, client and gateway
share the machine. Needs two file descriptors a stream in each process. Fails if the first event comes more than
--within-ms later through Arbiter, or a stream holds more than --within-kib. Standard library only.
"""

import argparse
import asyncio
import json
import pathlib
import resource
import secrets
import statistics
import sys
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/support"))

from arbiter import Arbiter  # noqa: E402

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"jsonrpc":"2.0","method":"notifications/progress","params":{}}\n\n'
CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file","arguments":{"mode":"%s"}}}'


# What the servers of paced streams wait for.
TURNS = asyncio.Queue()


async def serve(reader, writer):
    """Answers each call with one event, and then ends the stream, leaves it open, or goes on in turns."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            body = await reader.readexactly(length)
            writer.write(HEAD + b"%x\r\n" % len(EVENT) + EVENT + b"\r\n")
            if b'"idle"' in body:
                await reader.read()  # until whoever asked leaves
                return
            while b'"paced"' in body and await TURNS.get():
                writer.write(b"%x\r\n" % len(EVENT) + EVENT + b"\r\n")
            writer.write(b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
        pass
    finally:
        writer.close()


async def ask(connection, headers, mode):
    """Sends a call and waits for its first event; gives how long that took."""
    reader, writer = connection
    body = CALL % mode
    lines = [f"{name}: {value}" for name, value in headers.items()]
    started = time.perf_counter()
    writer.write("\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body)
    answer = await reader.readuntil(b"\n\n")
    took = time.perf_counter() - started
    assert b" 200 " in answer, answer
    if mode == b"once":
        await reader.readuntil(b"\r\n0\r\n\r\n")
    return took


# Arbiter lets an agent have an eighth of all calls in flight.
CALLS_IN_FLIGHT = 16_384
BATCH = 64
STREAMS_OF_AGENT = CALLS_IN_FLIGHT // 8 // BATCH * BATCH - BATCH
# A few descriptors besides those of the streams.
SPARE_FILES = 100
SECRETS = 5


def port_of(url):
    return urllib.parse.urlsplit(url).port


async def first_events(port, headers, calls):
    connection = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(20):
        await ask(connection, headers, b"once")
    return [await ask(connection, headers, b"once") for _ in range(calls)]


async def paced_events(port, headers, events):
    """Has a stream's events sent one by one; gives the median seconds from sending to coming."""
    connection = await asyncio.open_connection("127.0.0.1", port)
    await ask(connection, headers, b"paced")
    took = []
    for _ in range(events):
        started = time.perf_counter()
        TURNS.put_nowait(True)
        await connection[0].readuntil(b"\n\n")
        took.append(time.perf_counter() - started)
    TURNS.put_nowait(False)
    await connection[0].readuntil(b"\r\n0\r\n\r\n")
    connection[1].close()
    return statistics.median(took)


def memory_kib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


async def idle_streams(port, agents, pid, streams):
    """Opens streams, as many at a time and as many for an agent as Arbiter lets; gives KiB for each."""
    before, connections = memory_kib(pid), []
    for start in range(0, streams, BATCH):
        opened = [asyncio.open_connection("127.0.0.1", port) for _ in range(min(BATCH, streams - start))]
        opened = await asyncio.gather(*opened)
        headers = agents[start // STREAMS_OF_AGENT]
        await asyncio.gather(*(ask(connection, headers, b"idle") for connection in opened))
        connections += opened
    after = memory_kib(pid)
    print(f"  {streams} streams open at once; the process holds {after / 1024:.0f} MiB, {before / 1024:.0f} before them")
    for _, writer in connections:
        writer.close()
    return (after - before) / streams


COMMON = {"POST / HTTP/1.1\r\nhost": "localhost", "content-type": "application/json"}


def new_agent(gateway):
    agent = gateway.register_agent()
    session = gateway.open_session(agent["agent_id"], call_budget=1_000_000, authorized_tools=["read_file"])
    return {**COMMON, **gateway.agent_headers(agent, session)}


async def event_times(port, gateway, headers, events):
    """Straight, through, and through a gateway that looks for secrets in what comes back."""
    names = [f"s{n}" for n in range(SECRETS)]
    held = {name: "${CRED:%s}" % name for name in names}
    environment = {
        "ARBITER_CREDENTIALS__PROVIDER": "env",
        "ARBITER_PROXY__UPSTREAM_HEADERS": json.dumps({f"x-{name}": value for name, value in held.items()}),
        **{f"ARBITER_CRED_{name}": secrets.token_hex(20) for name in names},
    }
    with Arbiter(f"http://127.0.0.1:{port}", environment=environment) as scrubbing:
        ways = [
            (port, COMMON),
            (port_of(gateway.proxy_url), headers),
            (port_of(scrubbing.proxy_url), new_agent(scrubbing)),
        ]
        return [await paced_events(*way, events) * 1e6 for way in ways]


async def measure(options):
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    settings = {"proxy": {"max_calls_in_flight": CALLS_IN_FLIGHT}}
    with Arbiter(f"http://127.0.0.1:{port}", settings=settings) as gateway:
        headers = new_agent(gateway)
        entrance = port_of(gateway.proxy_url)
        straight, through = [], []
        # In turns, so that what else the machine does falls on both.
        for _ in range(10):
            straight += await first_events(port, COMMON, options.calls // 10)
            through += await first_events(entrance, headers, options.calls // 10)
        medians = [statistics.median(times) * 1000 for times in (straight, through)]
        print(f"first event, median of {options.calls}: straight {medians[0]:.2f} ms, through {medians[1]:.2f} ms")
        print(f"  added {medians[1] - medians[0]:.2f} ms")
        times = await event_times(port, gateway, headers, options.events)
        shown = "straight {:.0f}, through {:.0f}, through with {} secrets {:.0f} µs".format(*times[:2], SECRETS, times[2])
        print(f"each later event, median of {options.events}: {shown}")
        agents = [new_agent(gateway) for _ in range(0, options.streams, STREAMS_OF_AGENT)]
        each = await idle_streams(entrance, agents, gateway.process.pid, options.streams)
        print(f"{options.streams} idle streams: {each:.0f} KiB each; 10000 would take {each * 10_000 / 1024:.0f} MiB")
    server.close()
    print(json.dumps({"added_ms": medians[1] - medians[0], "event_us": times, "kib_per_stream": each}))
    return 0 if medians[1] - medians[0] < options.within_ms and each < options.within_kib else 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--events", type=int, default=500)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--within-ms", type=float, default=2)
    parser.add_argument("--within-kib", type=float, default=100)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 2 * options.streams + SPARE_FILES:
        raise SystemExit(f"{options.streams} streams need {2 * options.streams + SPARE_FILES} descriptors, {most} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return asyncio.run(measure(options))


if __name__ == "__main__":
    sys.exit(main())
