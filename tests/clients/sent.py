#!/usr/bin/env python3
"""Official clients that Arbiter sends to a page, where a person decides about their call (`approvals.user_url`).

    tests/clients/sent.py              everything; Arbiter is $ARBITER_BIN or target/debug/arbiter
    tests/clients/sent.py --only ts-2  only cases whose name contains "ts-2"

On 2025-11-25 the page comes with the error -32042, and the client calls again; on 2026-07-28 with the question of an
`input_required` result, and the client's SDK sends the call again by itself, with its answer and Arbiter's state.
Packages are those of run.py; what is missing is a failure.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

import run  # noqa: E402
from arbiter import Arbiter, stop  # noqa: E402

PAGE = "https://arbiter.example/console/approvals"
POLICIES = """\
[[policies]]
id = "allow"
effect = "allow"
allowed_tools = ["add"]

[[policies]]
id = "ask"
effect = "escalate"
allowed_tools = ["add"]
priority = 900
"""
CASES = [
    ("ts-1 approved", "ts1", "legacy", "approve"),
    ("ts-2 approved", "ts2", "legacy", "approve"),
    ("ts-2 denied", "ts2", "legacy", "deny"),
    ("ts-2 2026-07-28 approved", "ts2", "2026-07-28", "approve"),
    ("ts-2 2026-07-28 denied", "ts2", "2026-07-28", "deny"),
    ("py-1 approved", "py1", "legacy", "approve"),
    ("py-2 approved", "py2", "legacy", "approve"),
    ("py-2 denied", "py2", "legacy", "deny"),
    ("py-2 2026-07-28 approved", "py2", "2026-07-28", "approve"),
    ("py-2 2026-07-28 denied", "py2", "2026-07-28", "deny"),
]


def command_of(client, packages):
    if client.startswith("ts"):
        return ["node", HERE / "sent_client.mjs", "--sdk", client[-1], "--modules", packages["node"]]
    return [packages[client], HERE / "sent_client.py"]


def walk(gateway, agent, command, mode, decision):
    """Runs a client to its end; a person decides where it is sent. Returns (session, approval id, its last words)."""
    session = gateway.open_session(agent["agent_id"], authorized_tools=["add"])
    command = [*command, "--url", gateway.proxy_url + "/mcp", "--mode", mode]
    for name, value in gateway.agent_headers(agent, session).items():
        command += ["--header", f"{name}={value}"]
    pipe = subprocess.PIPE
    client = subprocess.Popen([str(part) for part in command], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    alarm = threading.Timer(60, client.kill)
    alarm.start()
    try:
        said = client.stdout.readline()
        assert said, f"the client said nothing:\n{client.communicate()[1][-3000:]}"
        page, approval_id = json.loads(said)["open"].rsplit("/", 1)
        assert page == PAGE, page
        asked = gateway.admin("GET", f"/approvals/{approval_id}", expect=200)
        assert (asked["status"], asked["session_id"]) == ("pending", session["session_id"]), asked
        gateway.admin("POST", f"/approvals/{approval_id}", {"decision": decision}, 200)
        said, complaints = client.communicate("\n")
    finally:
        alarm.cancel()
        stop(client)
    lines = said.splitlines()
    assert client.returncode == 0 and len(lines) == 1, f"ended with {client.returncode}, said {said}:\n{complaints[-3000:]}"
    return session, approval_id, json.loads(lines[0])


def check(gateway, agent, command, mode, decision):
    session, approval_id, ended = walk(gateway, agent, command, mode, decision)
    approved = decision == "approve"
    expected = {"result": {"total": 42}} if approved else {"refused": "ApprovalDenied"}
    assert ended == expected, f"expected {expected}, got {ended}"
    shown = gateway.admin("GET", f"/approvals/{approval_id}", expect=200)
    assert shown["status"] == ("used" if approved else "denied"), shown
    gateway.admin("DELETE", f"/sessions/{session['session_id']}", expect=200)
    lines = map(json.loads, gateway.audit_path.read_text().splitlines())
    calls = [line for line in lines if line["task_session_id"] == session["session_id"] and line["tool_called"]]
    outcome = [(line["authorization_decision"], line["denial_code"], line["approved_by"]) for line in calls]
    second = ("allow", None, "admin") if approved else ("deny", "ApprovalDenied", None)
    assert outcome == [("escalate", "EscalationRequired", None), second], outcome
    assert all(line["approval_id"] == approval_id for line in calls), calls


def main():
    parser = argparse.ArgumentParser(description="official clients that are sent to a page of approvals")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    options = parser.parse_args()
    packages = {
        "node": run.node_modules(),
        "py1": run.python_with("requirements-mcp1.txt"),
        "py2": run.python_with("requirements-mcp2.txt"),
    }
    failed = 0
    with tempfile.TemporaryDirectory(prefix="arbiter-sent-") as folder, run.server("sdk", packages, pathlib.Path(folder)) as url:
        with Arbiter(url, policies=POLICIES, settings={"approvals": {"user_url": PAGE}}) as gateway:
            agent = gateway.register_agent()
            for name, client, mode, decision in CASES:
                if options.only not in name:
                    continue
                try:
                    check(gateway, agent, command_of(client, packages), mode, decision)
                    print(f"{name}: ok", flush=True)
                except Exception as error:  # noqa: BLE001
                    failed += 1
                    print(f"{name}: FAILED\n{error}\n{gateway.log(15)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
