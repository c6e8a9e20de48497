"""The shell blocks of the guides, run as they are written beside a gateway of their own.

`ELSEWHERE` names the blocks that another part of `tests/run` runs, or that need another machine; every other block of the
documents is run here. Before a block is run, names that a reader puts in are replaced (`APPROVAL_ID`, `/backup`). A command that
follows a log runs for two seconds. A command that fails ends its block.
"""

import http.server
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))
import arbiter as support  # noqa: E402

# The beginning of a block's first command, and what runs it.
ELSEWHERE = {
    "(command -v cmake": "the part `demo`",
    "cargo build": "`five_minutes` in tests/docs.py",
    "tests/run": "these are the tests",
    "export ARBITER_STORAGE__REDIS_URL": "forms of a URL: src/config/redis_url.rs, and tests of fleets connect by them",
    "ssh ": "needs another machine",
    "k6 run": "the part `load`, with the address and token of its own gateway",
}

POLICIES = support.ALLOW_ALL + """
[[policies]]
id = "ask"
effect = "escalate"
priority = 1000
allowed_tools = ["pay"]
"""


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes what is exported."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def first_command(block):
    return next((line for line in block.splitlines() if line and not line.startswith("#")), "")


def unowned(blocks):
    """Blocks that nothing runs."""
    ours = tuple(RUN)
    for document, block in blocks:
        if not first_command(block).startswith((*ELSEWHERE, *ours)):
            yield f"{document}: no test runs the block `{first_command(block)}`"


def run(block, folder, environment, replaced=()):
    """Runs a block in bash; returns what went wrong, if anything did."""
    for name, value in replaced:
        if name not in block:
            return f"holds no `{name}`"
        block = block.replace(name, value)
    lines = [
        f"timeout 2 {line.split('  #')[0]} || [ $? = 124 ]" if " -f " in line or " --follow " in line else line
        for line in block.splitlines()
    ]
    script = "set -euo pipefail\n" + "\n".join(lines)
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    return f"exit code {done.returncode}:\n{block}{done.stdout[-2000:]}{done.stderr}" if done.returncode else None


class Scene:
    """A gateway in a folder that has what the guides name, and what its commands are about."""

    def __init__(self, gateway, receiver, public_key):
        self.gateway, self.folder, self.public_key = gateway, gateway.folder, public_key
        self.receiver = f"http://127.0.0.1:{receiver.server_port}/in"
        bin_folder = self.folder / "bin"
        bin_folder.mkdir()
        (bin_folder / "arbiter").symlink_to(support.binary())
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ARBITER_")},
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "ARBITER_ADMIN_URL": gateway.admin_url,
            "ARBITER_ADMIN_API_KEY": gateway.api_key,
            **gateway.environment,
        }
        shutil.copytree(ROOT / "policies", self.folder / "policies")
        (self.folder / "backup").mkdir()
        self.lead, self.helper = (gateway.register_agent(capabilities=["read"]) for _ in range(2))
        self.session = gateway.open_session(self.lead["agent_id"], authorized_tools=["read_file", "pay"])

    def call(self, tool):
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}}}
        headers = support.Arbiter.agent_headers(self.lead, self.session)
        _, answered, text = support.request(self.gateway.proxy_url, method="POST", headers=headers, body=body)
        return answered["x-arbiter-request-id"], json.loads(text)

    def run(self, block, *replaced):
        return run(block, self.folder, self.environment, replaced)

    def policies(self, block):
        self.environment["SESSION"] = self.session["session_id"]
        return self.run(block)

    def approvals(self, block):
        _, refused = self.call("pay")
        return self.run(block, ("APPROVAL_ID", refused["error"]["data"]["approval_id"]))

    def delegation(self, block):
        self.environment.update(LEAD=self.lead["agent_id"], HELPER=self.helper["agent_id"])
        return self.run(block)

    def log(self, block):
        request_id, _ = self.call("read_file")
        # The second call's record has the first one's signed.
        self.call("read_file")
        receipt = self.gateway.admin("GET", f"/audit/proof/{request_id}", expect=200)
        (self.folder / "receipt.json").write_text(json.dumps(receipt))
        (self.folder / "logs").mkdir()
        shutil.copy(self.gateway.audit_path, self.folder / "logs")
        return self.run(
            block,
            ("REQUEST_ID", request_id),
            ("gateway-1+…", self.public_key),
            ("--agent ID", f"--agent {self.lead['agent_id']}"),
            ("--tool T", "--tool read_file"),
            ("https://siem.example/in", self.receiver),
        )

    def backup(self, block):
        before, after = block.split("# the volume is lost")
        backup = str(self.folder / "backup")
        wrong = self.run(before, ("/backup", backup))
        if wrong:
            return wrong
        support.stop(self.gateway.process)
        for path in self.folder.glob("arbiter.db*"):
            path.unlink()
        named = ("/backup/arbiter-2026-11-28.db", f"{backup}/arbiter-$(date +%F).db")
        wrong = self.run("#" + after, named, ("conf/arbiter.toml", "arbiter.toml"))
        return wrong or (None if (self.folder / "arbiter.db").exists() else "restored nothing")

    def encryption(self, block):
        return self.run(block)


# The beginning of a block's first command, and how it is run; in this order, the last two once the gateway has stopped.
RUN = {
    "arbiter policy validate": Scene.policies,
    "arbiter approval list": Scene.approvals,
    "arbiter agent delegate": Scene.delegation,
    "arbiter audit verify": Scene.log,
    "arbiter storage backup": Scene.backup,
    "export ARBITER_STORAGE_ENCRYPTION_KEY=": Scene.encryption,
}


def problems(blocks):
    """Runs the blocks, given as pairs of a document's name and a text; yields what is wrong."""
    yield from unowned(blocks)
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as keys:
        port_file = pathlib.Path(keys) / "port"
        upstream = subprocess.Popen([sys.executable, ROOT / "tests/support/recording_upstream.py", "--ready-file", port_file])
        try:
            port = support.wait_for_file(port_file, upstream, "the upstream").strip()
            keygen = [support.binary(), "audit", "keygen", "--name", "gateway-1", "--out", f"{keys}/audit.key"]
            public_key = subprocess.run(keygen, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]
            settings = {"audit": {"checkpoint_key_file": f"{keys}/audit.key", "checkpoint_records": 1}}
            environment = {"ARBITER_SIGNING_SECRET": secrets.token_hex(32)}
            url = f"http://127.0.0.1:{port}/mcp"
            with support.Arbiter(url, policies=POLICIES, settings=settings, environment=environment) as gateway:
                scene = Scene(gateway, receiver, public_key)
                for start, act in RUN.items():
                    found = [(document, block) for document, block in blocks if first_command(block).startswith(start)]
                    for document, block in found:
                        wrong = act(scene, block)
                        if wrong:
                            yield f"{document}: {wrong}"
                    if not found:
                        yield f"no document has a block that begins with `{start}`: take it out of tests/guides.py"
        finally:
            support.stop(upstream)
            receiver.shutdown()
