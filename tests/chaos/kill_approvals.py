#!/usr/bin/env python3
"""Kills a gateway while agents use what a person approved, and counts what reached the upstream: never more than approved.

    KILL_ROUNDS=200 tests/chaos/kill_approvals.py                      5 rounds each unless told otherwise

Each round starts `arbiter serve` on the SQLite file that the last one left and opens a session. Its agent asks about
several calls; a person approves most of them for one to three uses, denies one and leaves one open. Callers then repeat
all calls at once, and SIGKILL comes at a random moment: in every fourth round while a person is still deciding. After
the next start they repeat them until every approval is used up or over. Of each call the upstream must have seen at
most as many as a person granted, of the denied and the open one none, and what was denied is still refused as denied.

$KILL_SEED repeats a run's moments as far as the machine allows.
"""

import collections
import http.client
import json
import os
import pathlib
import random
import sys
import threading
import time
import urllib.error

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

from arbiter import Arbiter, request, stop  # noqa: E402
from audit import Upstream  # noqa: E402

POLICIES = """\
[[policies]]
id = "allow"
effect = "allow"
allowed_tools = ["work"]

[[policies]]
id = "ask"
effect = "escalate"
allowed_tools = ["work"]
priority = 900
"""
CALLERS = 6
APPROVED = 4  # of the calls of a round; then one that is denied and one that nobody decides
GONE = (OSError, http.client.HTTPException, urllib.error.URLError)


class Test:
    def __init__(self, chance):
        self.chance = chance
        self.problems = []
        self.seen = collections.Counter()
        self.granted = {}
        self.answers = collections.Counter()
        self.upstream = Upstream(lambda message: self.seen.update([message["params"]["arguments"]["n"]]))
        self.halt = threading.Event()

    def call(self, headers, number):
        """Sends a call; returns its refusal's data, or nothing if it passed."""
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "work", "arguments": {"n": number}}}
        status, _, text = request(self.gateway.proxy_url, method="POST", headers=headers, body=body)
        data = {} if status == 200 else json.loads(text)["error"]["data"]
        self.answers[data.get("code", status)] += 1
        return data

    def repeat(self, headers, numbers):
        numbers = list(numbers)
        random.shuffle(numbers)
        try:
            while not self.halt.is_set():
                for number in numbers:
                    self.call(headers, number)
        except GONE:
            pass

    def decide(self, ids):
        """A person at work; what was answered, or may have been taken, counts as granted."""
        *approved, denied, _open = ids.items()
        for number, approval in approved:
            self.granted[number] = uses = self.chance.randint(1, 3)
            self.gateway.admin("POST", f"/approvals/{approval}", {"decision": "approve", "uses": uses}, expect=200)
        self.gateway.admin("POST", f"/approvals/{denied[1]}", {"decision": "deny"}, expect=200)
        return denied[0]

    def round(self, number):
        gateway = self.gateway
        session = gateway.open_session(self.agent["agent_id"], authorized_tools=["work"], call_budget=1 << 40)
        headers = gateway.agent_headers(self.agent, session)
        numbers = [f"{number}-{n}" for n in range(APPROVED + 2)]
        ids = {one: self.call(headers, one)["approval_id"] for one in numbers}
        while_deciding = number % 4 == 3
        denied = None if while_deciding else self.decide(ids)
        self.halt.clear()
        threads = [threading.Thread(target=self.repeat, args=(headers, numbers)) for _ in range(CALLERS)]
        if while_deciding:
            threads.append(threading.Thread(target=self.decide_until_gone, args=(ids,)))
        for thread in threads:
            thread.start()
        time.sleep(self.chance.uniform(0, 0.3))
        gateway.process.kill()
        gateway.process.wait()
        self.halt.set()
        for thread in threads:
            thread.join()
        self.upstream.wait_until_quiet()
        before = dict(self.seen)
        gateway.start()
        for _ in range(4):
            for one in numbers:
                self.call(headers, one)
        if denied and self.call(headers, denied).get("code") != "ApprovalDenied":
            self.problems.append(f"round {number}: a call that was denied is not")
        for one in numbers:
            seen, granted = self.seen[one], self.granted.get(one, 0)
            if seen > granted:
                self.problems.append(f"round {number}: {seen} calls upstream, {granted} granted, {before.get(one, 0)} at the kill")
        gateway.admin("DELETE", f"/sessions/{session['session_id']}", expect=200)

    def decide_until_gone(self, ids):
        try:
            self.decide(ids)
        except GONE:
            pass

    def run(self, rounds):
        settings = {
            "approvals": {"max_pending_per_agent": 1000},
            "admin": {"rate_limit_per_minute": 1_000_000},
            "proxy": {"max_refusals_per_agent_per_sec": 1_000_000},
        }
        with Arbiter(self.upstream.url, policies=POLICIES, settings=settings) as self.gateway:
            self.agent = self.gateway.register_agent()
            for number in range(rounds):
                self.round(number)
            stop(self.gateway.process)
            if self.problems:
                print(self.gateway.log(), file=sys.stderr)
        granted, used = sum(self.granted.values()), sum(self.seen.values())
        if used < granted / 4 or not self.answers["EscalationRequired"] or not self.answers["ApprovalDenied"]:
            self.problems.append("hardly anything was tried")
        print(f"{rounds} kills: {granted} uses granted, {used} calls upstream, answered {dict(self.answers)}")
        return self.problems


def main():
    rounds = int(os.environ.get("KILL_ROUNDS", "5"))
    seed = int(os.environ.get("KILL_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    problems = Test(random.Random(seed)).run(rounds)
    for problem in problems[:20]:
        print(f"FAILED  {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
