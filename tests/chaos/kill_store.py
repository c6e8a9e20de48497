#!/usr/bin/env python3
"""Kills a gateway under load, again and again, and counts what its SQLite file promises: no budget is ever overspent.

    KILL_ROUNDS=200 tests/chaos/kill_store.py [plain] [sealed]         5 rounds each unless told otherwise

Each round starts `arbiter serve` on the file that the last one left, opens sessions, has callers spend them and an
operator open, close, deactivate and revoke, and ends it with SIGKILL at a random moment: in most rounds under load, in
every fifth while it starts, in every seventh while it stops; every tenth ends with a clean stop instead. The upstream
lives in this process and notes each call that reached it whole. After the next start:

- `calls_made` of each session is at least what the upstream saw, and at most a fiftieth of the budget (at least 1)
  more for each kill that the session lived through, besides calls that were counted and on their way when it came;
- after a clean stop it is exactly what the upstream saw;
- what was answered holds: a session that was opened is there, a closed one is closed, a deactivated agent is inactive,
  a revoked token is refused.

Over all rounds no session's calls exceed its budget, and by the gateways' own records no window of the rate limit, the
kills inside it included, holds more calls than the limit.

$KILL_SEED repeats a run's moments as far as the machine allows.
"""

import collections
import datetime
import http.client
import json
import os
import pathlib
import random
import secrets
import sys
import threading
import time
import urllib.error

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "conf/audit"), str(HERE.parent / "support")]

from arbiter import Arbiter, stop  # noqa: E402
from audit import Client, Upstream, records  # noqa: E402
from verify_audit import files_of  # noqa: E402

CALLERS = 5
WINDOW_SECS = 2
RATE = 25
GONE = (OSError, http.client.HTTPException, urllib.error.URLError)


class Session:
    """What this process knows of a session."""

    def __init__(self, opened, budget, callers):
        self.id = opened["session_id"]
        self.opened = opened
        self.budget = budget
        self.callers = callers
        self.kills = 0
        self.sent = 0  # numbers of calls: each is sent once
        self.unanswered = []
        self.lock = threading.Lock()

    @property
    def lease(self):
        return max(1, self.budget // 50)

    def next(self):
        with self.lock:
            self.sent += 1
            return self.sent


class Operations:
    """What an operator was answered, so that it must hold."""

    def __init__(self):
        self.opened, self.closed, self.deactivated, self.revoked = [], [], [], []

    def __len__(self):
        return len(self.opened) + len(self.closed) + len(self.deactivated) + len(self.revoked)


class Test:
    def __init__(self, kind, chance):
        self.kind, self.chance = kind, chance
        self.problems = []
        self.seen = collections.defaultdict(set)  # session -> numbers of the calls that reached the upstream
        self.statuses = collections.Counter()
        self.held = collections.Counter()
        self.most_lost = 0.0  # of a lease, in one kill
        self.upstream = Upstream(self.note)
        self.threads = []
        self.halt = threading.Event()
        self.operations = Operations()

    def note(self, message):
        arguments = message["params"]["arguments"]
        numbers = self.seen[arguments["session"]]
        if arguments["n"] in numbers:
            self.problems.append(f"call {arguments} reached the upstream twice")
        numbers.add(arguments["n"])

    # --- the load ---------------------------------------------------------------------------------------------------

    def open_session(self, budget, callers, **fields):
        opened = self.gateway.open_session(
            self.agent["agent_id"], authorized_tools=["work"], call_budget=budget, **fields
        )
        return Session(opened, budget, callers)

    def calls(self, url, session):
        client = Client(url, self.gateway.agent_headers(self.agent, session.opened))
        while not self.halt.is_set():
            number = session.next()
            try:
                status, _ = client.call(arguments={"session": session.id, "n": number})
            except GONE:
                session.unanswered.append(number)
                return
            self.statuses[status] += 1
            if status == 429:
                if client.retry_after is None:
                    return  # the budget is spent
                self.halt.wait(0.02)

    def operate(self, done):
        """An operator at work until the gateway is gone; writes down what was answered."""
        admin = self.gateway.admin
        try:
            while not self.halt.is_set():
                what = self.chance.randrange(3)
                if what == 0:
                    opened = self.gateway.open_session(self.agent["agent_id"], authorized_tools=["work"])
                    done.opened.append(opened["session_id"])
                    if self.chance.random() < 0.7:
                        admin("DELETE", f"/sessions/{opened['session_id']}", expect=200)
                        done.closed.append(opened["session_id"])
                elif what == 1:
                    agent = self.gateway.register_agent()
                    admin("DELETE", f"/agents/{agent['agent_id']}", expect=200)
                    done.deactivated.append(agent)
                else:
                    issued = admin("POST", f"/agents/{self.agent['agent_id']}/token", {}, expect=200)
                    admin("DELETE", f"/tokens/{issued['jti']}", expect=200)
                    done.revoked.append(issued["token"])
        except GONE:
            pass
        except RuntimeError as refused:
            # A gateway that stops says so; nothing else is refused here.
            if "Draining" not in str(refused):
                self.problems.append(str(refused))

    def put_on(self, sessions):
        self.halt.clear()
        url = self.gateway.proxy_url
        for session in sessions:
            for _ in range(session.callers):
                self.threads.append(threading.Thread(target=self.calls, args=(url, session)))
        self.operations = Operations()
        self.threads.append(threading.Thread(target=self.operate, args=(self.operations,)))
        for thread in self.threads:
            thread.start()

    def take_off(self):
        self.halt.set()
        for thread in self.threads:
            thread.join()
        self.threads = []

    # --- what must hold ---------------------------------------------------------------------------------------------

    def made(self, session):
        return self.gateway.admin("GET", f"/sessions/{session.id}", expect=200)["calls_made"]

    def look(self, sessions):
        """Compares what the gateway that just started says with what was seen. Without a kill that is exact."""
        for session in sessions:
            made, seen = self.made(session), self.seen[session.id]
            on_their_way = len(set(session.unanswered) - seen)
            most = min(len(seen) + on_their_way + session.kills * session.lease, session.budget)
            if not len(seen) <= made <= most:
                self.problems.append(
                    f"budget {session.budget}: {len(seen)} calls seen, {made} counted, {most} at most"
                    f" ({session.kills} kills, {on_their_way} on their way)"
                )
            if session.kills == 1:
                self.most_lost = max(self.most_lost, (made - len(seen) - on_their_way) / session.lease)
            self.held["budgets"] += 1

    def look_at_operations(self):
        done, admin = self.operations, self.gateway.admin
        for session in done.opened:
            status = admin("GET", f"/sessions/{session}", expect=200)["status"]
            if session in done.closed and status != "closed":
                self.problems.append(f"a session that was closed is {status}")
        for agent in done.deactivated:
            if admin("GET", f"/agents/{agent['agent_id']}", expect=200)["active"]:
                self.problems.append("an agent that was deactivated is active")
        for token in done.revoked:
            headers = self.gateway.agent_headers({**self.agent, "token": token}, self.rate_limited.opened)
            status, _ = Client(self.gateway.proxy_url, headers).call()
            if status != 401:
                self.problems.append(f"a revoked token is answered with {status}")
        for what in ("opened", "closed", "deactivated", "revoked"):
            self.held[what] += len(getattr(done, what))
        self.operations = Operations()

    def look_at_rates(self):
        lines = records(*files_of(self.gateway.audit_path))
        times = sorted(
            datetime.datetime.fromisoformat(record["timestamp"])
            for record in lines
            if record["task_session_id"] == self.rate_limited.id
            and record["authorization_decision"] == "allow"
            and record["tool_called"] == "work"
        )
        window = datetime.timedelta(seconds=WINDOW_SECS) - datetime.timedelta(milliseconds=1)
        for first, after in zip(times, times[RATE:]):
            if after - first < window:
                self.problems.append(f"more than {RATE} calls in {after - first} from {first}")
        if len(times) < len(self.seen[self.rate_limited.id]):
            self.problems.append("calls of the rate-limited session are not on record")
        self.held["rate-limited calls"] = len(times)

    # --- the rounds -------------------------------------------------------------------------------------------------

    def end(self, number):
        """Ends the gateway in this round's way; says whether it stopped cleanly."""
        process, chance = self.gateway.process, self.chance
        if number % 10 == 9:
            self.take_off()
            stop(process)
            return True
        if number % 7 == 6:
            process.terminate()
            time.sleep(chance.uniform(0, 0.2))
        process.kill()
        process.wait()
        self.take_off()
        return False

    def run(self, rounds):
        settings = {
            "sessions": {"max_concurrent_sessions_per_agent": 10_000, "rate_limit_window_secs": WINDOW_SECS},
            "admin": {"rate_limit_per_minute": 1_000_000},
        }
        key = {"ARBITER_STORAGE_ENCRYPTION_KEY": secrets.token_hex(32)} if self.kind == "sealed" else {}
        kills = 0
        with Arbiter(self.upstream.url, settings=settings, environment=key) as self.gateway:
            self.agent = self.gateway.register_agent()
            self.rate_limited = self.open_session(1 << 40, 2, rate_limit_per_minute=RATE)
            long = self.open_session(20_000, 2)
            everyone, fresh, started = [self.rate_limited, long], [], True
            for number in range(rounds):
                if number % 5 == 4:  # while it starts
                    stop(self.gateway.process)
                    self.gateway.spawn()
                    time.sleep(self.chance.uniform(0, 0.3))
                    self.gateway.process.kill()
                    self.gateway.process.wait()
                    self.gateway.start()
                if self.made(long) == long.budget:
                    long = self.open_session(20_000, 2)
                    everyone.append(long)
                fresh = [
                    self.open_session(self.chance.choice([3, 49, 70, 500, 1 << 20]), CALLERS),
                    self.open_session(self.chance.choice([60, 1000, 5000]), 1),
                ]
                everyone += fresh
                self.put_on([*fresh, long, self.rate_limited])
                time.sleep(self.chance.uniform(0.05, 0.9))
                clean = self.end(number)
                self.upstream.wait_until_quiet()
                if not clean:
                    kills += 1
                    for session in everyone:
                        session.kills += 1
                self.gateway.start()
                self.look([*fresh, long])
                self.look_at_operations()
            self.look(everyone[1:])
            for session in everyone:
                if len(self.seen[session.id]) > session.budget:
                    self.problems.append(f"{len(self.seen[session.id])} calls on a budget of {session.budget}")
            stop(self.gateway.process)
            self.look_at_rates()
            if self.problems:
                print(self.gateway.log(), file=sys.stderr)
        seen = sum(map(len, self.seen.values()))
        if self.statuses[200] < rounds or self.held["closed"] < 1 or not self.statuses[429]:
            self.problems.append("hardly anything was tried")
        print(
            f"{self.kind}: {rounds} rounds, {kills} kills under load, {seen} calls upstream on {len(everyone)} sessions,"
            f" answered {dict(self.statuses)}; held after a start: {dict(self.held)};"
            f" at most {self.most_lost:.2f} of a lease lost in one kill"
        )
        return self.problems


def main():
    kinds = sys.argv[1:] or ["plain", "sealed"]
    rounds = int(os.environ.get("KILL_ROUNDS", "5"))
    seed = int(os.environ.get("KILL_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    problems = [f"{kind}: {problem}" for kind in kinds for problem in Test(kind, random.Random(seed)).run(rounds)]
    for problem in problems[:20]:
        print(f"FAILED  {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
