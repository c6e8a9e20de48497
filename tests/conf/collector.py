"""Traces as a collector of somebody else takes them: Rotel, which reads OTLP by its own code, receives those of a gateway."""

import collections
import importlib.util
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
SUPPORT = HERE.parent / "support"
sys.path.insert(0, str(SUPPORT))

from arbiter import Arbiter, request, stop, wait_for_file  # noqa: E402

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ARGUMENT = "a-telling-argument"
PATIENCE = 30
# Of a call that passed three, of a refused one two.
SPANS = 5


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


def program():
    found = importlib.util.find_spec("rotel")
    if found is None:
        raise RuntimeError("no collector: install what tests/requirements.txt pins")
    return pathlib.Path(found.origin).with_name("rotel-agent")


class Collector:
    """A process that prints each span it was sent."""

    def __init__(self, folder):
        self.port, self.path = free_port(), folder / "spans.txt"
        command = [program(), "start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed"]
        command += ["--otlp-http-endpoint", f"127.0.0.1:{self.port}", "--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}"]
        with self.path.open("w") as out:
            self.process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=out, cwd=folder)

    def wait(self):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"the collector was not ready: {self.text()[-1000:]}")

    def text(self):
        return self.path.read_text(errors="replace")


def call(gateway, tool, headers):
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {"account": ARGUMENT}}}
    trace = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    return request(gateway.proxy_url + "/mcp", method="POST", headers=headers | trace, body=body)[0]


def spans(text):
    """The spans that the collector printed, each as a table of its fields and attributes; what it has not printed yet is empty."""
    fields = re.compile(r"(?m)^\s+(?:-> )?([\w. ]+?)\s*: (?:Str\(|Int\()?(.*?)\)?$")
    return [collections.defaultdict(str, fields.findall(part)) for part in re.split(r"(?m)^Span #\d+$", text)[1:]]


def wrong(found):
    """What is not as it should be in the spans of a call that passed and of one that was refused."""
    if len(found) != SPANS:
        yield f"{len(found)} spans instead of {SPANS}: {[dict(span) for span in found]}"
        return
    servers = [span for span in found if span["Kind"] == "SPAN_KIND_SERVER"]
    passed = [span for span in servers if span["Name"] == "tools/call get_account_summary"]
    refused = [span for span in servers if span.get("error.type") == "ToolNotAuthorized"]
    if (len(servers), len(passed), len(refused)) != (2, 1, 1):
        yield f"spans of calls: {servers}"
        return
    children = {span["Name"]: span for span in found if span["Parent ID"] == passed[0]["ID"]}
    if set(children) != {"decision", "upstream"} or children["upstream"]["http.response.status_code"] != "200":
        yield f"below the call that passed: {children}"
    if [span["Name"] for span in found if span["Parent ID"] == refused[0]["ID"]] != ["decision"]:
        yield "below the refused call there is not the decision alone"
    yield from (f"not of the client's trace: {span}" for span in found if span["Trace ID"] != TRACE)
    yield from (f"not below the client's span: {span}" for span in servers if span["Parent ID"] != PARENT)
    expected = {"mcp.method.name": "tools/call", "gen_ai.tool.name": "get_account_summary", "jsonrpc.request.id": "1"}
    yield from (f"no {key} {value}" for key, value in expected.items() if passed[0].get(key) != value)


def problems():
    with tempfile.TemporaryDirectory(prefix="arbiter-collector-") as temporary:
        folder = pathlib.Path(temporary)
        ready = folder / "upstream"
        upstream = subprocess.Popen([sys.executable, SUPPORT / "recording_upstream.py", "--ready-file", ready])
        collector = Collector(folder)
        try:
            collector.wait()
            url = f"http://127.0.0.1:{wait_for_file(ready, upstream, 'the upstream').strip()}/mcp"
            settings = {"tracing": {"otlp_endpoint": f"http://127.0.0.1:{collector.port}"}}
            with Arbiter(url, settings=settings) as gateway:
                agent = gateway.register_agent()
                session = gateway.open_session(agent["agent_id"], authorized_tools=["get_account_summary"])
                headers = Arbiter.agent_headers(agent, session)
                statuses = [call(gateway, tool, headers) for tool in ("get_account_summary", "delete_transactions")]
            # The gateway has stopped, and has sent what it had. The collector prints it line by line.
            end = time.monotonic() + PATIENCE
            while any(wrong(spans(collector.text()))) and time.monotonic() < end:
                time.sleep(0.05)
        finally:
            stop(collector.process)
            stop(upstream)
        text = collector.text()
    found = spans(text)
    if statuses != [200, 403]:
        yield f"the calls were answered with {statuses}"
    yield from wrong(found)
    if ARGUMENT in text:
        yield "the collector was told an argument"
    print(f"traces: {len(found)} spans at a third party's collector")
