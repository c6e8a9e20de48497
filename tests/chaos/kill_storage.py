#!/usr/bin/env python3
"""Kills `arbiter storage encrypt`, `rekey` and `decrypt` at random moments and looks at what is left.

    KILL_ROUNDS=200 tests/chaos/kill_storage.py         15 rounds unless told otherwise

A gateway fills a file and is killed itself, so that part of it is in the journal only. Then each round starts one of the
commands and kills it with SIGKILL at a random moment of the time that the command takes. Afterwards the file must open
with exactly one of the two keys (or with none, for a plain one) and hold every row; what is encrypted shows no word of
what was agreed, in no file of the folder once the command has been repeated to its end. At the end a gateway serves
from it and knows every session as it was.

$KILL_SEED repeats a run's moments as far as the machine allows.
"""

import collections
import json
import os
import pathlib
import random
import secrets
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))

from arbiter import Arbiter, binary  # noqa: E402

SESSIONS = 400
INTENT = "manage the confidential zebra in a test"
KEY, NEW_KEY = "ARBITER_STORAGE_ENCRYPTION_KEY", "ARBITER_STORAGE_ENCRYPTION_KEY_NEW"


class File:
    def __init__(self, path):
        self.path = path
        self.problems = []

    def start(self, command, key, new=None):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ARBITER_")}
        environment.update({name: value for name, value in [(KEY, key), (NEW_KEY, new)] if value})
        line = [binary(), "storage", command, "--path", self.path, "--json"]
        return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, command, key, new=None):
        """Runs a command to its end: what it says, or None if it refused."""
        process = self.start(command, key, new)
        out, error = process.communicate(timeout=60)
        if process.returncode == 0:
            return json.loads(out)
        if process.returncode != 2 or not ("is encrypted" in error or "is not the key" in error or "not encrypted" in error):
            self.problems.append(f"{command} ended with {process.returncode}: {error}")
        return None

    def rows(self, key):
        told = self.run("check", key)
        return told and {name: n for name, n in told.items() if isinstance(n, int) and not isinstance(n, bool)}

    def shows(self):
        """The files of the folder in which the intent stands."""
        files = self.path.parent.glob(self.path.name + "*")
        return [file.name for file in files if b"confidential zebra" in file.read_bytes()]


def fill(gateway):
    agent = gateway.register_agent()
    return agent, [
        gateway.open_session(agent["agent_id"], authorized_tools=["work"], declared_intent=INTENT, call_budget=n + 1)
        for n in range(SESSIONS)
    ]


def shown(gateway, sessions):
    return [gateway.admin("GET", f"/sessions/{session['session_id']}", expect=200) for session in sessions]


def run(rounds, chance):
    settings = {
        "sessions": {"max_concurrent_sessions_per_agent": 10_000, "default_time_limit_secs": 86_400},
        "admin": {"rate_limit_per_minute": 1_000_000},
    }
    outcomes, longest = collections.Counter(), 0.0
    with Arbiter("http://127.0.0.1:9/mcp", settings=settings) as gateway:
        _, sessions = fill(gateway)
        before = shown(gateway, sessions)
        file = File(gateway.folder / "arbiter.db")
        refused = file.start("encrypt", secrets.token_hex(32))
        _, error = refused.communicate(timeout=60)
        if refused.returncode != 1 or "in use" not in error:
            file.problems.append(f"encrypting under a gateway ended with {refused.returncode}: {error}")
        gateway.process.kill()
        gateway.process.wait()
        key, expected = None, None
        for number in range(rounds):
            new = secrets.token_hex(32) if chance.random() < 0.8 or key is None else None
            command = "encrypt" if key is None else "decrypt" if new is None else "rekey"
            arguments = (command, new) if key is None else (command, key, new)
            if longest == 0.0:
                # One copy of all files is converted without a kill, to know how long that takes.
                folder = gateway.folder / "copy"
                folder.mkdir()
                for part in file.path.parent.glob(file.path.name + "*"):
                    (folder / part.name).write_bytes(part.read_bytes())
                started = time.monotonic()
                told = File(folder / file.path.name).run(*arguments)
                longest = time.monotonic() - started
                expected = {name: n for name, n in told.items() if isinstance(n, int) and not isinstance(n, bool)}
            process = file.start(*arguments)
            time.sleep(chance.uniform(0, longest * 1.1))
            process.kill()
            process.communicate()
            with_old, with_new = file.rows(key), file.rows(new)
            if (with_old is None) == (with_new is None) or (with_old or with_new) != expected:
                file.problems.append(f"{command}: {with_old} with the old key, {with_new} with the new one")
                break
            outcomes[command, "done" if with_new else "as before"] += 1
            if chance.random() < 0.5:
                # Repeated to its end, whatever the kill left.
                told = file.run(*arguments)
                if told is None or told["changed"] != (with_new is None):
                    file.problems.append(f"{command} repeated: {told}")
                with_new = True
                if (gateway.folder / "arbiter.db-converted").exists():
                    file.problems.append(f"{command} left its copy")
                if new and file.shows():
                    file.problems.append(f"{command}: {file.shows()} show what was agreed")
            key = new if with_new else key
        if key:
            gateway._environment[KEY] = key
        gateway.start()
        if shown(gateway, sessions) != before:
            file.problems.append("a session is not what it was")
        mode = file.path.stat().st_mode & 0o777
        if mode != 0o600:
            file.problems.append(f"the file's mode became {mode:o}")
        if len(outcomes) < 2 or not any(how == "as before" for _, how in outcomes):
            file.problems.append(f"hardly anything was tried: {outcomes}")
    counts = {f"{command}, {how}": count for (command, how), count in sorted(outcomes.items())}
    print(f"{rounds} kills within {longest:.2f} s: {counts}; rows each time: {expected}")
    return file.problems


def main():
    rounds = int(os.environ.get("KILL_ROUNDS", "15"))
    seed = int(os.environ.get("KILL_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    problems = run(rounds, random.Random(seed))
    for problem in problems[:20]:
        print(f"FAILED  {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
