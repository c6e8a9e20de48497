#!/usr/bin/env python3
"""Measures again what a review of the core once measured, and prints one line for each: see tests/README.md.

    tests/chaos/figures.py [refused] [forgetting] [hanging] [admin] [validate]         all five unless told otherwise

    refused      CPU of a 9 MB call whose budget is spent, by the number of deny policies with a regex
    forgetting   CPU of one clean-up, by the number of agents that have a session with a credential
    hanging      waits of calls until their refusal while Redis hangs: 400 of 100 rate-limited sessions, 40 of one
    admin        an admin call of a node with Redis, alone and while tokens of 150 unknown agents are in flight
    validate     1.9 KB of regexes that are large to build: time, memory kept, and the longest wait of `GET /health`

Each figure has a bound that holds on a slow machine and a debug build, and that the figures of the review exceed.
Needs redis-server.
"""

import base64
import concurrent.futures
import hashlib
import hmac
import json
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support")]

from arbiter import ALLOW_ALL, Arbiter, request, stop  # noqa: E402
from audit import Upstream  # noqa: E402

ADMIN = {"rate_limit_per_minute": 1_000_000}
RATED = {"call_budget": 100_000, "rate_limit_per_minute": 9_000}


def call(arguments):
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "work", "arguments": arguments}})


def post(gateway, headers, body):
    """Sends one call; returns its status and how long it took."""
    headers = {"Content-Type": "application/json", **headers}
    began = time.monotonic()
    status, _, _ = request(gateway.proxy_url + "/", method="POST", headers=headers, body=body.encode(), timeout=60)
    return status, time.monotonic() - began


def cpu(gateway):
    fields = pathlib.Path(f"/proc/{gateway.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(gateway):
    status = pathlib.Path(f"/proc/{gateway.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def timed(ask):
    began = time.monotonic()
    ask()
    return time.monotonic() - began


class Redis:
    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="arbiter-redis-")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = ["--bind", "127.0.0.1", "--save", "", "--dir", self.folder.name]
        self.process = subprocess.Popen(["redis-server", "--port", str(self.port), *options], stdout=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.05)
        raise RuntimeError("redis-server does not listen")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGCONT)
        stop(self.process)
        self.folder.cleanup()

    def settings(self):
        return {"admin": ADMIN, "storage": {"backend": "redis", "redis_url": f"redis://127.0.0.1:{self.port}"}}


def refused(upstream):
    """Before: 0.06 s, 0.44 s with 20 policies, 1.94 s with 100."""
    body, least = call({"n": "ab" * 4_500_000}), []
    for count in (0, 20, 100):
        deny = "".join(
            f"[[policies]]\nid = 'r{n}'\neffect = 'deny'\nallowed_tools = ['work']\n"
            f"[[policies.parameter_constraints]]\nkey = 'n'\nregex = '(a|b)*c{n}'\n"
            for n in range(count)
        )
        with Arbiter(upstream.url, policies=ALLOW_ALL + deny) as gateway:
            agent = gateway.register_agent()
            session = gateway.open_session(agent["agent_id"], authorized_tools=["work"], call_budget=1)
            headers = gateway.agent_headers(agent, session)
            post(gateway, headers, call({"n": "a"}))
            spent = []
            for _ in range(5):
                before = cpu(gateway)
                status, _ = post(gateway, headers, body)
                assert status == 429, status
                spent.append(cpu(gateway) - before)
            least.append(min(spent))
    said = ", ".join(f"{seconds:.2f} s with {count}" for count, seconds in zip((0, 20, 100), least))
    return f"CPU of a refused 9 MB call by deny policies: {said}", least[2] < 2 * least[0] + 0.1


def forgetting(upstream):
    """Before: 0.07 s with 2,000 agents, 0.29 s with 4,000: four times as much for twice as many."""
    said = []
    for count in (1_000, 2_000):
        settings = {"admin": ADMIN, "sessions": {"cleanup_interval_secs": 1}, "credentials": {"provider": "env"}}
        with Arbiter(upstream.url, settings=settings, environment={"ARBITER_CRED_key": "a-secret-value"}) as gateway:
            for _ in range(count):
                agent = gateway.register_agent()
                gateway.open_session(agent["agent_id"], authorized_tools=["work"], authorized_credentials=["key"])
            # After a restart each session may have been given its credential before.
            stop(gateway.process)
            gateway.start()
            time.sleep(2)
            before = cpu(gateway)
            time.sleep(10)
            said.append((cpu(gateway) - before) / 10)
    shown = ", ".join(f"{1_000 * seconds:.0f} ms with {count:,}" for count, seconds in zip((1_000, 2_000), said))
    return f"CPU of a second with one clean-up by agents: {shown}", said[1] < 2 * said[0] + 0.05


def hanging(upstream):
    """Before: 400 calls p50 4.0 s, at most 23.9 s; 40 calls of one session at most 40 s."""
    with Redis() as redis, Arbiter(upstream.url, settings=redis.settings()) as gateway:
        held = []
        for _ in range(10):
            agent = gateway.register_agent()
            for _ in range(10):
                session = gateway.open_session(agent["agent_id"], authorized_tools=["work"], **RATED)
                held.append(gateway.agent_headers(agent, session))
        lines = []
        for asked in (held * 4, held[:1] * 40):
            redis.process.send_signal(signal.SIGSTOP)
            time.sleep(1.1)  # until the permits in hand are over
            with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
                waits = sorted(took for _, took in pool.map(lambda headers: post(gateway, headers, call({})), asked))
            redis.process.send_signal(signal.SIGCONT)
            time.sleep(2)
            lines.append((len(asked), statistics.median(waits), waits[-1]))
    said = "; ".join(f"{count} calls p50 {half:.1f} s, at most {most:.1f} s" for count, half, most in lines)
    return f"until a refusal while Redis hangs: {said}", all(most < 4 for _, _, most in lines)


def unknown_token(gateway):
    """A token of an agent that is not registered, signed as the gateway's own are."""

    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    now, name = int(time.time()), str(uuid.uuid4())
    claims = {"iss": "arbiter", "sub": "tests", "agent_id": name, "iat": now, "exp": now + 600, "jti": str(uuid.uuid4())}
    text = ".".join(part(json.dumps(each).encode()) for each in ({"alg": "HS256", "typ": "JWT"}, claims))
    secret = gateway._environment["ARBITER_SIGNING_SECRET"].encode()
    return {"Authorization": f"Bearer {text}.{part(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"}


def admin(upstream):
    """Before: 302 ms each; 1.4 s while 150 tokens of unknown agents are in flight."""
    with Redis() as redis, Arbiter(upstream.url, settings=redis.settings()) as gateway:
        ask = lambda: gateway.admin("GET", "/policy/schema")  # noqa: E731
        ask()
        alone = [timed(ask) for _ in range(20)]
        tokens = [unknown_token(gateway) for _ in range(150)]
        with concurrent.futures.ThreadPoolExecutor(len(tokens)) as pool:
            asked = [pool.submit(post, gateway, headers, call({})) for headers in tokens]
            beside = [timed(ask) for _ in range(5)]
            statuses = {each.result()[0] for each in asked}
        assert statuses <= {403, 503}, statuses
    said = f"{1_000 * statistics.median(alone):.0f} ms, at most {1_000 * max(beside):.0f} ms beside 150 unknown agents"
    return f"an admin call of a fleet's node: {said}", statistics.median(alone) < 0.1 and max(beside) < 1


def validate(upstream):
    """Before: 4.8 s, 14 MiB to 350 MiB, and `GET /health` waits 4.7 s."""
    regexes = "".join(f"[[policies.parameter_constraints]]\nkey='a'\nregex='\\w{{1,{30 + n}}}x'\n" for n in range(60))
    with Arbiter(upstream.url, settings={"admin": ADMIN}) as gateway:
        before, waits, done = memory_mib(gateway), [], threading.Event()

        def watch():
            while not done.is_set():
                waits.append(timed(lambda: request(gateway.admin_url + "/health")))
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        text = f"[[policies]]\nid='a'\neffect='deny'\n{regexes}"
        took = timed(lambda: gateway.admin("POST", "/policy/validate", {"toml": text}, expect=200))
        done.set()
        watcher.join()
        after = memory_mib(gateway)
    said = f"{took:.1f} s, {before:.0f} to {after:.0f} MiB, `GET /health` at most {max(waits):.2f} s"
    return f"{len(text) / 1000:.1f} KB of regexes validated: {said}", max(waits) < 1 and after - before < 150


FIGURES = {each.__name__: each for each in (refused, forgetting, hanging, admin, validate)}


def main():
    chosen = sys.argv[1:] or list(FIGURES)
    upstream, wrong = Upstream(), 0
    for name in chosen:
        said, holds = FIGURES[name](upstream)
        print(f"{'ok  ' if holds else 'FAIL'} {name}: {said}", flush=True)
        wrong += not holds
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
