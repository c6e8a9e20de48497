"""Starts a real Arbiter for a test and speaks its admin API. Standard library only.

Every test outside Rust needs the same four things: a configuration in a temporary folder, the process, the
addresses it bound (port 0, so that runs do not collide), and an operator's hand. They are here once.

The binary is `$ARBITER_BIN`, else `target/debug/arbiter`; `$CARGO_TARGET_DIR` is honoured.

From a shell script:

    arbiter.py --upstream URL [--policies FILE] [--set section.key=JSON]... -- command…

runs the command with ADMIN_URL, PROXY_URL, ARBITER_ADMIN_API_KEY and AUDIT_FILE set, and exits as the command did.
"""

import argparse
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()

# One rule that lets everything pass that a session was given, for tests that are about transport, not about rules.
ALLOW_ALL = """\
[[policies]]
id = "test-allow-all"
effect = "allow"
allowed_tools = ["*"]
allowed_resources = ["*"]
allowed_prompts = ["*"]
allowed_methods = ["*"]
"""

# Loopback only, and never through a proxy that the environment may name.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def binary() -> pathlib.Path:
    return pathlib.Path(os.environ.get("ARBITER_BIN") or TARGET / "debug" / "arbiter").resolve()


def request(url, *, method="GET", headers=None, body=None, timeout=30):
    """Sends one HTTP request; returns (status, headers, text). A refusal is an answer, not an exception."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    message = urllib.request.Request(url, data=data, method=method, headers=headers or {})
    if data is not None and not message.has_header("Content-type"):
        message.add_header("Content-Type", "application/json")
    try:
        with _opener.open(message, timeout=timeout) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.headers, refusal.read().decode()


def wait_for_file(path, process, what, seconds=30):
    """Returns the text of a file that a process writes when it is ready; stops early if the process ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{what} ended with code {process.returncode} before it was ready")
        try:
            text = pathlib.Path(path).read_text()
        except FileNotFoundError:
            text = ""
        if text.endswith(("\n", "}")):
            return text
        time.sleep(0.02)
    raise RuntimeError(f"{what} was not ready within {seconds} s")


def stop(process, seconds=20):
    """Ends a process that this test started: politely first, and waits for it."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Arbiter:
    """`with Arbiter(upstream_url) as gateway:` runs one gateway, with its state in a temporary folder."""

    def __init__(self, upstream_url, *, policies=ALLOW_ALL, settings=None, environment=None, patience=30):
        self.upstream_url = upstream_url
        self.policies = policies
        self.settings = settings or {}
        self.environment = environment or {}
        self.api_key = "test-" + secrets.token_hex(24)
        self.patience = patience
        self.process = None
        self.folder = None

    def __enter__(self):
        program = binary()
        if not program.exists():
            raise RuntimeError(f"no Arbiter at {program}: build it, or set ARBITER_BIN")
        self._temporary = tempfile.TemporaryDirectory(prefix="arbiter-test-")
        self.folder = pathlib.Path(self._temporary.name)
        self.audit_path = self.folder / "audit.jsonl"
        self.log_path = self.folder / "arbiter.log"
        (self.folder / "policies.toml").write_text(self.policies)
        (self.folder / "arbiter.toml").write_text(self._config())
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("ARBITER_")},
            "ARBITER_ADMIN_API_KEY": self.api_key,
            "ARBITER_SIGNING_SECRET": secrets.token_hex(32),
            **self.environment,
        }
        try:
            self.start()
        except BaseException as error:
            log = self.log()
            self.__exit__(None, None, None)
            raise RuntimeError(f"{error}; its log:\n{log}") from error
        return self

    def spawn(self):
        """Starts the process and does not wait for it; a test that killed it starts it again with its old state."""
        self._ready = self.folder / "ready.json"
        self._ready.unlink(missing_ok=True)
        command = [binary(), "serve", "--config", self.folder / "arbiter.toml", "--ready-file", self._ready]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command], env=self._environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def start(self):
        self.spawn()
        bound = json.loads(wait_for_file(self._ready, self.process, "arbiter", self.patience))
        self.proxy_url = "http://" + bound["proxy"]
        self.admin_url = "http://" + bound["admin"]

    def __exit__(self, *_):
        stop(self.process)
        self._keep_audit()
        self._temporary.cleanup()

    def _keep_audit(self):
        """Leaves the audit log in $KEEP_AUDIT, where `tests/run` has it verified by another program."""
        keep, name = os.environ.get("KEEP_AUDIT"), self.audit_path.name
        files = [path for path in self.folder.iterdir() if re.fullmatch(re.escape(name) + r"(\.\d+(\.zst)?)?", path.name)]
        if keep and any(path.stat().st_size for path in files):
            for path in files:
                shutil.copy(path, pathlib.Path(keep) / path.name.replace(name, f"{self.folder.name}.jsonl", 1))

    def log(self, lines=40):
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def _config(self):
        sections = {
            "proxy": {"listen_addr": "127.0.0.1", "listen_port": 0, "upstream_url": self.upstream_url, "drain_delay_secs": 0},
            # Tests set up faster than an operator types.
            "admin": {"listen_addr": "127.0.0.1", "listen_port": 0, "rate_limit_per_minute": 6000},
            "policy": {"file": str(self.folder / "policies.toml")},
            "audit": {"file_path": str(self.audit_path)},
            "storage": {"backend": "sqlite", "sqlite_path": str(self.folder / "arbiter.db")},
        }
        tables = []
        for section, keys in self.settings.items():
            if isinstance(keys, list):  # an array of tables, such as `upstreams`
                tables += [(f"[[{section}]]", table) for table in keys]
            else:
                sections.setdefault(section, {}).update(keys)
        tables = [(f"[{section}]", keys) for section, keys in sections.items()] + tables
        # For strings, numbers, booleans and lists of them, JSON's spelling is also TOML's.
        return "\n".join(
            head + "\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()) for head, keys in tables
        )

    def admin(self, method, path, body=None, expect=None):
        """Calls the admin API; returns the parsed answer, or fails with what the server said."""
        status, _, text = request(self.admin_url + path, method=method, body=body, headers={"x-api-key": self.api_key})
        if expect is not None and status != expect:
            raise RuntimeError(f"{method} {path}: expected {expect}, got {status}: {text[:500]}")
        return json.loads(text)

    def register_agent(self, **fields):
        body = {"owner": "tests", "model": "test-model", "capabilities": [], "trust_level": "trusted", **fields}
        return self.admin("POST", "/agents", body, expect=201)

    def open_session(self, agent_id, **fields):
        body = {"agent_id": agent_id, "declared_intent": "manage everything in a test", **fields}
        return self.admin("POST", "/sessions", body, expect=201)

    @staticmethod
    def agent_headers(agent, session):
        """The three headers that a client adds, and nothing else."""
        return {
            "Authorization": f"Bearer {agent['token']}",
            "x-agent-id": agent["agent_id"],
            "x-arbiter-session": session["session_id"],
        }


def main():
    parser = argparse.ArgumentParser(description="run a command beside a fresh Arbiter")
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--policies", type=pathlib.Path)
    parser.add_argument("--set", action="append", default=[], metavar="section.key=JSON")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    settings = {}
    for assignment in options.set:
        key, value = assignment.split("=", 1)
        section, name = key.rsplit(".", 1)
        settings.setdefault(section, {})[name] = json.loads(value)
    policies = options.policies.read_text() if options.policies else ALLOW_ALL
    with Arbiter(options.upstream, policies=policies, settings=settings) as gateway:
        environment = {
            **os.environ,
            "ADMIN_URL": gateway.admin_url,
            "PROXY_URL": gateway.proxy_url,
            "ARBITER_ADMIN_API_KEY": gateway.api_key,
            "AUDIT_FILE": str(gateway.audit_path),
        }
        code = subprocess.run(options.command, env=environment).returncode
        if code:
            print(f"arbiter's log ends:\n{gateway.log()}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
