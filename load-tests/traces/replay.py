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

from arbiter import Arbiter  # noqa: E402, F401

# Members of `_meta` that the newest revision requires.
REVISION = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": REVISION,
    "io.modelcontextprotocol/clientInfo": {"name": "replay", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Server:
    """An MCP server in this process. `tools` is what it lists; `run(name, arguments)` gives a call's result, which is
    a result object of the protocol; `arrived` are the messages that reached it."""

    def __init__(self):
        self.tools, self.run, self.arrived = [], lambda name, arguments: text("done"), []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self):
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.arrived.append(message)
                result = server.answer(message)
                payload = b"" if result is None else json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
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

    def calls(self):
        """The tool calls that reached the server, oldest first."""
        return [(m["params"]["name"], m["params"].get("arguments", {})) for m in self.arrived if m.get("method") == "tools/call"]


def text(content, error=False):
    return {"content": [{"type": "text", "text": content}], "isError": error}


class Client:
    """One connection of an agent to the proxy."""

    def __init__(self, gateway):
        address = urllib.parse.urlsplit(gateway.proxy_url).netloc
        self.connection = http.client.HTTPConnection(address, timeout=30)
        self.number = 0

    def ask(self, headers, method, params):
        """One request; gives the code of the refusal, or None, and the answer."""
        self.number += 1
        return self.send(headers, {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params})

    def send(self, headers, message):
        body = message if isinstance(message, bytes) else json.dumps(message)
        self.connection.request("POST", "/", body, {"Content-Type": "application/json", **headers})
        response = self.connection.getresponse()
        raw = response.read()
        answer = json.loads(raw) if raw else {}
        if response.status < 300:
            return None, answer
        return answer["error"]["data"]["code"], answer

    def call(self, headers, tool, arguments):
        return self.ask(headers, "tools/call", {"name": tool, "arguments": arguments})


def markdown(header, rows):
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)
