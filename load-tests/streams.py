#!/usr/bin/env python3
"""What streams cost: time to the first event straight and through Arbiter, and memory for each idle stream.

    load-tests/streams.py [--calls 200] [--streams 2000]

Arbiter is $ARBITER_BIN or target/debug/arbiter; figures of a debug build are upper bounds. Server, client and gateway
share the machine. Needs two file descriptors a stream in each process. Standard library only.
"""

import argparse
import asyncio
import json
import pathlib
import resource
import statistics
import sys
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/support"))

from arbiter import Arbiter  # noqa: E402

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"jsonrpc":"2.0","method":"notifications/progress","params":{}}\n\n'
CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file","arguments":{"mode":"%s"}}}'


async def serve(reader, writer):
    """Answers each call with one event, and then ends the stream or leaves it open."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            body = await reader.readexactly(length)
            writer.write(HEAD + b"%x\r\n" % len(EVENT) + EVENT + b"\r\n")
            if b'"idle"' in body:
                await reader.read()  # until whoever asked leaves
                return
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
    if mode != b"idle":
        await reader.readuntil(b"\r\n0\r\n\r\n")
    return took


# Arbiter lets an agent have 1024 calls in flight.
STREAMS_OF_AGENT = 1000


def port_of(url):
    return urllib.parse.urlsplit(url).port


async def first_events(port, headers, calls):
    connection = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(20):
        await ask(connection, headers, b"once")
    return [await ask(connection, headers, b"once") for _ in range(calls)]


def memory_kib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


async def idle_streams(port, agents, pid, streams):
    """Opens streams, as many at a time and as many for an agent as Arbiter lets; gives KiB for each."""
    before, connections = memory_kib(pid), []
    for start in range(0, streams, 50):
        opened = [asyncio.open_connection("127.0.0.1", port) for _ in range(min(50, streams - start))]
        opened = await asyncio.gather(*opened)
        headers = agents[start // STREAMS_OF_AGENT]
        await asyncio.gather(*(ask(connection, headers, b"idle") for connection in opened))
        connections += opened
    after = memory_kib(pid)
    for _, writer in connections:
        writer.close()
    return (after - before) / streams


async def measure(options):
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    with Arbiter(f"http://127.0.0.1:{port}") as gateway:
        common = {"POST / HTTP/1.1\r\nhost": "localhost", "content-type": "application/json"}

        def new_agent():
            agent = gateway.register_agent()
            session = gateway.open_session(agent["agent_id"], call_budget=1_000_000, authorized_tools=["read_file"])
            return {**common, **gateway.agent_headers(agent, session)}

        headers = new_agent()
        entrance = port_of(gateway.proxy_url)
        straight, through = [], []
        # In turns, so that what else the machine does falls on both.
        for _ in range(10):
            straight += await first_events(port, common, options.calls // 10)
            through += await first_events(entrance, headers, options.calls // 10)
        medians = [statistics.median(times) * 1000 for times in (straight, through)]
        print(f"first event, median of {options.calls}: straight {medians[0]:.2f} ms, through {medians[1]:.2f} ms")
        print(f"  added {medians[1] - medians[0]:.2f} ms")
        agents = [new_agent() for _ in range(0, options.streams, STREAMS_OF_AGENT)]
        each = await idle_streams(entrance, agents, gateway.process.pid, options.streams)
        print(f"{options.streams} idle streams: {each:.0f} KiB each; 10000 would take {each * 10_000 / 1024:.0f} MiB")
    server.close()
    print(json.dumps({"added_ms": medians[1] - medians[0], "kib_per_stream": each}))
    return 0 if medians[1] - medians[0] < 2 else 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--streams", type=int, default=2000)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return asyncio.run(measure(options))


if __name__ == "__main__":
    sys.exit(main())
