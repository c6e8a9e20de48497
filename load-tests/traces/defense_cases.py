"""Cases of `mcp-defense-bench` as traffic: what a client and a server send of each, and what came of it.

Only the JSON files of the package are read; none of its code runs. Each case is played by one function for its type,
which returns True if what the case shows went through: the call reached the server, or the answer the client.
"""

import base64
import importlib.util
import json
import pathlib

from replay import Arbiter, Client, Server, text

VERSION = "2026-07-28"
META = "io.modelcontextprotocol/"
TASKS = META + "tasks"
PUBLIC_MS = 3_600_000  # a client that may keep a list for longer than an hour is pinned to it


def cases(corpus):
    """The cases of `testcases` (attacks) or `testcases-benign`."""
    package = importlib.util.find_spec("mcp_defense_bench").submodule_search_locations[0]
    files = sorted((pathlib.Path(package) / "_bench" / corpus).glob("*/*.json"))
    return [json.loads(path.read_text()) for path in files]


def modern(method, params):
    """A request of the newest revision, and its headers."""
    capabilities = {"elicitation": {"form": {}}, "sampling": {}, "extensions": {TASKS: {}}}
    meta = {META + "protocolVersion": VERSION, META + "clientCapabilities": capabilities}
    headers = {"MCP-Protocol-Version": VERSION, "Mcp-Method": method}
    name = params.get("name") or params.get("uri") or params.get("taskId")
    if name:
        plain = name if name.isascii() else f"=?base64?{base64.b64encode(name.encode()).decode()}?="
        headers["Mcp-Name"] = plain
    params = {**params, "_meta": {**params.get("_meta", {}), **meta}}
    return headers, {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


class Stage:
    """A gateway, the server behind it, and the agents of one case."""

    def __init__(self, gateway, server):
        self.gateway, self.server, self.client = gateway, server, Client(gateway)
        self.agents, self.sessions = {}, []

    def play(self, fixture, is_attack=False):
        """Plays a case; None if nothing of it is seen on the wire."""
        kind = fixture["type"].removeprefix("malicious-").removeprefix("benign-")
        play = getattr(self, kind.replace("-", "_"), None)
        try:
            return None if play is None else play(fixture, is_attack)
        finally:
            for session in self.sessions:
                self.gateway.admin("DELETE", f"/sessions/{session}", expect=200)
            self.sessions.clear()

    # What all cases share.

    def headers(self, tools, who="ann", intent="run the tools of this case", **fields):
        """A session for one of the agents; its tools are on the list."""
        if who not in self.agents:
            self.agents[who] = self.gateway.register_agent(owner=who)
        agent = self.agents[who]
        session = self.gateway.open_session(
            agent["agent_id"], declared_intent=intent, authorized_tools=sorted(set(tools)), **fields
        )
        self.sessions.append(session["session_id"])
        return Arbiter.agent_headers(agent, session)

    def ask(self, session, method, params, answer, path="/"):
        """Sends a request; returns True if it arrived, and the result that came back."""
        self.server.answer = lambda message: {"resultType": "complete", **answer}
        headers, message = modern(method, params)
        return self.send("POST", path, {**headers, **session}, message)

    def send(self, method, path, headers, message=None):
        before = len(self.server.arrived)
        _, answer = self.client.send(method, path, headers, message)
        return len(self.server.arrived) > before, (answer or {}).get("result")

    def call(self, session, call, answer=text("done")):
        return self.ask(session, "tools/call", {"name": call["name"], "arguments": call.get("arguments", {})}, answer)

    def shows(self, session, tools, path="/"):
        """Checks that the client sees a list of tools exactly as the server wrote it."""
        _, result = self.ask(session, "tools/list", {}, {"tools": tools}, path)
        return result is not None and result["tools"] == tools

    # One function for each type of case.

    def tool_definition(self, fixture, _):
        return self.shows(self.headers([fixture["tool"]["name"]]), [fixture["tool"]])

    def definition_change(self, fixture, _):
        session = self.headers([fixture["before"]["name"], fixture["after"]["name"]])
        return self.shows(session, [fixture["before"]]) and self.shows(session, [fixture["after"]])

    def tool_result(self, fixture, _):
        call = fixture.get("call") or {"name": fixture["tool"]["name"], "arguments": {"path": "./case.txt"}}
        _, result = self.call(self.headers([call["name"]]), call, fixture["result"])
        return result is not None and result["content"] == fixture["result"]["content"]

    def tool_call(self, fixture, _):
        return self.call(self.headers([fixture["call"]["name"]]), fixture["call"])[0]

    def tool_call_sequence(self, fixture, _):
        session = self.headers([call["name"] for call in fixture["calls"]])
        return all(self.call(session, call, call.get("result", text("done")))[0] for call in fixture["calls"])

    def tool_state_handle(self, fixture, _):
        intent = f"add an item to basket {fixture['createdBy']['handle']}"
        session = self.headers([fixture["call"]["name"]], fixture["presentedBy"]["principal"], intent)
        return self.call(session, fixture["call"])[0]

    def http_request(self, fixture, _):
        headers, message = fixture["headers"], fixture["body"]
        params = message["params"]
        meta = params.get("_meta", {})
        if meta:  # the cases leave out a member without which the revision refuses every request
            meta = {META + "clientCapabilities": {"extensions": {TASKS: {}}}, **meta}
            message = {**message, "params": {**params, "_meta": meta}}
        # Everything that header or body names is the session's own, so that only their difference is judged.
        named = [name for name in (headers.get("Mcp-Name"), params.get("name")) if name and name.isascii()]
        session = self.headers(["begin", *filter(None, [*named, params.get("name")])])
        if message["method"].startswith("tasks/"):
            for task in {headers["Mcp-Name"], params["taskId"]}:
                self.begin(session, task)
        self.server.answer = lambda message: {"resultType": "complete", **text("done")}
        return self.send("POST", "/", {**headers, **session}, message)[0]

    def http_request_sequence(self, fixture, _):
        session, through = self.headers(["get_weather"]), []
        self.server.answer = lambda message: {"resultType": "complete", **text("done")}
        for request in fixture["requests"]:
            message = request.get("body")
            meta = (message or {}).get("params", {}).get("_meta")
            if meta:
                meta.setdefault(META + "clientCapabilities", {})
            arrived, _ = self.send(request["method"], "/", {**request["headers"], **session}, message)
            through.append(arrived)
        return any(through)

    def mrtr_retry(self, fixture, _):
        state = fixture.get("requestState")
        if state is None:
            first = fixture["issued"]
            retry = fixture["tamperedRetry"]["params"]
            asker = answerer = self.headers([retry["name"]])
        else:
            name = fixture["originalRequest"]["name"]
            first = {"resultType": "input_required", "inputRequests": {}, "requestState": state}
            retry = {"name": name, "arguments": {}, "requestState": state}
            asker = self.headers([name], fixture["issuedTo"]["principal"])
            same = fixture["issuedTo"]["principal"] == fixture["replayedBy"]["principal"]
            answerer = asker if same else self.headers([name], fixture["replayedBy"]["principal"])
        _, result = self.call(asker, retry, first)
        assert result == first, result
        return self.ask(answerer, "tools/call", retry, text("done"))[0]

    def input_required_result(self, fixture, _):
        call = fixture["onRequest"]["params"]
        _, result = self.call(self.headers([call["name"]]), call, fixture["result"])
        return result == fixture["result"]

    def task_lifecycle(self, fixture, _):
        sessions = {}
        for issued in fixture["issued"]:
            session = sessions.setdefault(issued["principal"], self.headers(["begin"], issued["principal"]))
            self.begin(session, issued["taskId"])
        probe = fixture["probe"]
        session = sessions.get(probe["principal"]) or self.headers(["begin"], probe["principal"])
        return self.ask(session, probe["method"], probe["params"], self.task(probe["params"]["taskId"], "working"))[0]

    @staticmethod
    def task(task, status):
        at = "2026-11-29T10:00:00Z"
        return {"taskId": task, "status": status, "createdAt": at, "lastUpdatedAt": at, "ttlMs": 60_000}

    def begin(self, session, task):
        """Calls a tool that goes on as this task."""
        _, result = self.call(session, {"name": "begin"}, {"resultType": "task", **self.task(task, "working")})
        assert result and result["taskId"] == task, result

    def list_result(self, fixture, is_attack):
        tools = fixture["result"]["tools"]
        session = self.headers([tool["name"] for tool in tools])
        _, result = self.ask(session, fixture["method"], {}, fixture["result"])
        if is_attack:
            return result.get("cacheScope") == "public" or result.get("ttlMs", 0) > PUBLIC_MS
        return result is not None and result["tools"] == tools

    def cache_invalidation(self, fixture, is_attack):
        session = self.headers(["get_weather"])
        first = self.shows(session, fixture["cached"]["result"]["tools"])
        fresh = self.shows(session, fixture["upstreamNow"]["tools"])
        return not fresh if is_attack else first and fresh

    def scenario(self, fixture, _):
        if action := fixture.get("action"):
            return self.call(self.headers([action["name"]]), action)[0]
        if "request" not in fixture:
            return None
        headers, message = modern("tools/list", {})
        self.server.answer = lambda message: {"resultType": "complete", "tools": []}
        return self.send("POST", "/", {**headers, **self.headers(["get_weather"]), **fixture["request"]}, message)[0]

    def ui_resource(self, fixture, _):
        contents = [{"uri": fixture["uri"], "mimeType": fixture["mimeType"], "text": fixture["html"]}]
        session = self.headers(["get_weather"], authorized_resources=[fixture["uri"]])
        _, result = self.ask(session, "resources/read", {"uri": fixture["uri"]}, {"contents": contents})
        return result is not None and result["contents"] == contents

    def delegated_request(self, fixture, _):
        """Tokens in headers of their own, which the server is to read."""
        arrived, _ = self.ask({**self.headers(["book"]), **fixture["request"]["headers"]}, "tools/call", {"name": "book"}, {})
        got = {name.lower(): value for name, value in self.server.headers.items()}
        return arrived and all(got.get(name.lower()) == value for name, value in fixture["request"]["headers"].items())

    def multi_server_registry(self, fixture, _):
        """Each server is an upstream of its own, and a session names `upstream:tool`, for equal names the first."""
        servers = fixture["servers"]
        behind = [Server() for _ in servers]
        upstreams = [
            {"name": one["server"], "path": "/" + one["server"], "urls": [server.url]} for one, server in zip(servers, behind)
        ]
        listed = {}
        for one in servers:
            for tool in one["tools"]:
                listed.setdefault(tool["name"], f"{one['server']}:{tool['name']}")
        with Arbiter(behind[0].url, policies=self.gateway.policies, settings={"upstreams": upstreams}) as gateway:
            stage = Stage(gateway, behind[0])
            session, seen = stage.headers(listed.values()), []
            for one, stage.server in zip(servers, behind):
                seen.append(stage.shows(session, one["tools"], "/" + one["server"]))
        return all(seen)
