"""What the replays of public traces share: an MCP server whose tools a test sets, and an agent's connection.
Standard library only.
"""

import http.client
import http.server
import json
import pathlib
import sys
import threading
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))

from arbiter import ALLOW_ALL, Arbiter  # noqa: E402, F401


class Server:
    """An MCP server in this process. `tools` is what it lists; `run(name, arguments)` gives a call's result, which is
    a result object of the protocol; `arrived` holds the messages that reached it, `headers` those of the last one."""

    def __init__(self):
        self.tools, self.run, self.arrived = [], lambda name, arguments: text("done"), []
        self.headers = {}
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self):
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.arrived.append(message)
                server.headers = dict(self.headers)
                result = server.answer(message)
                reply = {"jsonrpc": "2.0", "id": message.get("id"), "result": result}
                payload = b"" if result is None else json.dumps(reply).encode()
                self.send_response(202 if result is None else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_):
                """Silent."""

        class Listener(http.server.ThreadingHTTPServer):
            daemon_threads = True

        self.listener = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.listener.server_port}/mcp"
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()

    def answer(self, message):
        params = message.get("params", {})
        if "id" not in message:
            return None
        if message["method"] == "tools/list":
            return {"tools": self.tools}
        if message["method"] == "tools/call":
            return self.run(params["name"], params.get("arguments", {}))
        return {}


def text(content, error=False):
    return {"content": [{"type": "text", "text": content}], "isError": error}


class Client:
    """One connection of an agent to the proxy."""

    def __init__(self, gateway):
        address = urllib.parse.urlsplit(gateway.proxy_url).netloc
        self.connection = http.client.HTTPConnection(address, timeout=30)
        self.number = 0

    def call(self, headers, tool, arguments):
        """Calls a tool; gives the code of the refusal, or None."""
        status, answer = self._ask(headers, "tools/call", {"name": tool, "arguments": arguments})
        return None if status == 200 else answer["error"]["data"]["code"]

    def listed(self, headers):
        """The names of the tools that the agent is shown."""
        return {tool["name"] for tool in self._ask(headers, "tools/list", {})[1]["result"]["tools"]}

    def _ask(self, headers, method, params):
        self.number += 1
        message = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        return self.send("POST", "/", headers, message)

    def send(self, method, path, headers, message=None):
        """Sends a request as it is; gives the status and the answer, None if that is not JSON."""
        body = None if message is None else json.dumps(message)
        headers = {"content-type": "application/json", **{name.lower(): value for name, value in headers.items()}}
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        payload = response.read()
        if response.headers.get_content_type() == "application/json" and payload:
            return response.status, json.loads(payload)
        return response.status, None


def markdown(header, rows):
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)
