#!/usr/bin/env python3
"""Breaks the audit log's files under a running gateway, for real, and counts. Needs root: it mounts a small disk (in a
mount namespace of its own) and makes files immutable.

    tests/chaos/fail_audit.py [case…]

While records cannot be written every call is refused with 503 and Retry-After and none reaches the upstream; when they
can again, calls pass by themselves. At the end every call that the upstream saw has exactly one record, every refusal
is on record or counted, and the chain verifies.
"""

import collections
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))

from arbiter import Arbiter, stop  # noqa: E402
from audit import Client, Upstream, keep, records, verify  # noqa: E402

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def claim(holds, text):
    if not holds:
        raise AssertionError(text)


class Run:
    """A gateway whose log is at `log`, and one client."""

    def __init__(self, log, upstream=None, environment=None, **settings):
        self.log, self.upstream = pathlib.Path(log), upstream or Upstream()
        settings.setdefault("audit", {})["file_path"] = str(log)
        self.gateway = Arbiter(self.upstream.url, settings=settings, environment=environment)
        self.refused = 0

    def __enter__(self):
        self.gateway.__enter__()
        agent = self.gateway.register_agent()
        tools = ["work", "slow", "cut"]
        session = self.gateway.open_session(agent["agent_id"], authorized_tools=tools, call_budget=1 << 40)
        self.headers = self.gateway.agent_headers(agent, session)
        self.client = Client(self.gateway.proxy_url, self.headers)
        return self

    def __exit__(self, kind, *_):
        if kind:
            print(self.gateway.log(), file=sys.stderr)
        self.gateway.__exit__(None, None, None)

    def call(self):
        status, _ = self.client.call()
        claim(status in (200, 503), f"a call was answered with {status}")
        if status == 503:
            self.refused += 1
            claim(self.client.retry_after, "503 without Retry-After")
        return status == 200

    def calls(self, count):
        for _ in range(count):
            claim(self.call(), "a call was refused though nothing is wrong")

    def until_refused(self, most=20_000):
        for _ in range(most):
            if not self.call():
                break
        else:
            claim(False, "nothing was refused")
        seen = sum(self.upstream.seen.values())
        for _ in range(20):
            claim(not self.call(), "a call passed while records cannot be written")
        claim(sum(self.upstream.seen.values()) == seen, "a refused call reached the upstream")
        status = self.gateway.admin("GET", "/audit/head")
        claim(not status["healthy"], "the log claims to be healthy")

    def until_resumed(self, seconds=10):
        end = time.monotonic() + seconds
        while not self.call():
            claim(time.monotonic() < end, f"calls are still refused after {seconds} s")
            time.sleep(0.02)
        self.calls(20)

    def settle(self, *before):
        """Stops the gateway and counts; `before` are the log's earlier files."""
        stop(self.gateway.process)
        lines = records(*before, self.log)
        ids = collections.Counter(line["request_id"] for line in lines)
        doubled = [i for i, count in ids.items() if count > 1]
        unrecorded = [i for i in self.upstream.seen if ids[i] != 1]
        claim(not doubled, f"{len(doubled)} ids stand twice")
        claim(not unrecorded, f"{len(unrecorded)} calls were forwarded without a record")
        gaps = sum(line["detail"]["count"] for line in lines if line["event"] == "audit_gap")
        told = sum(line["denial_code"] == "AuditUnavailable" for line in lines)
        claim(gaps + told == self.refused, f"{self.refused} refused, {gaps} counted and {told} recorded")
        code, said = verify(*before, self.log)
        claim(code == 0, said)
        keep(self.gateway.folder.name, *before, self.log)
        events = collections.Counter(line["event"] for line in lines if line["event"])
        forwarded = sum(self.upstream.seen.values())
        print(f"        {forwarded} forwarded, {self.refused} refused ({gaps} in audit_gap), events {dict(events)}")
        return lines


@case
def full_disk(folder):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=18m", "tmpfs", folder], check=True)
    try:
        with Run(folder / "audit.jsonl") as run:
            ballast = folder / "ballast"
            ballast.write_bytes(bytes(1_500_000))
            for _ in range(3):
                run.until_refused()
                ballast.unlink()
                run.until_resumed()
                free = os.statvfs(folder)
                ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - 60_000)))
            ballast.unlink()
            run.until_resumed()
            run.settle()
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@case
def read_only_disk_in_its_place(folder):
    # The kernel remounts no disk read-only while somebody has a file open for writing there, so this is what an operator
    # can do to a running gateway: a read-only disk is mounted where the log is, and taken away again.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        with Run(folder / "audit.jsonl") as run:
            busy = subprocess.run(["mount", "-o", "remount,ro", folder], capture_output=True)
            claim(busy.returncode != 0, "a disk with an open log was made read-only: test that instead")
            run.calls(20)
            for _ in range(3):
                subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", folder], check=True)
                try:
                    run.until_refused()
                finally:
                    subprocess.run(["umount", folder], check=True)
                run.until_resumed()
            run.settle()
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@case
def disk_too_small_to_start(folder):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    try:
        Run(folder / "audit.jsonl").__enter__()
        claim(False, "it started on a disk that has no room for its journal")
    except RuntimeError as error:
        claim("audit.jsonl.journal" in str(error) or "No space left" in str(error), str(error))
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def immutable(folder, name):
    with Run(folder / "audit.jsonl") as run:
        run.calls(20)
        for _ in range(3):
            subprocess.run(["chattr", "+i", folder / name], check=True)
            try:
                run.until_refused()
            finally:
                subprocess.run(["chattr", "-i", folder / name], check=True)
            run.until_resumed()
        run.settle()


@case
def read_only_log(folder):
    immutable(folder, "audit.jsonl")


@case
def read_only_journal(folder):
    immutable(folder, "audit.jsonl.journal")


@case
def deleted_log(folder):
    with Run(folder / "audit.jsonl") as run:
        run.calls(20)
        kept = folder / "kept"
        os.link(run.log, kept)  # what is deleted is gone; the test keeps it to count
        run.log.unlink()
        run.calls(50)
        lines = run.settle(kept)
        claim(any(line["event"] == "log_replaced" for line in lines), "nothing tells that the log was gone")


@case
def folder_in_its_place(folder):
    with Run(folder / "audit.jsonl") as run:
        run.calls(20)
        moved = run.log.rename(folder / "moved")
        run.log.mkdir()
        run.until_refused()
        run.log.rmdir()
        run.until_resumed()
        run.settle(moved)


@case
def moved_log_and_sighup(folder):
    with Run(folder / "audit.jsonl") as run:
        run.calls(20)
        moved = run.log.rename(folder / "moved")
        run.gateway.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 5
        while "audit log is the one in its place" not in run.gateway.log():
            claim(time.monotonic() < end, "SIGHUP does not have the log looked after")
            time.sleep(0.005)
        claim(run.log.exists(), "no new log after SIGHUP")
        run.calls(20)
        moved_again = run.log.rename(folder / "moved.2")
        head = run.gateway.admin("POST", "/audit/reopen", expect=200)
        claim(run.log.exists() and head["healthy"], "no new log after POST /audit/reopen")
        run.calls(20)
        run.settle(moved, moved_again)


@case
def not_require_healthy(folder):
    with Run(folder / "audit.jsonl", audit={"require_healthy": False}) as run:
        run.calls(5)
        moved = run.log.rename(folder / "moved")
        run.log.mkdir()
        # Completed calls are written for at most 0.1 s without a look at the files.
        end = time.monotonic() + 10
        while run.gateway.admin("GET", "/audit/head")["healthy"]:
            claim(time.monotonic() < end, "a folder in the place of the log goes unnoticed")
            run.calls(1)
            time.sleep(0.02)
        before = sum(run.upstream.seen.values())
        run.calls(30)
        claim(sum(run.upstream.seen.values()) == before + 30, "calls were held back")
        run.log.rmdir()
        end = time.monotonic() + 10
        while not run.gateway.admin("GET", "/audit/head")["healthy"]:
            claim(time.monotonic() < end, "the log does not come back")
            time.sleep(0.02)
        run.calls(5)
        stop(run.gateway.process)
        lines = records(moved, run.log)
        ids = {line["request_id"] for line in lines}
        missing = sum(i not in ids for i in run.upstream.seen)
        gaps = sum(line["detail"]["count"] for line in lines if line["event"] == "audit_gap")
        keep(run.gateway.folder.name, moved, run.log)
        claim(gaps == missing > 0, f"{missing} calls without a record, {gaps} counted")
        print(f"        {missing} of {sum(run.upstream.seen.values())} passed unrecorded and are counted")


@case
def clients_and_upstreams_that_leave(folder):
    with Run(folder / "audit.jsonl") as run:
        for _ in range(5):
            while run.upstream.arrived.acquire(blocking=False):
                pass
            gone = Client(run.gateway.proxy_url, run.headers)
            gone.send("slow")
            claim(run.upstream.arrived.acquire(timeout=10), "the call did not reach the upstream")
            gone.connection.sock.close()
            gone.connection.close()
        end = time.monotonic() + 10
        while run.log.read_bytes().count(b'"outcome":"client_gone"') < 5:
            claim(time.monotonic() < end, "clients that hung up are not on record while their upstream is silent")
            time.sleep(0.01)
        run.upstream.go_on.set()
        for _ in range(5):
            status, _ = Client(run.gateway.proxy_url, run.headers).call("cut")
            claim(status == 502, f"a cut upstream was answered with {status}")
        lines = run.settle()
        ends = collections.Counter((line["tool_called"], line["outcome"]) for line in lines if line["tool_called"])
        claim(ends[("slow", "client_gone")] == 5 and ends[("cut", "upstream_failed")] == 5, str(ends))


@case
def pasted_secret(folder):
    secret = "the-very-secret-value-4711"
    settings = {"credentials": {"provider": "env"}}
    with Run(folder / "audit.jsonl", environment={"ARBITER_CRED_KEY": secret}, **settings) as run:
        for arguments in [{"note": f"it is {secret}!"}, {secret: [secret.encode().hex()]}, {"x": "y" * 9_000 + secret}]:
            status, _ = run.client.call("work", arguments)
            claim(status == 200, f"answered with {status}")
        run.client.call(f"tool-{secret}", {})
        run.settle()
        for file in folder.iterdir():
            content = file.read_bytes()
            claim(secret.encode() not in content, f"the secret stands in {file.name}")
            claim(secret.encode().hex().encode() not in content, f"the secret stands in {file.name} in hex")


def main():
    if os.environ.get("ARBITER_FAIL_AUDIT") != "inside":
        if os.geteuid() != 0:
            sys.exit("fail_audit.py mounts disks and makes files immutable: run it as root")
        os.environ["ARBITER_FAIL_AUDIT"] = "inside"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
    failed = 0
    for name in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory(prefix="arbiter-fail-") as folder:
            try:
                CASES[name](pathlib.Path(folder))
                print(f"ok      {name}")
            except (AssertionError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
                failed += 1
                print(f"FAILED  {name}: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
