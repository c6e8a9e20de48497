#!/usr/bin/env python3
"""The protocol's conformance suite against real servers, straight and through Arbiter: the same checks must pass.

    tests/clients/conformance.py                 every server and revision; Arbiter is $ARBITER_BIN or target/debug/arbiter
    tests/clients/conformance.py --only sdk      only rows whose name contains "sdk"
    tests/clients/conformance.py --keep FOLDER   leave the suite's own results there

What a server fails straight it may fail through Arbiter too; what differs must be in EXPECTED, with the rule that
demands it. Packages are those of run.py; the suite needs Node 22, which the npm package `node` brings.
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
ROWS = [
    ("everything", "2025-11-25"),
    ("conformance", "2025-11-25"),
    ("conformance", "2026-07-28"),
]
# A run in which next to nothing passes would compare nothing with nothing.
LEAST_PASSED = {"everything": 5, "conformance": 20}

# What Arbiter refuses before the server sees it, with the clause that demands it.
ORIGIN = "an origin that is not allowed is refused, here for a server that does not look (Request headers: Origin)"
NO_VERSION = "a version that is missing on one side is a mismatch, -32020 (What is an MCP request: 2026-07-28)"
NOT_A_VERSION = "what is no revision's date is malformed, in the form of every refusal (Refusals: MalformedRequest)"
NO_URI = "a call that is judged by its URI must have one (What is an MCP request: Data)"
STATELESS = "conformance", "server-stateless"

# (server, scenario, check) -> why it differs.
EXPECTED = {
    ("everything", "dns-rebinding-protection", "localhost-host-rebinding-rejected"): ORIGIN,
    (*STATELESS, "sep-2575-request-meta-invalid-missing-meta"): NO_VERSION,
    (*STATELESS, "sep-2575-request-meta-invalid-missing-protocol-version"): NO_VERSION,
    (*STATELESS, "sep-2575-server-unsupported-version-error"): NOT_A_VERSION,
    (*STATELESS, "sep-2575-http-server-method-not-found-404-resources-subscribe"): NO_URI,
    (*STATELESS, "sep-2575-http-server-method-not-found-404-resources-unsubscribe"): NO_URI,
}


def settings(port):
    """The suite's own origin may call, and GET and DELETE are served as the server serves them."""
    return {
        "proxy": {"legacy_streams": True, "allowed_origins": [f"http://{host}:{port}" for host in LOCAL]},
        "sessions": {"allow_wildcard_tools": True},
    }


LOCAL = ("127.0.0.1", "localhost")


def free_port():
    with socket.create_server((LOCAL[0], 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def forwarder(packages, url, port, headers, folder):
    """A port whose requests reach `url` with these headers added; yields its URL."""
    ready = folder / "forwarder.port"
    ready.unlink(missing_ok=True)
    command = [node(packages), HERE / "forwarder.mjs", "--to", url, "--port", port, "--ready-file", ready]
    command += [f"--header={name}={value}" for name, value in headers.items()]
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


def differences(kind, straight, through):
    """Checks that do not say the same, without those that the contract demands."""
    keys = sorted(straight.keys() | through.keys())
    different = [key for key in keys if straight.get(key) != through.get(key)]
    lines = [
        f"{scenario} / {check}: straight {straight.get((scenario, check))}, through {through.get((scenario, check))}"
        for scenario, check in different
        if (kind, scenario, check) not in EXPECTED
    ]
    stale = [key for key in EXPECTED if key[0] == kind and key[1:] in keys and key[1:] not in different]
    return lines, [(kind, *key) for key in different if (kind, *key) in EXPECTED], stale


def one(kind, revision, packages, folder):
    """Runs one row; returns what to print of it. A difference is an error."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(run.server(kind, packages, folder))
        before = folder / "straight"
        before.mkdir(parents=True)
        straight = suite(packages, url, revision, before)
        gateway = stack.enter_context(Arbiter(url, settings=settings(port)))
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
        entrance = stack.enter_context(forwarder(packages, gateway.proxy_url + "/mcp", port, headers, folder))
        after = folder / "through"
        after.mkdir()
        through = suite(packages, entrance, revision, after)
    lines, expected, stale = differences(kind, straight, through)
    assert passed(straight) >= LEAST_PASSED[kind], f"only {passed(straight)} checks passed straight"
    assert not lines, "the results differ:\n" + "\n".join(lines)
    assert not stale, f"no longer different, take out of EXPECTED: {stale}"
    differ = "".join(f"\n    differs: {key[2]}: {EXPECTED[key]}" for key in expected)
    count = f"{passed(straight)} straight, {passed(through)} through"
    return f"of {sum(map(len, through.values()))} checks pass {count}{differ}"


def main():
    parser = argparse.ArgumentParser(description="the conformance suite, straight and through Arbiter")
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    parser.add_argument("--keep", type=pathlib.Path, help="where the suite's own results are left")
    options = parser.parse_args()
    packages = run.install_all()
    rows, failed = [], 0
    with tempfile.TemporaryDirectory(prefix="arbiter-conformance-") as temporary:
        for kind, revision in ROWS:
            name = f"{kind} {revision}"
            if options.only not in name:
                continue
            started = time.monotonic()
            folder = (options.keep or pathlib.Path(temporary)) / name.replace(" ", "-")
            folder.mkdir(parents=True)
            try:
                verdict, detail = "ok", one(kind, revision, packages, folder)
            except Exception as error:  # a row that breaks is a row, not the end of the run
                failed += 1
                verdict, detail = "FAILED", ""
                print(f"--- {name}\n{error}", flush=True)
            rows.append(f"{name:24} {verdict:7} {time.monotonic() - started:5.1f} s  {detail}")
    print("\n".join(["", *rows, f"{len(rows) - failed} passed, {failed} failed"]))
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
