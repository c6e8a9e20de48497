#!/usr/bin/env python3
"""What one agent's client began is not another's: tasks and subscriptions, with the official clients and servers.

    tests/clients/owners.py                 everything; Arbiter is $ARBITER_BIN or target/debug/arbiter

Straight to the servers another client gets the task and hears of the resource, else these tests would prove nothing.
Needs what run.py needs.
"""

import json
import pathlib
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

import run  # noqa: E402
from arbiter import Arbiter  # noqa: E402
from between import output, pairs  # noqa: E402

UNKNOWN_TASK = -32602
URI = "test://greeting"


def client(language, packages, version):
    if language == "ts":
        return ["node", HERE / "ts_owner.mjs", "--modules", packages["node"]]
    return [packages[f"py{version}"], HERE / "py_owner.py"]


def ask(command, url, headers, *what):
    return json.loads(output([*command, "--url", url, *(f"--header={pair}" for pair in pairs(headers)), *what]))


def without(said, task):
    """An answer about a task, as it would be about any other."""
    return json.loads(json.dumps(said).replace(task, "TASK"))


def tasks(language, packages, folder):
    """The task of one agent, asked about by another; the server gives it to anyone who names it."""
    command = client(language, packages, 1)
    with run.server("tasks", packages, folder) as url:
        task = ask(command, url, {}, "begin")["task"]
        assert ask(command, url, {}, "ask", task)["result"]["content"], "straight nobody gets it either"
        with Arbiter(url, settings={"proxy": {"legacy_streams": True}}) as gateway:
            through = gateway.proxy_url + "/mcp"
            ours, theirs = (
                gateway.agent_headers(agent, gateway.open_session(agent["agent_id"], authorized_tools=["report"]))
                for agent in (gateway.register_agent(), gateway.register_agent())
            )
            task = ask(command, through, ours, "begin")["task"]
            stolen = ask(command, through, theirs, "ask", task)
            unknown = ask(command, through, theirs, "ask", "task-999999")
            own = ask(command, through, ours, "ask", task)
    for about in ("get", "result", "cancel"):
        assert stolen[about].get("error", {}).get("code") == UNKNOWN_TASK, stolen
        assert without(stolen[about], task) == without(unknown[about], "task-999999"), (stolen, unknown)
    assert stolen["list"] == {"tasks": []}, stolen
    assert own["get"]["status"] == "completed" and "private report" in json.dumps(own["result"]), own


def subscriptions(language, packages, folder):
    """A resource that one session may read and the other may not, listened for by both."""
    command = client(language, packages, 2)
    (folder / "seen.jsonl").touch()
    with run.server("sdk", packages, folder) as url:
        assert ask(command, url, {}, "listen", URI) == {"heard": URI}
        with Arbiter(url) as gateway:
            through = gateway.proxy_url + "/mcp"
            rights = {"authorized_tools": ["touch"], "authorized_methods": ["subscriptions/listen"]}
            reader, other = (
                gateway.agent_headers(agent, gateway.open_session(agent["agent_id"], **rights, authorized_resources=resources))
                for agent, resources in ((gateway.register_agent(), [URI]), (gateway.register_agent(), []))
            )
            heard = ask(command, through, reader, "listen", URI)
            refused = ask(command, through, other, "listen", URI)
            records = [json.loads(line) for line in gateway.audit_path.read_text().splitlines()]
    assert heard == {"heard": URI}, heard
    assert refused.get("error"), refused
    assert [r["denial_code"] for r in records if r.get("denial_code")] == ["ResourceNotAuthorized"], records


def main():
    packages = run.install_all()
    failed = 0
    for test in (tasks, subscriptions):
        for language in ("ts", "py"):
            started, verdict = time.monotonic(), "ok"
            with tempfile.TemporaryDirectory(prefix="arbiter-clients-") as folder:
                try:
                    test(language, packages, pathlib.Path(folder))
                except Exception as error:  # a case that breaks is a row, not the end of the run
                    failed += 1
                    verdict = "FAILED"
                    print(f"--- {test.__name__} {language}\n{error}", flush=True)
            print(f"{test.__name__:14} {language:3} {verdict:7} {time.monotonic() - started:5.1f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
