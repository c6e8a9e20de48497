"""What the tests of the audit log share: an upstream that can misbehave, a client, and how a log is read.
Standard library only.
"""

import collections
import http.client
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import threading
import urllib.parse

from arbiter import binary


class Upstream:
    """An MCP server in this process, so that it outlives the gateway: it notes the id of every call that reaches it.

    The tool `cut` has it close the connection instead of answering, the tool `slow` waits for `go_on`. A `note` is
    given each message that arrived whole, before it is answered.
    """

    def __init__(self, note=None):
        self.seen = collections.Counter()
        self.arrived = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.connections, self.quiet = 0, threading.Condition()
        upstream, lock = self, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self):
                with lock:
                    upstream.seen[self.headers["x-arbiter-request-id"]] += 1
                upstream.arrived.release()
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:
                    self.close_connection = True  # the gateway was killed before it had sent all
                    return
                message = json.loads(body)
                if note:
                    note(message)
                tool = message["params"]["name"]
                if tool == "cut":
                    self.close_connection = True
                    return
                if tool == "slow":
                    upstream.go_on.wait(30)
                result = {"content": [{"type": "text", "text": "done"}], "isError": False}
                payload = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
                try:
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(payload)))
                    self.end_headers()
                    self.wfile.write(payload)
                except OSError:
                    self.close_connection = True  # the gateway was killed meanwhile

            def handle(self):
                with upstream.quiet:
                    upstream.connections += 1
                try:
                    super().handle()
                except OSError:
                    pass
                finally:
                    with upstream.quiet:
                        upstream.connections -= 1
                        upstream.quiet.notify_all()

            def log_message(self, *_):
                """Silent."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/mcp"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait_until_quiet(self, seconds=30):
        """Waits until all that a gateway that is gone had sent is noted."""
        with self.quiet:
            if not self.quiet.wait_for(lambda: self.connections == 0, seconds):
                raise RuntimeError("connections to the upstream outlive the gateway")


class Client:
    """One connection to the proxy."""

    def __init__(self, proxy_url, headers, timeout=20):
        address = urllib.parse.urlsplit(proxy_url).netloc
        self.connection = http.client.HTTPConnection(address, timeout=timeout)
        self.headers = {"Content-Type": "application/json", **headers}
        self.number = 0
        self.retry_after = None

    def send(self, tool="work", arguments=None):
        self.number += 1
        params = {"name": tool, "arguments": arguments or {"n": self.number}}
        message = {"jsonrpc": "2.0", "id": self.number, "method": "tools/call", "params": params}
        self.connection.request("POST", "/", json.dumps(message), self.headers)

    def call(self, tool="work", arguments=None):
        """One call: its status and the id under which it is on record."""
        self.send(tool, arguments)
        answer = self.connection.getresponse()
        answer.read()
        self.retry_after = answer.headers["Retry-After"]
        return answer.status, answer.headers["x-arbiter-request-id"]


def keygen(folder, name):
    """Makes a key; gives its file and the public key."""
    path = pathlib.Path(folder) / "checkpoint.key"
    made = subprocess.run(
        [binary(), "audit", "keygen", "--name", name, "--out", path], check=True, capture_output=True, text=True
    )
    return path, made.stdout.strip()


def records(*files):
    return [json.loads(line) for path in files for line in path.read_bytes().splitlines()]


def keep(name, *files):
    """Leaves files that are one chain in $KEEP_AUDIT, as if they were one log that was rotated."""
    folder = os.environ.get("KEEP_AUDIT")
    for number, path in enumerate(files if folder else (), 1):
        copy = pathlib.Path(folder) / (f"{name}.jsonl" + ("" if path == files[-1] else f".{number:06}"))
        shutil.copyfile(path, copy)  # with this user's usual mode: another user may be the one who checks it


def verify(*arguments):
    """Runs `arbiter audit verify`; gives its exit code and what it said."""
    ran = subprocess.run([binary(), "audit", "verify", *map(str, arguments)], capture_output=True, text=True)
    return ran.returncode, (ran.stdout + ran.stderr).strip()
