#!/usr/bin/env python3
"""Real MCP clients against real MCP servers, straight and through Arbiter: the transcripts must be the same.

    tests/clients/run.py                 everything; Arbiter is $ARBITER_BIN or target/debug/arbiter
    tests/clients/run.py --straight      twice straight to the servers: checks the clients and the comparison
    tests/clients/run.py --only py       only cases whose name contains "py"
    tests/clients/run.py --install       only fetch the packages

Packages are fetched once into target/clients (npm, pip), pinned by the files beside this one. What is missing is a
failure, never a skip. Needs node 18 or newer, npm, and Python 3.10 or newer with venv.
"""

import argparse
import base64
import contextlib
import dataclasses
import difflib
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

import plans  # noqa: E402
from arbiter import TARGET, Arbiter, stop, wait_for_file  # noqa: E402

CACHE = TARGET / "clients"
CLIENT_SECONDS = 180


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    client: str  # ts1 | ts2 | py1 | py2 | rs: language and major version of the official SDK; or inspector
    mode: str  # legacy | auto | 2026-07-28
    server: str  # everything | sdk
    speaks: str  # the protocol version that must come of it
    path: str = "/"  # where the client finds the gateway: `/` and the upstream's own path both lead there

    @property
    def plan(self):
        plan = PLANS[self.server]
        return plans.for_a_command_line(plan) if self.client == "inspector" else plan


CASES = [
    Case("ts-1 to server-everything", "ts1", "legacy", "everything", "2025-11-25"),
    Case("ts-2 to server-everything", "ts2", "legacy", "everything", "2025-11-25", "/mcp"),
    Case("ts-2 auto to server-everything", "ts2", "auto", "everything", "2025-11-25"),
    Case("py-1 to server-everything", "py1", "legacy", "everything", "2025-11-25"),
    Case("py-2 to server-everything", "py2", "legacy", "everything", "2025-11-25", "/mcp"),
    Case("py-2 auto to server-everything", "py2", "auto", "everything", "2025-11-25"),
    Case("rust to server-everything", "rs", "legacy", "everything", "2025-11-25", "/mcp"),
    Case("rust auto to server-everything", "rs", "auto", "everything", "2025-11-25"),
    Case("inspector to server-everything", "inspector", "legacy", "everything", "2025-11-25", "/mcp"),
    Case("ts-1 to sdk-server", "ts1", "legacy", "sdk", "2025-11-25", "/mcp"),
    Case("ts-2 auto to sdk-server", "ts2", "auto", "sdk", "2026-07-28"),
    Case("ts-2 2026-07-28 to sdk-server", "ts2", "2026-07-28", "sdk", "2026-07-28", "/mcp"),
    Case("py-1 to sdk-server", "py1", "legacy", "sdk", "2025-11-25"),
    Case("py-2 to sdk-server", "py2", "legacy", "sdk", "2025-11-25"),
    Case("py-2 auto to sdk-server", "py2", "auto", "sdk", "2026-07-28"),
    Case("py-2 2026-07-28 to sdk-server", "py2", "2026-07-28", "sdk", "2026-07-28", "/mcp"),
    Case("rust to sdk-server", "rs", "legacy", "sdk", "2025-11-25", "/mcp"),
    Case("rust auto to sdk-server", "rs", "auto", "sdk", "2026-07-28"),
    Case("rust 2026-07-28 to sdk-server", "rs", "2026-07-28", "sdk", "2026-07-28", "/mcp"),
    Case("inspector to sdk-server", "inspector", "legacy", "sdk", "2025-11-25", "/mcp"),
    Case("inspector 2026-07-28 to sdk-server", "inspector", "2026-07-28", "sdk", "2026-07-28", "/mcp"),
]

PLANS = {"everything": plans.EVERYTHING, "sdk": plans.SDK_SERVER}


# --- packages ---------------------------------------------------------------------------------------------------------


def installed(folder, source, install):
    """Runs `install(folder)` unless it has been done for exactly this pin file."""
    mark = folder / ".installed-from"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if not (mark.exists() and mark.read_text() == digest):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"fetching packages of {source.name} …", flush=True)
        install(folder)
        mark.write_text(digest)
    return folder


def must(command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600, **options)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def node_modules():
    def install(folder):
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder)
        must(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder)

    return installed(CACHE / "node", HERE / "package-lock.json", install)


def python_with(requirements):
    def install(folder):
        venv.create(folder, with_pip=True)
        must([folder / "bin/python", "-m", "pip", "install", "--quiet", "-r", HERE / requirements])

    return installed(CACHE / requirements.removesuffix(".txt"), HERE / requirements, install) / "bin/python"


def rust_client():
    command = ["cargo", "build", "--locked", "--quiet", "--example", "rust_client"]
    must(command, cwd=HERE.parents[1], env={**os.environ, "CARGO_TARGET_DIR": str(TARGET)})
    return TARGET / "debug/examples/rust_client"


def install_all():
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < 18:
        raise SystemExit(f"node 18 or newer is needed, this is {version}")
    return {
        "node": node_modules(),
        "py1": python_with("requirements-mcp1.txt"),
        "py2": python_with("requirements-mcp2.txt"),
        "rs": rust_client(),
    }


# --- servers ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def server(kind, packages, folder):
    """Runs one MCP server on a free port of 127.0.0.1; yields its URL."""
    ready = folder / f"{kind}.port"
    environment = {**os.environ, "READY_FILE": str(ready)}
    if kind == "everything":
        main = packages["node"] / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
        command = ["node", "--import", HERE / "loopback.mjs", main, "streamableHttp"]
    elif kind in ("conformance", "conformance-json"):
        command = [packages["py2"], HERE / "conformance_server.py", "--ready-file", ready]
        command += ["--json"] * kind.endswith("json")
    elif kind in ("asking", "rounds"):
        command = [packages["py1" if kind == "asking" else "py2"], HERE / f"{kind}_server.py", "--ready-file", ready]
    elif kind == "tasks":
        command = [packages["py1"], HERE / "task_server.py", "--ready-file", ready]
    else:
        command = [packages["py2"], HERE / "py_server.py", "--ready-file", ready, "--seen", folder / "seen.jsonl"]
    with (folder / f"{kind}.log").open("wb") as log:
        process = subprocess.Popen([str(part) for part in command], env=environment, stdout=log, stderr=log)
    try:
        port = wait_for_file(ready, process, f"the {kind} server").strip()
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        stop(process, seconds=3)


# --- one run ----------------------------------------------------------------------------------------------------------


def run_client(case, packages, url, headers, folder):
    """Runs a client; returns (transcript, what it said about progress)."""
    plan = folder / "plan.json"
    plan.write_text(json.dumps(case.plan))
    if case.client.startswith("ts"):
        command = ["node", HERE / "ts_client.mjs", "--sdk", case.client[-1], "--modules", packages["node"]]
    elif case.client == "inspector":
        node = packages["node"] / "node_modules/node/bin/node"
        command = [sys.executable, HERE / "inspector_client.py", "--node", node, "--modules", packages["node"]]
    elif case.client == "rs":
        command = [packages["rs"]]
    else:
        command = [packages[case.client], HERE / "py_client.py"]
    command += ["--mode", case.mode, "--url", url, "--plan", plan]
    for name, value in headers.items():
        command += ["--header", f"{name}={value}"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=CLIENT_SECONDS)
    if done.returncode:
        raise RuntimeError(f"the client ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout), done.stderr.strip().splitlines()[-1]


CLOCK = re.compile(r"created at \d{1,2}:\d\d:\d\d( [AP]M)?")


def canonical(value):
    """The transcript as text, without the times that server-everything puts into some answers."""

    def walk(part):
        if isinstance(part, dict):
            return {key: blob(inner) if key == "blob" else walk(inner) for key, inner in part.items()}
        if isinstance(part, list):
            return [walk(inner) for inner in part]
        return CLOCK.sub("created at TIME", part) if isinstance(part, str) else part

    def blob(text):
        return CLOCK.sub("created at TIME", base64.b64decode(text).decode(errors="replace"))

    return json.dumps(walk(value), indent=1, sort_keys=True, ensure_ascii=True)


def check_sanity(case, transcript):
    """Two equal transcripts of failures would be equal too: the straight one must hold what the plan asked for."""
    steps = transcript["steps"]
    assert transcript["protocol"] == case.speaks, f"speaks {transcript['protocol']}, expected {case.speaks}"
    assert len(steps) == len(case.plan), "not every step of the plan was done"
    failed = [
        (planned, done)
        for planned, done in zip(case.plan, steps)
        if planned["op"] == "call_tool" and done["result"].get("isError")
    ]
    assert len(failed) == 1, f"expected exactly the one call that is meant to fail, got {failed}"
    for op in ("list_tools", "list_resources", "list_prompts"):
        listed = next(done["result"] for done in steps if done["op"] == op)
        assert any(listed.values()), f"{op} was empty"
    text, sent = json.dumps(transcript), json.dumps(case.plan)
    odd, long = plans.ODD_TEXT, plans.LONG_TEXT
    for expected in [plans.SHELL_TEXT] if case.client == "inspector" else [odd, long]:
        quoted = json.dumps(expected)[1:-1]
        assert quoted in sent and quoted in text, f"did not come back: {expected[:20]}…"


def check_equal(straight, through):
    before, after = canonical(straight).splitlines(), canonical(through).splitlines()
    lines = list(difflib.unified_diff(before, after, "straight", "through", lineterm="", n=2))
    assert not lines, "the transcripts differ:\n" + "\n".join(line[:300] for line in lines[:60])


def check_headers(seen, first_line):
    """What reached the upstream through the gateway: never the agent's token or session, always its verified id."""
    lines = [json.loads(line) for line in seen.read_text().splitlines()][first_line:]
    assert lines, "nothing reached the upstream"
    for headers in lines:
        leaked = {"authorization", "x-arbiter-session", "x-api-key"} & headers.keys()
        assert not leaked, f"reached the upstream: {leaked}"
        missing = {"x-agent-id", "x-arbiter-request-id"} - headers.keys()
        assert not missing, f"did not reach the upstream: {missing}"


def run_case(case, packages, url, gateway, agent, folder):
    headers = {}
    straight, progress = run_client(case, packages, url, headers, folder)
    check_sanity(case, straight)
    if gateway is None:
        again, _ = run_client(case, packages, url, headers, folder)
        check_equal(straight, again)
        return progress
    seen = folder / "seen.jsonl"
    seen_before = len(seen.read_text().splitlines()) if case.server == "sdk" else 0
    session = gateway.open_session(agent["agent_id"], call_budget=1000, **plans.grants(straight))
    headers = gateway.agent_headers(agent, session)
    through, progress = run_client(case, packages, gateway.proxy_url + case.path, headers, folder)
    check_equal(straight, through)
    if case.server == "sdk":
        check_headers(seen, seen_before)
    state = gateway.admin("GET", f"/sessions/{session['session_id']}", expect=200)
    calls = sum(len(step.get("calls", [step])) for step in case.plan if step["op"].startswith("call_tool"))
    assert state["calls_made"] == calls, f"the session counted {state['calls_made']} calls, the client made {calls}"
    gateway.admin("DELETE", f"/sessions/{session['session_id']}", expect=200)
    return progress


def main():
    parser = argparse.ArgumentParser(description="official MCP clients, straight and through Arbiter")
    parser.add_argument("--straight", action="store_true", help="leave the gateway out")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--install", action="store_true", help="only fetch the packages")
    options = parser.parse_args()

    packages = install_all()
    if options.install:
        return 0
    cases = [case for case in CASES if options.only in case.name]
    rows, failed = [], 0
    with tempfile.TemporaryDirectory(prefix="arbiter-clients-") as temporary:
        folder = pathlib.Path(temporary)
        for kind in dict.fromkeys(case.server for case in cases):
            with contextlib.ExitStack() as stack:
                url = stack.enter_context(server(kind, packages, folder))
                gateway = agent = None
                if not options.straight:
                    gateway = stack.enter_context(Arbiter(url))
                    agent = gateway.register_agent()
                for case in (case for case in cases if case.server == kind):
                    started = time.monotonic()
                    try:
                        verdict, detail = "ok", run_case(case, packages, url, gateway, agent, folder)
                    except Exception as error:  # a case that breaks is a row, not the end of the run
                        failed += 1
                        verdict, detail = "FAILED", ""
                        print(f"--- {case.name}\n{error}", flush=True)
                        if gateway:
                            print(f"--- gateway's log\n{gateway.log(15)}", flush=True)
                    rows.append((case, verdict, time.monotonic() - started, detail))

    how = "straight = straight again" if options.straight else "straight = through the gateway"
    print(f"\n{'case':32} {'protocol':11} {how}")
    for case, verdict, seconds, detail in rows:
        print(f"{case.name:32} {case.speaks:11} {verdict:7} {seconds:5.1f} s  {detail}")
    print(f"{len(rows) - failed} passed, {failed} failed")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
