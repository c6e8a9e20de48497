#!/usr/bin/env python3
"""The protocol's conformance suite against real servers, straight and through Arbiter: the same checks must pass.

    tests/clients/conformance.py                 every server and revision once; Arbiter is $ARBITER_BIN or target/debug/arbiter
    tests/clients/conformance.py --all           and each over HTTP/1.1 and over TLS with HTTP/2, with JSON and with event streams
    tests/clients/conformance.py --only sdk      only rows whose name contains "sdk"
    tests/clients/conformance.py --keep FOLDER   leave the suite's own results there

What a server fails straight it may fail through Arbiter too; any other difference is a failure but one: a check that the
server fails and the gateway, answering in its place, passes. Those are printed. Packages are those of run.py, the suite's
version among them; the suite needs Node 22, which the npm package `node` brings.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

import run  # noqa: E402
from arbiter import Arbiter, stop, wait_for_file  # noqa: E402

SUITE_SECONDS = 300
# Server, revision, and how the gateway is reached; with "-json" the server answers with JSON where it can.
ROWS = [
    ("everything", "2025-11-25", "h1"),
    ("conformance-json", "2025-11-25", "h2"),
    ("conformance", "2026-07-28", "h1"),
]
MORE_ROWS = [
    ("everything", "2025-11-25", "h2"),
    ("conformance", "2025-11-25", "h1"),
    ("conformance", "2025-11-25", "h2"),
    ("conformance-json", "2025-11-25", "h1"),
    ("conformance", "2026-07-28", "h2"),
    ("conformance-json", "2026-07-28", "h1"),
    ("conformance-json", "2026-07-28", "h2"),
]
# A run in which next to nothing passes would compare nothing with nothing.
LEAST_PASSED = {"everything": 5, "conformance": 20, "conformance-json": 20}

def settings():
    """Pages and clients of this machine may call, and GET and DELETE are served as the server serves them."""
    return {
        "proxy": {"legacy_streams": True, "allowed_origins": ["loopback"], "allowed_hosts": list(LOCAL)},
        "sessions": {"allow_wildcard_tools": True},
    }


LOCAL = ("127.0.0.1", "localhost")


def free_port():
    with socket.create_server((LOCAL[0], 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def forwarder(packages, url, port, headers, folder, ca=None):
    """A port whose requests reach `url` with these headers added; yields its URL."""
    ready = folder / "forwarder.port"
    ready.unlink(missing_ok=True)
    command = [node(packages), HERE / "forwarder.mjs", "--to", url, "--port", port, "--ready-file", ready]
    command += [f"--header={name}={value}" for name, value in headers.items()]
    command += ["--ca", ca] if ca else []
    process = subprocess.Popen([str(part) for part in command])
    try:
        yield f"http://127.0.0.1:{wait_for_file(ready, process, 'the forwarder').strip()}/mcp"
    finally:
        stop(process, seconds=3)


def node(packages):
    return packages["node"] / "node_modules/node/bin/node"


def suite(packages, url, revision, folder):
    """Runs every scenario that a revision requires of servers; returns {(scenario, check): statuses}."""
    main = packages["node"] / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    command = [node(packages), main, "server", "--url", url, "--requirements", revision, "-o", folder]
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=SUITE_SECONDS, env=environment
    )
    (folder / "output.txt").write_text(done.stdout + done.stderr)
    found = collections.defaultdict(list)
    for path in sorted(folder.glob("**/checks.json")):
        scenario = re.sub(r"-\d{4}-\d\d-\d\dT.*", "", path.parent.name).removeprefix("server-")
        for check in json.loads(path.read_text()):
            found[scenario, check["id"]].append(check["status"])
    if not found:
        raise RuntimeError(f"the suite ended with {done.returncode} and left no results:\n{done.stdout}{done.stderr}")
    return {key: sorted(statuses) for key, statuses in found.items()}


def passed(results):
    return sum(statuses.count("SUCCESS") for statuses in results.values())


def differences(straight, through):
    """Checks that do not say the same: those that the gateway alone passes, and all others."""
    better, other = [], []
    for key in sorted(straight.keys() | through.keys()):
        before, after = straight.get(key), through.get(key)
        if before != after:
            # As many results of the check, and each is a pass.
            is_better = bool(before) and after == ["SUCCESS"] * len(before)
            (better if is_better else other).append(f"{' / '.join(key)}: straight {before}, through {after}")
    return better, other


def certificate(folder):
    """A certificate for 127.0.0.1 that signs itself; gives its file and its key's."""
    files = folder / "tls.pem", folder / "tls.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return files


def one(kind, revision, wire, packages, folder):
    """Runs one row; returns what to print of it. A difference is an error."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(run.server(kind, packages, folder))
        before = folder / "straight"
        before.mkdir(parents=True)
        straight = suite(packages, url, revision, before)
        cert = key = None
        environment = {}
        if wire == "h2":
            cert, key = certificate(folder)
            environment["ARBITER_PROXY__TLS"] = json.dumps({"cert_file": str(cert), "key_file": str(key)})
        gateway = stack.enter_context(Arbiter(url, settings=settings(), environment=environment))
        agent = gateway.register_agent()
        everything = ["*"]
        session = gateway.open_session(
            agent["agent_id"],
            call_budget=10_000,
            authorized_tools=everything,
            authorized_resources=everything,
            authorized_prompts=everything,
            authorized_methods=everything,
        )
        headers = gateway.agent_headers(agent, session)
        target = gateway.proxy_url.replace("http:", "https:" if cert else "http:") + "/mcp"
        entrance = stack.enter_context(forwarder(packages, target, port, headers, folder, cert))
        after = folder / "through"
        after.mkdir()
        through = suite(packages, entrance, revision, after)
    better, other = differences(straight, through)
    assert passed(straight) >= LEAST_PASSED[kind], f"only {passed(straight)} checks passed straight"
    assert not other, "the results differ:\n" + "\n".join(other)
    count = f"{passed(straight)} straight, {passed(through)} through"
    mended = "".join(f"\n    passes only through: {line}" for line in better)
    return f"of {sum(map(len, through.values()))} checks pass {count}; none is worse{mended}"


def main():
    parser = argparse.ArgumentParser(description="the conformance suite, straight and through Arbiter")
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    parser.add_argument("--all", action="store_true", help="every transport with every form of answer")
    parser.add_argument("--keep", type=pathlib.Path, help="where the suite's own results are left")
    options = parser.parse_args()
    packages = {"node": run.node_modules(), "py2": run.python_with("requirements-mcp2.txt")}
    rows, failed = [], 0
    with tempfile.TemporaryDirectory(prefix="arbiter-conformance-") as temporary:
        for kind, revision, wire in ROWS + MORE_ROWS * options.all:
            name = f"{kind} {revision} {wire}"
            if options.only not in name:
                continue
            started = time.monotonic()
            folder = (options.keep or pathlib.Path(temporary)) / name.replace(" ", "-")
            folder.mkdir(parents=True)
            try:
                verdict, detail = "ok", one(kind, revision, wire, packages, folder)
            except Exception as error:  # a row that breaks is a row, not the end of the run
                failed += 1
                verdict, detail = "FAILED", ""
                print(f"--- {name}\n{error}", flush=True)
            rows.append(f"{name:30} {verdict:7} {time.monotonic() - started:5.1f} s  {detail}")
    print("\n".join(["", *rows, f"{len(rows) - failed} passed, {failed} failed"]))
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
