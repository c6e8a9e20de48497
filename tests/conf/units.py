"""The systemd units: right by systemd's own tools, and tried as systemd would run them, without systemd.

Both sockets are held and handed over, the process is the units' user's, has their environment and their filter of system
calls, and tells the notify socket how far it is.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
CONF = HERE.parents[1] / "conf"
sys.path.insert(0, str(HERE.parent / "support"))

from arbiter import binary  # noqa: E402

UNITS = [CONF / "systemd/arbiter.service", CONF / "systemd/arbiter.socket"]
PROGRAM = "/usr/local/bin/arbiter"
# Out of ten, in tenths: systemd calls up to 2.0 "OK".
MOST_EXPOSED = 20
PATIENCE = 60
NOBODY = 65534
KILL_PROCESS, ALLOW, DENY_WRITE_EXECUTE = 0x80000000, 0x7FFF0000, 65


def values(unit, key):
    lines = (line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return [value for name, value in lines if name == key]


def run(*command):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=PATIENCE)


def named(group):
    """The system calls of one of systemd's groups."""
    if not group.startswith("@"):
        return {group}
    done = run("systemd-analyze", "syscall-filter", group)
    words = (line.strip() for line in done.stdout.splitlines()[1:])
    return set().union(*(named(word) for word in words if word and not word.startswith("#")))


def allowed(service):
    calls = named("@default")
    for value in values(service, "SystemCallFilter"):
        groups = set().union(*map(named, value.lstrip("~").split()))
        calls = calls - groups if value.startswith("~") else calls | groups
    return calls


def confine(calls):
    """Has the kernel kill this process at any other system call, and refuse memory that can be written and run."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_rule_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint]
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    rules = library.seccomp_init(KILL_PROCESS)
    numbers = (library.seccomp_syscall_resolve_name(call.encode()) for call in calls)
    for number in numbers:
        if number >= 0 and library.seccomp_rule_add(rules, ALLOW, number, 0):
            raise OSError(f"no rule for system call {number}")
    ctypes.CDLL(None).prctl(DENY_WRITE_EXECUTE, 1, 0, 0, 0)  # kernels before 6.3 do not know it
    if library.seccomp_load(rules):
        raise OSError("the filter of system calls is not in force")


def become(order):
    """Turns this process into the one that systemd would start."""
    order = json.loads(order)
    for place, held in enumerate(order["sockets"], 3):
        os.dup2(held, place)
    if order["sockets"]:
        order["environment"] |= {"LISTEN_FDS": str(len(order["sockets"])), "LISTEN_PID": str(os.getpid())}
    os.chdir("/")
    os.umask(order["umask"])
    if os.geteuid() == 0:  # DynamicUser=yes
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    confine(order["calls"])
    os.execve(order["command"][0], order["command"], order["environment"])


class Service:
    """The service's commands, in a folder that has the places of /etc/arbiter and /var/lib/arbiter."""

    def __init__(self, folder, sockets):
        self.folder, unit = folder, UNITS[0]
        self.etc, self.state, self.program = folder / "etc", folder / "state", folder / "arbiter"
        self.state.mkdir(mode=0o700)
        shutil.copytree(CONF.parent / "policies", self.etc / "policies")
        shutil.copy(CONF / "arbiter.toml", self.etc)
        shutil.copy(binary(), self.program)
        if os.geteuid() == 0:
            os.chown(self.state, NOBODY, NOBODY)
            folder.chmod(0o755)
        given = dict(value.split("=", 1) for value in values(unit, "Environment"))
        given |= {"ARBITER_ADMIN_API_KEY": secrets.token_hex(24), "ARBITER_SIGNING_SECRET": secrets.token_hex(32)}
        for section, listener in zip(("PROXY", "ADMIN"), sockets, strict=True):  # as the units have it, on free ports
            given[f"ARBITER_{section}__LISTEN_ADDR"], port = listener.getsockname()
            given[f"ARBITER_{section}__LISTEN_PORT"] = str(port)
        self.environment = {name: self.here(value) for name, value in given.items()}
        self.calls = sorted(allowed(unit))
        self.umask = int(values(unit, "UMask")[0], 8)
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(folder / "notify"))
        (folder / "notify").chmod(0o666)
        self.notified.settimeout(PATIENCE)

    def here(self, text):
        places = {PROGRAM: self.program, "/etc/arbiter": self.etc, "/var/lib/arbiter": self.state}
        for place, path in places.items():
            text = text.replace(place, str(path))
        return text

    def start(self, key, sockets=(), **more):
        environment = self.environment | ({"NOTIFY_SOCKET": str(self.folder / "notify")} if sockets else {})
        held = [one.fileno() for one in sockets]
        command = self.here(values(UNITS[0], key)[0]).split()
        order = {"command": command, "environment": environment, "sockets": held, "calls": self.calls, "umask": self.umask}
        starter = [sys.executable, __file__, json.dumps(order)]
        return subprocess.Popen(starter, pass_fds=held, text=True, stderr=subprocess.STDOUT, **more)

    def told(self):
        return self.notified.recv(100).decode()

    def events(self):
        lines = (self.state / "audit.jsonl").read_text().splitlines()
        return [json.loads(line).get("event") for line in lines]


def ask(listener):
    """Sends a request on a connection that nobody may have accepted yet."""
    connection = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    return connection


def answered(connection):
    with connection:
        return connection.recv(100).startswith(b"HTTP/1.1 200 ")


def ended(process):
    code = process.wait(PATIENCE)
    return "killed by the filter of system calls" if code == -signal.SIGSYS else code


def life(folder, opened):
    """Problems of a service that is checked, started, reloaded, stopped and started again while its sockets stay."""
    sockets = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in values(UNITS[1], "ListenStream")]
    service = Service(folder, sockets)
    opened.enter_context(service.notified)
    output = {"stdout": opened.enter_context((folder / "log").open("w"))}
    log = folder / "log"
    check = service.start("ExecStartPre", **output)
    if (code := ended(check)) != 0:
        return [f"ExecStartPre: {code}: {log.read_text()[-1500:]}"]
    before = sorted(service.etc.rglob("*"))
    for turn in ("first", "second"):
        if turn == "first":
            waiting = [ask(listener) for listener in sockets]
        process = service.start("ExecStart", sockets, **output)
        opened.callback(lambda process=process: process.poll() is None and process.kill())
        try:
            told = service.told()
        except TimeoutError:
            told = f"nothing, ended: {process.poll()}"
        if told != "READY=1":
            return [f"the {turn} start told {told}: {log.read_text()[-1500:]}"]
        if not all(map(answered, waiting)):
            return [f"a connection from before the {turn} start was not answered"]
        process.send_signal(signal.SIGHUP)  # ExecReload
        end = time.monotonic() + PATIENCE
        while service.events().count("policy.reload") < (2 if turn == "first" else 4):
            if process.poll() is not None or time.monotonic() > end:
                return [f"SIGHUP reloads nothing: {process.poll()}"]
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        if (told := service.told()) != "STOPPING=1":
            return [f"at its end it told {told}"]
        if (code := ended(process)) != 0:
            return [f"it ended with {code}: {log.read_text()[-1500:]}"]
        waiting = [ask(listener) for listener in sockets]
    for connection in waiting:
        connection.close()
    problems = []
    if sorted(service.etc.rglob("*")) != before:
        problems.append("the folder of the configuration was written to")
    problems += [f"{path} is open to others" for path in service.state.rglob("*") if path.stat().st_mode & 0o077]
    return problems


def rules():
    with tempfile.TemporaryDirectory(prefix="arbiter-units-") as temporary:
        for unit in UNITS:
            text = unit.read_text().replace(PROGRAM, str(binary()))
            (pathlib.Path(temporary) / unit.name).write_text(text)
        copies = [pathlib.Path(temporary) / unit.name for unit in UNITS]
        for copy in copies:
            done = run("systemd-analyze", "verify", "--man=no", copy)
            if done.returncode or done.stderr.strip():
                yield f"systemd-analyze verify {copy.name}: {done.returncode} {done.stderr[-1500:]}"
        done = run("systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", copies[0])
        if done.returncode:
            yield f"systemd-analyze security: {done.stdout[-300:]}{done.stderr[-300:]}"


def problems():
    yield from rules()
    with tempfile.TemporaryDirectory(prefix="arbiter-units-") as temporary, contextlib.ExitStack() as opened:
        yield from life(pathlib.Path(temporary), opened)
    print("units: verified; started on held sockets, reloaded, stopped and started again")


if __name__ == "__main__":
    become(sys.argv[1])
