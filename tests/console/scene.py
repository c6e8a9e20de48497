"""A gateway with something to look at: agents that delegate, sessions, calls that pass, fail and wait, and hostile texts."""

import contextlib
import json
import pathlib
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parent / "clients")]

import run as clients  # noqa: E402
from arbiter import TARGET, Arbiter, binary, request, stop, wait_for_file  # noqa: E402, F401

POLICIES = """\
[[policies]]
id = "anything"
effect = "allow"
allowed_tools = ["*"]

[[policies]]
id = "ask-before-deleting"
effect = "escalate"
allowed_tools = ["delete_*"]
priority = 900

[[policies]]
id = "never-wipe"
effect = "deny"
allowed_tools = ["wipe_*"]
priority = 950
"""
TOOLS = ["query_transactions", "get_account_summary", "delete_transactions", "wipe_disk"]
SCRIPT = "<script>window.ran=1</script><img src=x onerror=\"window.ran=1\"><a href=\"javascript:window.ran=1\">"
HOSTILE = {
    "html": f"\"'>{SCRIPT}</code></td></table></main>",
    "ansi": "\u001b[31mred\u001b]8;;http://evil.example\u0007link",
    "bidi": "safe\u202eexe.gpj\u2066evil\u2069",
    "zero-width": "pay\u200bpal\u200d\ufeff",
    "long": SCRIPT + "A" * 100_000,
}


@contextlib.contextmanager
def upstream(folder):
    """Runs the recording upstream; yields its URL and what reached it."""
    ready, record = folder / "upstream.port", folder / "upstream.jsonl"
    command = [sys.executable, HERE.parent / "support/recording_upstream.py", "--ready-file", ready, "--record", record]
    process = subprocess.Popen([str(part) for part in command])
    try:
        yield f"http://127.0.0.1:{wait_for_file(ready, process, 'the upstream').strip()}/mcp", record
    finally:
        stop(process)


class Scene:
    """A running gateway, one agent with its delegate, and a session of each."""

    def __init__(self, gateway: Arbiter, record: pathlib.Path, folder: pathlib.Path):
        self.gateway, self.record, self.folder = gateway, record, folder
        self.agent = gateway.register_agent(owner="team:payments", capabilities=["read", "write"])
        self.delegate = gateway.register_agent(owner="team:payments-night", capabilities=["read"])
        gateway.admin("POST", f"/agents/{self.agent['agent_id']}/delegate", {"to": self.delegate["agent_id"], "scopes": ["read"]}, 201)
        self.session = self.opens(self.agent, declared_intent="manage and clean up the transactions of account 7")
        self.night = self.opens(self.delegate, declared_intent="read transactions at night")

    def opens(self, agent, **order):
        return self.gateway.open_session(agent["agent_id"], **{"authorized_tools": TOOLS, "call_budget": 40, **order})

    def call(self, tool, arguments=None, *, agent=None, session=None, timeout=90):
        """Sends one tool call; returns (status, answer, request id)."""
        params = {"name": tool, "arguments": arguments or {}}
        status, headers, text = request(
            self.gateway.proxy_url + "/",
            method="POST",
            body={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params},
            headers={
                **Arbiter.agent_headers(agent or self.agent, session or self.session),
                "Accept": "application/json, text/event-stream",
            },
            timeout=timeout,
        )
        return status, json.loads(text), headers["x-arbiter-request-id"]

    def refused(self, wanted, tool, arguments=None, **who):
        """Sends a call that must be refused with a code; returns its request id."""
        status, answer, request_id = self.call(tool, arguments, **who)
        code = answer.get("error", {}).get("data", {}).get("code")
        assert code == wanted, f"{tool}: {status} {code}, not {wanted}"
        return request_id

    def reached_upstream(self, tool, argument):
        """How often a call of a tool with this text in it reached the upstream."""
        lines = self.record.read_text().splitlines()
        return sum(f'"name": "{tool}"' in line and argument in line for line in lines)

    def pending(self):
        return self.gateway.admin("GET", "/approvals?status=pending", expect=200)["approvals"]

    def typescript(self, packages, tool, arguments):
        """Starts the official TypeScript client with one call, which waits as long as the gateway lets it."""
        plan = self.folder / "plan.json"
        plan.write_text(json.dumps([{"op": "call_tool", "name": tool, "arguments": arguments}]))
        command = ["node", HERE.parent / "clients/ts_client.mjs", "--sdk", "2", "--modules", packages]
        command += ["--url", self.gateway.proxy_url + "/", "--plan", plan]
        for name, value in Arbiter.agent_headers(self.agent, self.session).items():
            command += ["--header", f"{name}={value}"]
        return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def populate(self):
        """Gives every page something to show, hostile texts among it."""
        for n in range(6):
            self.call("query_transactions", {"account": str(n), "limit": 10})
        self.refused("PolicyDenied", "wipe_disk", {"disk": "sda"})
        self.refused("DriftDetected", "delete_transactions", {"a": 1}, **self._drifting())
        nearly = self.opens(self.agent, declared_intent="manage what is nearly used up", call_budget=5)
        for n in range(4):
            self.call("query_transactions", {"n": n}, session=nearly)
        for text in HOSTILE.values():
            self.hostile(text)
            self.call("query_transactions", {"text": text, text[:200]: "as a key"})

    def hostile(self, text):
        """Calls a tool with a hostile name; the call is refused, whatever the name is."""
        status, answer, _ = self.call(text[:20_000], {"text": text})
        assert status in (400, 403) and "error" in answer, answer

    def _drifting(self):
        agent = self.gateway.register_agent(owner="team:reports", trust_level="verified")
        return {"agent": agent, "session": self.opens(agent, declared_intent="read the logs")}


class Later:
    """A call in a thread; `result()` waits for its answer."""

    def __init__(self, work):
        self._outcome = None

        def run():
            try:
                self._outcome = (work(), None)
            except Exception as error:  # noqa: BLE001
                self._outcome = (None, error)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def result(self, seconds=30):
        self._thread.join(seconds)
        assert self._outcome is not None, f"no answer within {seconds} s"
        value, error = self._outcome
        if error:
            raise error
        return value


def axe(packages):
    return (packages / "node_modules/axe-core/axe.min.js").read_text()


def node_packages():
    return clients.node_modules()


def tried(cases, only, stage):
    """Runs the cases whose name contains `only`, prints how each ended, and returns the number of those that failed."""
    failed = 0
    for case in [case for case in cases if only in case.__name__]:
        began = time.monotonic()
        try:
            case(stage)
            print(f"ok      {case.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception as error:  # noqa: BLE001
            failed += 1
            print(f"FAILED  {case.__name__} ({time.monotonic() - began:.1f} s): {error}", flush=True)
    return failed
