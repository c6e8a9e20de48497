"""A small MCP server that writes down what reached it. Standard library only.

    recording_upstream.py [--port PORT] [--ready-file PORT_FILE] [--record FILE.jsonl]

It binds a port of 127.0.0.1 (a free one unless given), writes the port to the ready file, and answers `POST /mcp` with JSON: enough of
the protocol for a tool call by hand. Each request it gets becomes one line: {"headers": {…}, "body": …}. What stands
there is what the gateway let through; a test that claims that a call was refused looks here.
"""

import argparse
import http.server
import json
import pathlib
import threading

TOOLS = [
    {"name": name, "description": description, "inputSchema": {"type": "object"}}
    for name, description in [
        ("query_transactions", "Finds transactions of an account"),
        ("get_account_summary", "Sums up an account"),
        ("delete_transactions", "Removes transactions of an account"),
    ]
]


def answer(message):
    """The JSON-RPC answer to one message, or None where none is due."""
    method, params = message.get("method"), message.get("params", {})
    if "id" not in message or method is None:
        return None
    if method == "initialize":
        version = params.get("protocolVersion", "2025-11-25")
        info = {"name": "recording-upstream", "version": "1"}
        result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
    elif method == "tools/list":
        result = {"tools": TOOLS}
    elif method == "tools/call":
        text = f"{params.get('name')}: 3 rows"
        result = {"content": [{"type": "text", "text": text}], "isError": False}
    else:
        error = {"code": -32601, "message": f"no method {method}"}
        return {"jsonrpc": "2.0", "id": message["id"], "error": error}
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


def handler(record):
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # keep connections, as real upstreams do
        disable_nagle_algorithm = True
        wbufsize = -1  # one write a response, not one a header

        def do_POST(self):
            body = self._body()
            message = json.loads(body)
            headers = {name.lower(): value for name, value in self.headers.items()}
            with lock, record.open("a") as out:
                out.write(json.dumps({"headers": headers, "body": message}) + "\n")
            reply = answer(message) if isinstance(message, dict) else None
            payload = b"" if reply is None else json.dumps(reply).encode()
            self.send_response(202 if reply is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def _body(self):
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *_):
            """Silent: the record is the log."""

    return Handler


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    parser = argparse.ArgumentParser(description="a recording MCP upstream for tests")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ready-file", type=pathlib.Path)
    parser.add_argument("--record", type=pathlib.Path, default=pathlib.Path("/dev/null"))
    options = parser.parse_args()
    if options.record.name != "null":
        options.record.touch()
    server = Server((options.host, options.port), handler(options.record))
    if options.ready_file:
        options.ready_file.write_text(f"{server.server_port}\n")
    server.serve_forever()


if __name__ == "__main__":
    main()
