#!/usr/bin/env python3
"""Attacks a gateway as one agent with a valid token could, and measures what another agent notices of it.

    tests/chaos/attack.py [--long] [refusals] [withheld] [idle] [mixed] [texts] [injection] [escapes] [key] [values] [answers]

    refusals   one agent's requests without a session, as fast as they go
    withheld   111 uploads of 2.3 MB whose last byte never comes
    idle       320 connections that send nothing, where the gateway may open 256 files
    mixed      all at once: 500 slow heads, 200 connections of bad tokens, 64 of denied calls, 100 of heads of 60 KB,
               20 hostile bodies of 9 MB
    injection  calls of 9.5 MB that are made of references to a credential of 3 KB
    escapes    four calls of 9 MB of `&amp;` at a time, and four of 97 KB
    key        calls with one key of 9 MB
    values     24 calls of 9 MB of `[1,1,…` at a time
    answers    calls that are answered by 160,000 numbers in one event, or by 2 MB of `&amp;`, where numbers are credentials
    texts      the last five at once; without --long, without `answers`: a debug build scrubs too slowly

Without a name: all of them with --long, else the first four and `texts`.

The attack comes from processes of the lowest priority. A good agent calls all the while from a process of its own, and
another process asks both ports for their health. Each attack also runs against a listener that answers 429 at once,
while the good agent calls the gateway: what is lost there is the machine's, not the gateway's. Must hold:

- the good agent keeps at least half (a fifth without --long) of what it has while the attack goes to that listener;
- with --long, one call in a hundred of its takes at most five times as long as undisturbed, or as beside that listener;
- both ports answer within half a second (2 s without --long, where a debug build shares a busy machine);
- the process takes at most 512 MiB more than before: the memory for bodies is 256 MiB (`proxy.max_in_flight_body_bytes`);
- five seconds after the end the good agent has at least half (a fifth without --long) of its undisturbed rate;
- every refusal that the gateway counts is on record, by itself or in a count, and so is every call of the good agent.

Without --long the attacks last 4 s, else 15 s. Prints one line for each attack. Standard library only.
"""

import asyncio
import collections
import json
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support")]

from arbiter import Arbiter, binary, request, stop, wait_for_file  # noqa: E402

LONG = "--long" in sys.argv
SECONDS = 15 if LONG else 4
SLOW = 0.5 if LONG else 2.0
# A short span on a shared machine says little: only a gateway that is no longer well fails it.
SHARE = 0.5 if LONG else 0.2
CALLERS = 4
CALL = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "work", "arguments": {}}})
MOST_MIB = 512
MOST_TIMES = 5
# The credentials of the attack: a long one, and one that is a number.
CREDENTIALS = {"long": "k3" * 1500, "number": "41424344"}
HOSTILE = [b'"&amp;', b'"%25', b'"QUJD\\r\\n', b"[1,", b'"-----']


def event(text):
    message = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "…"}]}})
    return f"data: {message.replace(json.dumps('…'), text)}\n\n".encode()


STREAMS = {"numbers": json.dumps([41424344] * 160_000), "marks": json.dumps("&amp;" * 400_000)}


def call(tool, arguments):
    return CALL.replace("work", tool).replace('"arguments": {}', f'"arguments": {arguments}')


def post(address, headers, body, length=None):
    lines = [f"POST / HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
    body = body if isinstance(body, bytes) else body.encode()
    return ("".join(lines) + f"Content-Length: {length or len(body)}\r\n\r\n").encode() + body


async def connect(address):
    host, port = address.rsplit(":", 1)
    return await asyncio.open_connection(host, int(port))


async def answer(reader):
    """Reads one answer; returns its status and whether the connection goes on."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
    if b"transfer-encoding: chunked" in lines:
        while length := int(await reader.readline(), 16):
            await reader.readexactly(length + 2)
        length = 2
    await reader.readexactly(length)
    return int(lines[0].split(b" ")[1]), b"connection: close" not in lines


# --- what runs in processes of its own --------------------------------------------------------------------------------


async def good(task):
    """Calls until told to stop; prints the number and times of calls in each of the spans it is told of."""
    spans, current = [], []

    async def caller():
        reader = writer = None
        while True:
            began = time.monotonic()
            try:
                if writer is None:
                    reader, writer = await connect(task["address"])
                writer.write(post(task["address"], task["headers"], CALL))
                status, kept = await answer(reader)
            except (OSError, asyncio.IncompleteReadError):
                status, kept = 0, False
            current.append((status, time.monotonic() - began))
            if not kept:
                if writer is not None:
                    writer.close()
                writer = None
            if status != 200:
                await asyncio.sleep(0.01)

    callers = [asyncio.create_task(caller()) for _ in range(CALLERS)]
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while command := (await commands.readline()).decode().strip():
        if command == "span":
            current.clear()
            began = time.monotonic()
            continue
        seconds, calls = time.monotonic() - began, list(current)
        times = sorted(took for status, took in calls if status == 200)
        print(json.dumps({
            "rate": len(times) / seconds,
            "median_ms": 1000 * statistics.median(times) if times else None,
            "p99_ms": 1000 * times[len(times) * 99 // 100] if times else None,
            "failed": dict(collections.Counter(str(status) for status, _ in calls if status != 200)),
        }), flush=True)
    for task in callers:
        task.cancel()


async def health(task):
    """Asks both ports until told to stop; prints the longest times."""
    longest = {"proxy": 0.0, "admin": 0.0}

    async def ask(name, address):
        while True:
            began = time.monotonic()
            try:
                reader, writer = await asyncio.wait_for(connect(address), 5)
                writer.write(f"GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
                status, _ = await asyncio.wait_for(answer(reader), 5)
                writer.close()
                took = time.monotonic() - began if status == 200 else 9.0
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
                took = 9.0
            longest[name] = max(longest[name], took)
            await asyncio.sleep(0.05)

    asking = [asyncio.create_task(ask(name, task[name])) for name in longest]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    print(json.dumps(longest), flush=True)
    for task in asking:
        task.cancel()


async def attack(task):
    """Attacks `task["address"]` until told to stop."""
    address, valid = task["address"], task["headers"]

    async def again(step, pause=0.0):
        while True:
            try:
                await step()
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
                await asyncio.sleep(0.05)
            if pause:
                await asyncio.sleep(pause)

    async def each(message):
        """One request after the other, on one connection as long as it is kept."""
        reader, writer = await connect(address)
        try:
            kept = True
            while kept:
                writer.write(message)
                await writer.drain()
                _, kept = await answer(reader)
        finally:
            writer.close()

    async def held(message, drip=b""):
        """Sends part of a request and no more, or a byte a second."""
        reader, writer = await connect(address)
        try:
            writer.write(message)
            await writer.drain()
            gone = asyncio.ensure_future(reader.read())
            while not (await asyncio.wait([gone], timeout=1))[0]:
                if drip:
                    writer.write(drip)
            await gone
        finally:
            writer.close()

    token = {"Authorization": valid["Authorization"]}
    refused = post(address, token, CALL)
    bad = post(address, {"Authorization": "Bearer a.b." + "c" * 200}, CALL)
    denied = post(address, valid, CALL.replace("work", "forbidden"))
    large = post(address, {**token, "x-large": "a" * 60_000}, CALL)
    begin = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"work","arguments":{"a":'
    hostile = [begin.encode() + part * (9_000_000 // len(part)) for part in HOSTILE]
    few = '{"a": "${CRED:number} ${CRED:long}"}'
    texts = {
        "injection": lambda: [call("work", json.dumps({"a": "${CRED:long}" * count})) for count in (790_000, 64)] * 2,
        "escapes": lambda: [call("work", json.dumps({"a": "&amp;" * count})) for count in (1_800_000, 19_400)] * 4,
        "key": lambda: [call("work", json.dumps({"k" * 9_000_000: 1}))] * 4,
        "values": lambda: [call("work", '{"a": [' + "1," * 4_500_000 + "1]}")] * 24,
        "answers": lambda: [call(tool, few) for tool in STREAMS] * 4,
    }
    texts = {name: [post(address, valid, text) for text in texts[name]()] for name in texts if name in task["kinds"]}
    kinds = {
        **{name: [lambda text=text: again(lambda: each(text)) for text in calls] for name, calls in texts.items()},
        "refusals": [lambda: again(lambda: each(refused))] * 16,
        "withheld": [lambda: again(lambda: held(post(address, token, "x" * 2_299_999, 2_300_000)), 0.2)] * 111,
        "idle": [lambda: again(lambda: held(b""), 0.2)] * 320,
        "slow": [lambda: again(lambda: held(b"POST / HTTP/1.1\r\nx: ", b"a"), 0.1)] * 500,
        "bad": [lambda: again(lambda: each(bad))] * 200,
        "denied": [lambda: again(lambda: each(denied))] * 64,
        "large": [lambda: again(lambda: each(large))] * 100,
        "hostile": [lambda body=body: again(lambda: each(post(address, valid, body))) for body in hostile * 4],
    }
    asks = [asyncio.create_task(one()) for kind in task["kinds"] for one in kinds[kind]]
    print(json.dumps("ready"), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    for one in asks:
        one.cancel()


async def refuser(task):
    """The measure: reads a head, answers 429 and closes."""
    refusal = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    async def serve(reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(refusal)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    await until_told(task, serve)


async def server(task):
    """The upstream: answers each call as soon as it has all of it and parses nothing, so that a large call delays no other."""
    streams = {tool.encode(): event(text) for tool, text in STREAMS.items()}
    done = b'{"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "done"}], "isError": false}}'

    async def serve(reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(re.search(rb"content-length: (\d+)", head)[1])
                begin = await reader.readexactly(min(length, 100))
                left = length - len(begin)
                while left:
                    left -= len(await reader.readexactly(min(left, 1 << 16)))
                tool = re.search(rb'"name": "(\w+)"', begin)[1]
                kind, text = (b"text/event-stream", streams[tool]) if tool in streams else (b"application/json", done)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(text), text))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    await until_told(task, serve)


async def until_told(task, serve):
    """Serves and writes the address to `task["ready"]`."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 17, backlog=1024)
    pathlib.Path(task["ready"]).write_text("127.0.0.1:%d\n" % server.sockets[0].getsockname()[1])
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


PARTS = {part.__name__: part for part in (good, health, attack, refuser, server)}


class Part:
    """One of them, in its process."""

    def __init__(self, name, nice=0, **task):
        command = [*(["nice", "-n", str(nice)] if nice else []), sys.executable, __file__, "--part", name, json.dumps(task)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def hear(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, command):
        self.say(command)
        return self.hear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        stop(self.process, 10)


# --- the trial --------------------------------------------------------------------------------------------------------

TEXTS = ["injection", "escapes", "key", "values", "answers"]
ATTACKS = {
    "refusals": ["refusals"],
    "withheld": ["withheld"],
    "idle": ["idle"],
    "mixed": ["slow", "bad", "denied", "large", "hostile"],
    "texts": [name for name in TEXTS if LONG or name != "answers"],
    **{name: [name] for name in TEXTS},
}


TERMS = {"authorized_tools": ["work", *STREAMS], "authorized_credentials": list(CREDENTIALS), "call_budget": 1 << 40}


def span(caller, seconds):
    caller.say("span")
    time.sleep(seconds)
    return caller.ask("end")


def disturbed(caller, address, headers, kinds, seconds):
    with Part("attack", nice=19, address=address, headers=headers, kinds=kinds) as attacker:
        attacker.hear()
        time.sleep(1)
        measured = span(caller, seconds)
        attacker.say("stop")
    return measured


def counted(gateway):
    """Refusals by code: as the metrics have them, and as the log has them."""
    text = gateway.admin_text("/metrics")
    metrics, records = {}, collections.Counter()
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if "denials_total{" in name and float(value):
            metrics[name.split('"')[1]] = int(float(value))
    good = 0
    for line in gateway.audit_path.read_text().splitlines():
        record = json.loads(line)
        if record["denial_code"]:
            folded = record["event"] == "refusals_folded"
            records[record["denial_code"]] += record["detail"]["count"] if folded else 1
        good += record["authorization_decision"] == "allow" and not record["event"]
    return metrics, dict(records), good


def mebibytes(gateway, name):
    status = pathlib.Path(f"/proc/{gateway.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) // 1024


class Gateway(Arbiter):
    files = None

    def _config(self):
        credentials = self.folder / "credentials.toml"
        lines = (f"{name} = {json.dumps(value)}\n" for name, value in CREDENTIALS.items())
        credentials.write_text("[credentials]\n" + "".join(lines))
        credentials.chmod(0o600)
        self.settings = {"credentials": {"provider": "file", "file_path": str(credentials)}}
        return super()._config()

    def spawn(self):
        super().spawn() if self.files is None else self.spawn_with_few_files()

    def spawn_with_few_files(self):
        """As the other, with a hard limit that the program cannot raise."""
        self._ready = self.folder / "ready.json"
        self._ready.unlink(missing_ok=True)
        command = ["prlimit", f"--nofile={self.files}:{self.files}", str(binary()), "serve"]
        command += ["--config", str(self.folder / "arbiter.toml"), "--ready-file", str(self._ready)]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def admin_text(self, path):
        return request(self.admin_url + path, headers={"x-api-key": self.api_key})[2]


def trial(name, upstream):
    problems = []
    gateway = Gateway(f"http://{upstream}/mcp")
    gateway.files = 256 if name == "idle" else None
    gateway.__enter__()
    try:
        address, admin = gateway.proxy_url[7:], gateway.admin_url[7:]

        def agent():
            registered = gateway.register_agent()
            session = gateway.open_session(registered["agent_id"], **TERMS)
            return gateway.agent_headers(registered, session)

        ready = gateway.folder / "refuser"
        with Part("good", address=address, headers=agent()) as caller, Part("refuser", ready=str(ready)) as measure:
            against = wait_for_file(ready, measure.process, "the refuser").strip()
            time.sleep(1)
            hostile = agent()
            alone = span(caller, SECONDS)
            elsewhere = disturbed(caller, against, hostile, ATTACKS[name], SECONDS)
            time.sleep(1)
            before, memory = gateway.audit_path.stat().st_size, mebibytes(gateway, "VmRSS")
            with Part("health", proxy=address, admin=admin) as prober:
                under = disturbed(caller, address, hostile, ATTACKS[name], SECONDS)
                slowest = prober.ask("stop")
            log_rate = (gateway.audit_path.stat().st_size - before) / (SECONDS + 1) / 1e6
            memory = mebibytes(gateway, "VmHWM") - memory
            time.sleep(4)
            # The best of three: what else the machine does must not count.
            after = max((span(caller, 1) for _ in range(3)), key=lambda measured: measured["rate"])
        time.sleep(1.5)
        metrics, records, good_records = counted(gateway)
        for code, count in metrics.items():
            if records.get(code, 0) != count:
                problems.append(f"{code}: {count} counted, {records.get(code, 0)} on record")
        if under["rate"] < SHARE * elsewhere["rate"]:
            problems.append(f"the good agent has less than {SHARE:.0%} of what it has beside a listener that answers 429")
        longest = max(alone["p99_ms"], elsewhere["p99_ms"])
        if LONG and (under["p99_ms"] or 0) > MOST_TIMES * longest:
            problems.append(f"one call in a hundred takes {under['p99_ms']:.0f} ms, where it takes {longest:.0f} ms")
        if max(slowest.values()) > SLOW:
            problems.append(f"a port answered its health after {max(slowest.values()):.2f} s")
        if memory > MOST_MIB:
            problems.append(f"the process took {memory} MiB more than before")
        if after["rate"] < SHARE * alone["rate"]:
            problems.append(f"five seconds later the good agent has {after['rate']:.0f} calls a second")
        if under["failed"]:
            problems.append(f"calls of the good agent failed: {under['failed']}")
        if name == "refusals" and records.get("TooManyRefusals", 0) == 0:
            problems.append("the flood of refusals was not stopped")
        print(
            f"{name}: calls/s alone {alone['rate']:.0f}, attack elsewhere {elsewhere['rate']:.0f}, here {under['rate']:.0f}, "
            f"after {after['rate']:.0f}; p99 ms {alone['p99_ms']:.0f}, {elsewhere['p99_ms']:.0f}, {under['p99_ms'] or -1:.0f}; "
            f"health {slowest['proxy']:.2f} s, admin {slowest['admin']:.2f} s; log {log_rate:.2f} MB/s; memory +{memory} MiB; "
            f"refused {records}; good {good_records}",
            flush=True,
        )
        if gateway.process.poll() is not None:
            problems.append("the gateway has ended")
        if problems:
            print(gateway.log(10), file=sys.stderr)
    finally:
        gateway.__exit__(None, None, None)
    return [f"{name}: {problem}" for problem in problems]


def main():
    if "--part" in sys.argv:
        name, task = sys.argv[2:4]
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return asyncio.run(PARTS[name](json.loads(task)))
    short = [name for name in ATTACKS if name not in TEXTS]
    chosen = [name for name in sys.argv[1:] if name != "--long"] or (list(ATTACKS) if LONG else short)
    with tempfile.TemporaryDirectory() as folder, Part("server", ready=f"{folder}/ready") as upstream:
        address = wait_for_file(pathlib.Path(folder) / "ready", upstream.process, "the upstream").strip()
        problems = [problem for name in chosen for problem in trial(name, address)]
    print("\n".join(problems) or "one agent cannot hurt the others")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
