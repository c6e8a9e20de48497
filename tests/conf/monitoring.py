"""Alerts and dashboard: every query is understood by Prometheus and names series that a running Arbiter has."""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import yaml

HERE = pathlib.Path(__file__).resolve().parent
CONF = HERE.parents[1] / "conf"
sys.path.insert(0, str(HERE.parent / "support"))

from arbiter import Arbiter, request  # noqa: E402

WORDS = {"sum", "count", "min", "max", "avg", "topk", "and", "or", "unless", "on", "by", "without", "offset"}


class Measured(Arbiter):
    """A gateway that has everything there are series for: TLS and an identity provider too."""

    def _config(self):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90"]
        command += ["-subj", "/CN=localhost", "-keyout", self.folder / "tls.key", "-out", self.folder / "tls.pem"]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        tls = f'[proxy.tls]\ncert_file = "{self.folder}/tls.pem"\nkey_file = "{self.folder}/tls.key"\n'
        issuer = '[[oauth.issuers]]\nname = "idp"\nissuer_url = "https://127.0.0.1:9"\naudiences = ["a"]\n'
        issuer += 'jwks_uri = "http://127.0.0.1:9/jwks"\n'
        return f"{super()._config()}\n{tls}{issuer}"

    def scrape(self):
        # What is counted by reload is there once something was reloaded.
        self.process.send_signal(1)
        end = time.monotonic() + 20
        while True:
            _, _, text = request(self.admin_url + "/metrics")
            if "arbiter_reload_success_timestamp_seconds" in text or time.monotonic() > end:
                break
            time.sleep(0.05)
        return text


def names(expression):
    """The metrics of a PromQL expression: not functions, keywords, labels or strings."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)|\b\d+[smhd]\b', " ", expression)
    return {word for word in re.findall(r"\b[a-z_]\w*\b(?!\s*\()", bare) if word not in WORDS}


def dashboard_queries():
    dashboard = json.loads((CONF / "grafana/arbiter.json").read_text())
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    if not {"job", "instance"} <= variables:
        raise ValueError("the dashboard has no variables `job` and `instance`")
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            if "{" in expression and expression.count('job=~"$job",instance=~"$instance"') < expression.count("arbiter_") // 2:
                raise ValueError(f"{panel['title']}: a selector without $job and $instance")
            for total in ("max", "sum"):
                known = expression.replace("$total", total).replace("$__rate_interval", "5m")
                yield panel["title"], known.replace("$job", ".+").replace("$instance", ".+")


def alert_queries():
    groups = yaml.safe_load((CONF / "prometheus/alerts.yml").read_text())["groups"]
    return [(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]


def promtool(*arguments):
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120)
    return None if done.returncode == 0 else (done.stdout + done.stderr)[-3000:]


def problems():
    alerts, panels = alert_queries(), list(dashboard_queries())
    with Measured("http://127.0.0.1:9/mcp") as gateway:
        text = gateway.scrape()
    there = set(re.findall(r"^([a-z_]\w*)[ {]", text, re.MULTILINE)) | {"up"}
    for name in sorted(there - {"up"}):
        if not name.startswith(("arbiter_", "process_")):
            yield f"{name} does not begin with arbiter_"
    for where, expression in alerts + panels:
        used = names(expression)
        if not used or used - there:
            yield f"{where}: {sorted(used - there) or 'no metric at all'}"
    asked = set().union(*(names(expression) for _, expression in alerts + panels))
    bare = {re.sub("_(bucket|sum|count)$", "", name) for name in asked}
    for name in sorted(there):
        if re.sub("_(bucket|sum|count)$", "", name) not in bare | {"process_virtual_memory_bytes"}:
            yield f"{name} is in no panel and no alert"
    with tempfile.TemporaryDirectory(prefix="arbiter-prometheus-") as temporary:
        folder = pathlib.Path(temporary)
        rules = [{"record": f"panel:{n}", "expr": expression} for n, (_, expression) in enumerate(panels)]
        (folder / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
        scrape = folder / "scrape.yml"
        scrape.write_text((CONF / "prometheus/scrape.yml").read_text())
        for arguments in (
            ("check", "rules", folder / "panels.yml"),
            ("check", "rules", CONF / "prometheus/alerts.yml"),
            ("check", "config", "--syntax-only", scrape),
            ("test", "rules", HERE / "alerts_test.yml"),
        ):
            said = promtool(*arguments)
            if said:
                yield f"promtool {' '.join(map(str, arguments[:2]))}: {said}"
    tests = (HERE / "alerts_test.yml").read_text()
    for alert, _ in alerts:
        fires = f'ALERTS{{alertname="{alert}",alertstate="firing"}}' in tests
        if not fires or f"alertname: {alert} }}" not in tests:
            yield f"{alert}: no test in which it fires, or none in which it does not"
    print(f"{len(alerts)} alerts, {len(panels) // 2} panel queries, {len(there)} series")
