#!/usr/bin/env python3
"""Real clients where a gateway once stood between them and their server: each of these failed before it was mended.

    tests/clients/between.py                 everything; Arbiter is $ARBITER_BIN or target/debug/arbiter
    tests/clients/between.py --only browser  only cases whose name contains "browser"

Needs the JDK (`java`) and Chromium (`chromium`) beside what run.py needs; what is missing is a failure, never a skip.
"""

import argparse
import contextlib
import http.server
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

import run  # noqa: E402
from arbiter import Arbiter, stop  # noqa: E402

CLIENT_SECONDS = 60
CALL = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {}}})


class Server:
    """`with Server(answer) as server:` serves what `answer(handler, message)` writes; notes each request's headers."""

    def __init__(self, answer):
        self.seen, outer = [], self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                answer(self, body)

            do_GET = do_POST = do_DELETE = do_OPTIONS = handle_any

            def reply(self, status, body=b"", kind="application/json", **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def needed(program):
    path = shutil.which(program)
    if path is None:
        raise RuntimeError(f"`{program}` is missing; tests/run installs it")
    return path


def output(command, seconds=CLIENT_SECONDS):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        raise RuntimeError(f"the client ended with {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done.stdout


@contextlib.contextmanager
def gateway_to(url, **settings):
    """A gateway and the headers of an agent that may do everything."""
    proxy = {"legacy_streams": True, **settings}
    with Arbiter(url, settings={"proxy": proxy, "sessions": {"allow_wildcard_tools": True}}) as gateway:
        agent = gateway.register_agent()
        session = gateway.open_session(agent["agent_id"], authorized_tools=["*"])
        yield gateway, agent, gateway.agent_headers(agent, session)


def pairs(headers):
    return [f"{name}={value}" for name, value in headers.items()]


def result(message, **members):
    return json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "result": members}).encode()


def jdk_offers_h2c(_packages, _folder):
    """The JDK's client offers `Upgrade: h2c` with each request over plain http; the call is served all the same."""
    java = needed("java")

    def answer(handler, body):
        handler.reply(200, result(json.loads(body), content=[{"type": "text", "text": "served"}]))

    with Server(answer) as upstream, gateway_to(upstream.origin + "/mcp") as (gateway, _, headers):
        program = [java, HERE / "JdkClient.java"]
        said = output([*program, gateway.proxy_url + "/mcp", CALL, *pairs(headers)])
        straight = len(upstream.seen)
        output([*program, upstream.origin + "/mcp", CALL])
    lines = said.splitlines()
    assert len(lines) == 3 and all(line.startswith("200 ") and "served" in line for line in lines), said
    passed = [headers.keys() & {"upgrade", "http2-settings"} for _, _, headers in upstream.seen[:straight]]
    assert straight == 3 and not any(passed), passed
    offered = [headers for _, _, headers in upstream.seen[straight:] if headers.get("upgrade") == "h2c"]
    assert offered, "straight to the server it offers nothing, so this test proves nothing"
    return "3 calls on one client"


def upstream_challenges(packages, _folder):
    """An upstream's 401 names a metadata URL; a client with a provider must not follow it anywhere."""
    trap = Server(lambda handler, _: handler.reply(404, b"{}"))

    def answer(handler, _body):
        place = f'Bearer resource_metadata="{trap.origin}/.well-known/oauth-protected-resource"'
        handler.reply(401, b'{"error":"invalid_token"}', www_authenticate=place)

    command = ["node", HERE / "challenged.mjs", "--modules", packages["node"]]
    with trap, Server(answer) as upstream, gateway_to(upstream.origin + "/mcp") as (gateway, agent, headers):
        headers.pop("Authorization")
        through = [*command, "--url", gateway.proxy_url + "/mcp", "--token", agent["token"]]
        found = json.loads(output(through + [f"--header={pair}" for pair in pairs(headers)]))
        fetched, asked = list(trap.seen), len(upstream.seen)
        output([*command, "--url", upstream.origin + "/mcp", "--token", agent["token"]])
        failed = [line for line in gateway.audit_path.read_text().splitlines() if '"upstream_cause":"credentials"' in line]
    assert asked == 1 and found["error"] and found["opened"] is None, found
    assert not fetched, f"it went where the upstream sent it: {fetched}"
    assert trap.seen, "straight to the server it goes there neither, so this test proves nothing"
    assert len(failed) == 1, "the failure is not on record"
    return "502, nothing fetched"


def list_fails_late(packages, _folder):
    """`tools: null` comes a moment after its head: the Python client 1 gets an error and does not hang."""

    def answer(handler, body):
        message = json.loads(body or b"{}")
        if message.get("method") == "initialize":
            info = {"name": "late", "version": "1"}
            handler.reply(200, result(message, protocolVersion="2025-11-25", capabilities={"tools": {}}, serverInfo=info))
        elif message.get("method") == "tools/list":
            handler.send_response(200)
            handler.send_header("content-type", "application/json")
            handler.send_header("transfer-encoding", "chunked")
            handler.end_headers()
            handler.wfile.flush()
            time.sleep(0.3)
            late = result(message, tools=None)
            handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(late), late))
        else:
            handler.reply(405 if handler.command == "GET" else 202)

    with Server(answer) as upstream, gateway_to(upstream.origin + "/mcp") as (gateway, _, headers):
        command = [packages["py1"], HERE / "late_list.py", "--url", gateway.proxy_url + "/mcp"]
        started = time.monotonic()
        said = json.loads(output(command + [f"--header={pair}" for pair in pairs(headers)], seconds=30))
    assert said["ended"] != "with tools", said
    return f"{said['ended']} after {time.monotonic() - started:.1f} s"


# --- a page in a browser ----------------------------------------------------------------------------------------------


def exported(package, name):
    """The file that a browser gets for an entry of a package's `exports`."""
    description = json.loads((package / "package.json").read_text())
    target = description.get("exports", {}).get(name, description.get("module") or description.get("main") if name == "." else None)
    while isinstance(target, dict):
        target = next((target[key] for key in ("browser", "import", "default") if key in target), None)
    if not isinstance(target, str):
        raise RuntimeError(f"{package.name} exports no `{name}` to browsers")
    return (package / target).resolve()


IMPORT = re.compile(r"""(?:\bfrom|\bimport)\s*\(?\s*["']([^"'\n]+)["']""")


def import_map(modules, entry):
    """Every bare name that a module and its imports use, and the path below `modules` that it means."""
    found, seen = {}, set()

    def follow(path, base):
        if path in seen or not path.exists():
            return
        seen.add(path)
        for name in IMPORT.findall(path.read_text()):
            if name.startswith("."):
                follow((path.parent / name).resolve(), base)
            elif not name.startswith(("node:", "http")) and name not in found:
                bare(name, path)

    def bare(name, importer):
        parts = name.split("/")
        package = "/".join(parts[: 2 if name.startswith("@") else 1])
        folders = [parent / "node_modules" / package for parent in importer.parents]
        folder = next((folder for folder in folders if folder.is_dir()), modules / package)
        with contextlib.suppress(RuntimeError, OSError):  # what only Node has is never loaded in a page
            path = exported(folder, "." + name[len(package) :])
            found[name] = "/modules/" + str(path.relative_to(modules))
            follow(path, folder)

    bare(entry, modules / "page.html")
    return {"imports": found}


def page_calls(packages, folder, *, allowed, mode):
    """Opens the page in Chromium; gives what it found and what preflights and calls reached the server."""
    chromium = needed("chromium")
    folder = folder / f"{mode}-{allowed}"
    folder.mkdir()
    modules = (packages["node"] / "node_modules").resolve()
    outcome, done = {}, threading.Event()
    page = {}

    def serve(handler, body):
        if handler.path == "/outcome":
            outcome.update(json.loads(body))
            handler.reply(204)
            done.set()
        elif handler.path == "/":
            handler.reply(200, page["html"].encode(), kind="text/html")
        else:
            path = (modules / handler.path.removeprefix("/modules/")).resolve()
            inside = path.is_relative_to(modules) and path.is_file()
            handler.reply(200 if inside else 404, path.read_bytes() if inside else b"", kind="text/javascript")

    with Server(serve) as pages, run.server("sdk", packages, folder) as url:
        origin = pages.origin if allowed else "https://another.example"
        with gateway_to(url, allowed_origins=[origin]) as (gateway, _, headers):
            settings = json.dumps({"url": gateway.proxy_url + "/mcp", "headers": headers, "mode": mode})
            html = (HERE / "browser/page.html").read_text()
            html = html.replace("IMPORT_MAP", json.dumps(import_map(modules, "@modelcontextprotocol/client")))
            page["html"] = html.replace("SETTINGS", settings)
            profile = folder / "profile"
            command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
            command += ["--disable-background-networking", f"--user-data-dir={profile}", pages.origin + "/"]
            with (folder / "chromium.log").open("ab") as log:
                browser = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                assert done.wait(CLIENT_SECONDS), "the page never said how it went:\n" + tail(folder / "chromium.log")
            finally:
                stop(browser, seconds=5)
    return outcome


def tail(path):
    return path.read_text(errors="replace")[-2000:]


def browser_page(packages, folder):
    """A page of an allowed origin lists and calls tools with the official client, in both eras; another's gets nothing."""
    for mode in ("legacy", "auto"):
        found = page_calls(packages, folder, allowed=True, mode=mode)
        assert "error" not in found, found
        assert "echo" in found["tools"] and "from a page" in json.dumps(found["answer"]), found
        status, challenge, request_id = found["challenge"]
        assert status == 401 and challenge.startswith("Bearer ") and request_id, found
        other = page_calls(packages, folder, allowed=False, mode=mode)
        assert "error" in other and "tools" not in other, other
    return "listed and called in both eras, refused from another origin"


CASES = [jdk_offers_h2c, upstream_challenges, list_fails_late, browser_page]


def main():
    parser = argparse.ArgumentParser(description="real clients where a gateway once stood in the way")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    options = parser.parse_args()
    packages = {"node": run.node_modules(), "py1": run.python_with("requirements-mcp1.txt"), "py2": run.python_with("requirements-mcp2.txt")}
    rows, failed = [], 0
    for case in (case for case in CASES if options.only in case.__name__):
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="arbiter-between-") as temporary:
            try:
                verdict, detail = "ok", case(packages, pathlib.Path(temporary))
            except Exception as error:  # a case that breaks is a row, not the end of the run
                failed += 1
                verdict, detail = "FAILED", ""
                print(f"--- {case.__name__}\n{error}", flush=True)
        rows.append(f"{case.__name__:22} {verdict:7} {time.monotonic() - started:5.1f} s  {detail}")
    print("\n".join(["", *rows, f"{len(rows) - failed} passed, {failed} failed"]))
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
