"""The compose file: valid by the Compose specification, whose files are all there, and with settings that Arbiter knows."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import yaml

HERE = pathlib.Path(__file__).resolve().parent
CONF = HERE.parents[1] / "conf"
FILE = CONF / "compose/compose.yaml"
sys.path.insert(0, str(HERE.parent / "support"))

from arbiter import binary  # noqa: E402

# What can be looked at only within the stack: names of other services, and a Redis.
WITHIN = {"storage", "upstream"}


def run(*command, **more):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, **more)


def schema_problems():
    done = run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", FILE)
    if done.returncode:
        yield f"{FILE.name}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def file_problems(services):
    for name, service in services.items():
        for mount in service.get("volumes", []):
            source = mount.split(":", 1)[0]
            if source.startswith(".") and not (FILE.parent / source).is_file():
                yield f"{name}: no file {source}"
        if "build" in service and not (FILE.parent / service["build"] / "Dockerfile").is_file():
            yield f"{name}: no Dockerfile in {service['build']}"


def network_problems(stack):
    """Agents reach the tools through Arbiter only, and nothing is open beyond this machine."""
    services = stack["services"]
    if services["tools"]["networks"] != ["backend"] or not stack["networks"]["backend"]["internal"]:
        yield "the MCP server can be reached without Arbiter"
    for name, service in services.items():
        yield from (f"{name}: {port} is open to others" for port in service.get("ports", []) if not port.startswith("127.0.0.1:"))


def setting_problems(service):
    environment = {**os.environ, **service["environment"]}
    environment |= {"ARBITER_ADMIN_API_KEY": "x7" * 24, "ARBITER_SIGNING_SECRET": "y9" * 32}
    with tempfile.TemporaryDirectory(prefix="arbiter-stack-") as temporary:
        environment["ARBITER_AUDIT__FILE_PATH"] = f"{temporary}/audit.jsonl"
        command = [binary(), "check", "--json", "--socket-activated", "--config", CONF / "arbiter.toml"]
        done = run(*command, env=environment, cwd=CONF.parent)
    try:
        findings = json.loads(done.stdout)
    except ValueError:
        yield f"arbiter check: {done.returncode} {done.stdout[-1000:]}{done.stderr[-1000:]}"
        return
    for finding in findings:
        if finding["result"] == "fail" and finding["what"] not in WITHIN:
            yield f"arbiter check: {finding['what']}: {finding['text']}"


def scrape_problems(service):
    """Prometheus itself reads its file, with the rules in their place."""
    with tempfile.TemporaryDirectory(prefix="arbiter-stack-") as temporary:
        text = ""
        for mount in service["volumes"]:
            source, target, _ = mount.split(":")
            copy = pathlib.Path(temporary) / pathlib.Path(target).name
            copy.write_text((FILE.parent / source).read_text().replace("/etc/prometheus", temporary))
            text = str(copy) if copy.name == "prometheus.yml" else text
        done = run("promtool", "check", "config", text)
        if done.returncode:
            yield f"promtool check config: {done.stdout[-1000:]}{done.stderr[-1000:]}"


def problems():
    yield from schema_problems()
    stack = yaml.safe_load(FILE.read_text())
    services = stack["services"]
    yield from file_problems(services)
    yield from network_problems(stack)
    yield from setting_problems(services["arbiter"])
    yield from scrape_problems(services["prometheus"])
    print(f"compose: {len(services)} services")
