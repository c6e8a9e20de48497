#!/usr/bin/env python3
"""Calls in rounds (SEP-2322) between official clients and a server of the official Python SDK, through two Arbiters.

    tests/clients/rounds.py              Arbiter is $ARBITER_BIN or target/debug/arbiter
    tests/clients/rounds.py --straight   straight to the server: checks the clients

Each round is a call of its own, on record with the client's answers and the round before. A state is its session's, at
each node of a fleet (two gateways on one Redis): another sender learns no more than of one that there never was.
"""

import argparse
import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

import run  # noqa: E402
from arbiter import Arbiter, request, stop  # noqa: E402

EXPECTED = "<Which size?> <Which colour?> mug"
VERSION = "2026-07-28"


@contextlib.contextmanager
def redis(folder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "redis.log"
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        listens(port, process)
        yield f"redis://127.0.0.1:{port}"
    finally:
        stop(process, seconds=3)


def listens(port, process):
    """Waits until the process takes connections."""
    for _ in range(300):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError("redis-server does not listen")


def clients(packages):
    return {
        "py-2": [packages["py2"], HERE / "rounds_client.py"],
        "ts-2": ["node", HERE / "rounds_client.mjs", "--modules", packages["node"]],
    }


def call(command, url, headers):
    command = [*command, "--url", url]
    for name, value in headers.items():
        command += ["--header", f"{name}={value}"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"the client ended with {done.returncode}:\n{done.stderr[-3000:]}"
    assert done.stdout.strip() == EXPECTED, f"expected {EXPECTED}, got {done.stdout}"


def records(gateway, session):
    lines = map(json.loads, gateway.audit_path.read_text().splitlines())
    return [line for line in lines if line["task_session_id"] == session["session_id"] and line["tool_called"]]


def check_client(gateway, agent, command):
    session = gateway.open_session(agent["agent_id"], authorized_tools=["order"], call_budget=3)
    call(command, gateway.proxy_url + "/mcp", gateway.agent_headers(agent, session))
    state = gateway.admin("GET", f"/sessions/{session['session_id']}", expect=200)
    assert state["calls_made"] == 3, f"three rounds are three calls, not {state['calls_made']}"
    gateway.admin("DELETE", f"/sessions/{session['session_id']}", expect=200)
    first, second, third = records(gateway, session)
    chain = [first["continues"], second["continues"], third["continues"]]
    assert chain == [None, first["request_id"], second["request_id"]], chain
    given = [record["input_responses"] for record in (first, second, third)]
    assert given[0] is None and list(given[1]) == ["size"] and list(given[2]) == ["colour"], given
    assert given[1]["size"]["content"] == {"answer": "<Which size?>"}, given


def post(gateway, headers, more):
    """Sends a round by hand; returns (status, message)."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientInfo": {"name": "by-hand", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
    }
    params = {"name": "order", "arguments": {"item": "mug"}, "_meta": meta, **more}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {
        **headers,
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": VERSION,
        "Mcp-Method": "tools/call",
        "Mcp-Name": "order",
    }
    status, answer, text = request(gateway.proxy_url + "/mcp", method="POST", headers=headers, body=body)
    if "event-stream" in answer.get("Content-Type", ""):
        text = next(line[5:] for line in text.splitlines() if line.startswith("data:") and "result" in line)
    return status, json.loads(text)


def check_others(first, second, ours, theirs):
    """A state of one agent's session, sent by that agent and by another one at both nodes."""
    mine = first.open_session(ours["agent_id"], authorized_tools=["order"])
    foreign = first.open_session(theirs["agent_id"], authorized_tools=["order"])
    my, their = first.agent_headers(ours, mine), first.agent_headers(theirs, foreign)
    status, begun = post(first, my, {})
    assert status == 200, begun
    state = begun["result"]["requestState"]
    answers = {"size": {"action": "accept", "content": {"answer": "XL"}}}
    for gateway in (first, second):
        status, unknown = post(gateway, their, {"requestState": "there never was one", "inputResponses": answers})
        assert (status, unknown["error"]["data"]["code"]) == (403, "ContinuationUnknown"), unknown
        status, refused = post(gateway, their, {"requestState": state, "inputResponses": answers})
        for error in (refused["error"], unknown["error"]):
            del error["data"]["request_id"]
        assert (status, refused) == (403, unknown), refused
    status, gone_on = post(second, my, {"requestState": state, "inputResponses": answers})
    assert status == 200 and gone_on["result"]["resultType"] == "input_required", gone_on


def main():
    parser = argparse.ArgumentParser(description="calls in rounds between official clients and servers")
    parser.add_argument("--straight", action="store_true", help="leave the gateway out")
    straight = parser.parse_args().straight
    packages = {"node": run.node_modules(), "py2": run.python_with("requirements-mcp2.txt")}
    with tempfile.TemporaryDirectory(prefix="arbiter-rounds-") as temporary, contextlib.ExitStack() as stack:
        folder = pathlib.Path(temporary)
        url = stack.enter_context(run.server("rounds", packages, folder))
        if straight:
            for name, command in clients(packages).items():
                call(command, url, {})
                print(f"{name} straight: ok")
            return 0
        storage = {"backend": "redis", "redis_url": stack.enter_context(redis(folder))}
        secret = {"ARBITER_SIGNING_SECRET": "one secret for both nodes of a fleet"}
        nodes = [
            stack.enter_context(Arbiter(url, settings={"storage": storage}, environment=secret)) for _ in range(2)
        ]
        ours, theirs = nodes[0].register_agent(), nodes[0].register_agent()
        for name, command in clients(packages).items():
            check_client(nodes[0], ours, command)
            print(f"{name} through: three rounds, three calls, each on record with the one before")
        check_others(*nodes, ours, theirs)
        print("a state goes on at the other node, and for nobody else at either")
    return 0


if __name__ == "__main__":
    sys.exit(main())
