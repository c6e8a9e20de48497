#!/usr/bin/env python3
"""Servers that send people to a page (2025-11-25), between official clients and a server of the official Python SDK.

    tests/clients/asking.py              Arbiter is $ARBITER_BIN or target/debug/arbiter

Straight the clients get any address, else this would prove nothing; through Arbiter only those of
`proxy.allowed_elicitation_hosts`, whether the server asks on the stream of its answer or fails with the error -32042.
"""

import json
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

import run  # noqa: E402
from arbiter import Arbiter  # noqa: E402
from between import output, pairs  # noqa: E402

ALLOWED, FOREIGN = "https://login.corp.example/x", "https://login.corp.example.evil.example/"
ENDS = {"ask": "accept", "demand": -32042}


def clients(packages):
    return {
        "py-1": [packages["py1"], HERE / "asking_client.py"],
        "ts-1": ["node", HERE / "asking_client.mjs", "--modules", packages["node"]],
    }


def ask(command, url, headers, tool, page):
    command = [*command, "--url", url, "--tool", tool, "--page", page, *(f"--header={pair}" for pair in pairs(headers))]
    return json.loads(output(command))


def main():
    packages = {"node": run.node_modules(), "py1": run.python_with("requirements-mcp1.txt")}
    settings = {"proxy": {"allowed_elicitation_hosts": ["login.corp.example"], "legacy_streams": True}}
    with tempfile.TemporaryDirectory(prefix="asking-") as folder, run.server("asking", packages, pathlib.Path(folder)) as url:
        with Arbiter(url, settings=settings) as gateway:
            agent = gateway.register_agent()
            session = gateway.open_session(agent["agent_id"], authorized_tools=list(ENDS))
            through, headers = gateway.proxy_url + "/mcp", gateway.agent_headers(agent, session)
            for name, command in clients(packages).items():
                for tool, end in ENDS.items():
                    for page in (ALLOWED, FOREIGN):
                        straight = ask(command, url, {}, tool, page)
                        assert straight == {"pages": [page], "ended": end}, (name, tool, straight)
                    passed = ask(command, through, headers, tool, ALLOWED)
                    assert passed == {"pages": [ALLOWED], "ended": end}, (name, tool, passed)
                    refused = ask(command, through, headers, tool, FOREIGN)
                    assert refused["pages"] == [] and refused["ended"] not in ENDS.values(), (name, tool, refused)
                    print(f"{name} {tool}: sent to the allowed host, not to the other", flush=True)
            records = [json.loads(line) for line in gateway.audit_path.read_text().splitlines()]
    hosts = [(record["elicited_hosts"], record["upstream_cause"]) for record in records if record.get("elicited_hosts")]
    once = [(["login.corp.example"], None), (["login.corp.example.evil.example"], "protocol")]
    assert hosts == once * 4, hosts
    return 0


if __name__ == "__main__":
    sys.exit(main())
