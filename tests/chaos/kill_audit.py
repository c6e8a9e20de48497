#!/usr/bin/env python3
"""Kills a gateway under load, again and again, and counts: no call without a record, none with two.

    KILL_ROUNDS=200 tests/chaos/kill_audit.py [write] [sync]         5 rounds each unless told otherwise

Each round starts `arbiter serve` on the files that the last one left, puts calls and refusals on it from several
connections, and kills it with SIGKILL at a random moment, in every fifth round while it starts. The log is rotated and
closed files are compressed meanwhile, so kills fall into that as well. Needs the packages of requirements.txt. The upstream lives in
this process and notes the id of each call that reached it. At the end the log, its closed files and its checkpoints
must say:

- every call that the upstream saw has exactly one record, and so has every call that was answered;
- every refusal without a token that was answered is on record, by itself or in a count;
- no request id stands twice; the chain verifies from the first record over all rounds and rotations;
- every checkpoint that was signed, in any round, is met.

$KILL_SEED repeats a run's moments as far as the machine allows.
"""

import collections
import http.client
import json
import os
import pathlib
import random
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "conf/audit"), str(HERE.parent / "support")]

from arbiter import Arbiter, stop  # noqa: E402
from audit import Client, Upstream, keygen, verify  # noqa: E402
from verify_audit import files_of, lines_of  # noqa: E402

CALLERS = 6
NODE = "kill-test"


class Load:
    """Calls and refusals until the gateway is gone."""

    def __init__(self):
        self.answered = collections.Counter()
        self.refused = 0
        self.unauthenticated_sent = 0
        self.lock = threading.Lock()
        self.threads = []

    def calls(self, url, headers):
        client = Client(url, headers)
        try:
            while True:
                status, request_id = client.call()
                with self.lock:
                    self.answered[(status, request_id)] += 1
        except (OSError, http.client.HTTPException):
            pass

    def refusals(self, url):
        client = Client(url, {})
        try:
            while True:
                self.unauthenticated_sent += 1
                status, _ = client.call()
                if status == 401:
                    self.refused += 1
        except (OSError, http.client.HTTPException):
            pass


def put_on(load, gateway, headers, seconds):
    url = gateway.proxy_url
    load.threads = [threading.Thread(target=load.calls, args=(url, headers)) for _ in range(CALLERS)]
    load.threads.append(threading.Thread(target=load.refusals, args=(url,)))
    for thread in load.threads:
        thread.start()
    time.sleep(seconds)


def run(durability, rounds, chance):
    problems = []
    upstream, load = Upstream(), Load()
    with tempfile.TemporaryDirectory(prefix="arbiter-kill-") as keys:
        key_file, public_key = keygen(keys, NODE)
        settings = {
            "audit": {
                "durability": durability,
                "rotate_bytes": 1 << 20,
                "compress_rotated": True,
                "checkpoint_key_file": str(key_file),
                "checkpoint_records": 50,
                "max_unauthenticated_records_per_sec": 5,
            },
            "sessions": {"max_concurrent_sessions_per_agent": 10_000},
        }
        with Arbiter(upstream.url, settings=settings) as gateway:
            agent = gateway.register_agent()
            for number in range(rounds):
                if number % 5 == 4:
                    gateway.spawn()
                    time.sleep(chance.uniform(0, 0.3))
                else:
                    if number > 0:
                        gateway.start()
                    # A new session each time: a kill costs a session what it had leased.
                    session = gateway.open_session(agent["agent_id"], authorized_tools=["work"], call_budget=1 << 40)
                    headers = gateway.agent_headers(agent, session)
                    put_on(load, gateway, headers, chance.uniform(0.1, 0.9))
                gateway.process.kill()
                gateway.process.wait()
                for thread in load.threads:
                    thread.join()
            gateway.start()  # completes what the last kill left
            stop(gateway.process)

            log = gateway.audit_path
            files = files_of(log)
            lines = [json.loads(line) for path in files for line in lines_of(path)]
            ids = collections.Counter(record["request_id"] for record in lines)
            outcomes = collections.Counter(record["event"] or record["outcome"] for record in lines)
            doubled = [i for i, count in ids.items() if count > 1]
            lost = [i for i in upstream.seen if ids[i] != 1]
            unanswered = [i for (_, i) in load.answered if ids[i] != 1]
            twice_upstream = [i for i, count in upstream.seen.items() if count > 1]
            counted = sum(
                (record["detail"]["count"] if record["event"] == "refusals_folded" else 1)
                for record in lines
                if record["denial_code"] == "TokenMissing"
            )
            code, said = verify(log, "--checkpoints", f"{log}.checkpoints", "--public-key", public_key)
            allowed = sum(record["authorization_decision"] == "allow" and not record["event"] for record in lines)
            for what, wrong in [
                ("calls upstream without exactly one record", lost),
                ("answered calls without exactly one record", unanswered),
                ("request ids that stand twice", doubled),
                ("calls that reached the upstream twice", twice_upstream),
            ]:
                if wrong:
                    problems.append(f"{len(wrong)} {what}, such as {wrong[0]}")
            if not load.refused <= counted <= load.unauthenticated_sent:
                problems.append(f"{load.refused} refusals answered, {load.unauthenticated_sent} sent, {counted} counted")
            if code != 0:
                problems.append(said)
            if any(status != 200 for status, _ in load.answered) or not upstream.seen:
                problems.append("not every call was let through, so little was tried")
            statuses = collections.Counter(status for status, _ in load.answered)
            print(
                f"{durability}: {rounds} rounds, {len(upstream.seen)} calls upstream, {allowed} admitted on record,"
                f" {sum(load.answered.values())} answered {dict(statuses)}, {counted} of {load.refused} answered"
                f" ({load.unauthenticated_sent} sent) refusals counted, records {dict(outcomes)} in {len(files)} files;"
                f" {len(doubled)} doubled, {len(lost) + len(unanswered)} lost"
            )
            print("   " + said.replace("\n", "\n   "))
            if problems:
                print(gateway.log(), file=sys.stderr)
    return problems


def main():
    modes = sys.argv[1:] or ["write", "sync"]
    rounds = int(os.environ.get("KILL_ROUNDS", "5"))
    seed = int(os.environ.get("KILL_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    problems = [f"{mode}: {problem}" for mode in modes for problem in run(mode, rounds, random.Random(seed))]
    for problem in problems:
        print(f"FAILED  {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
