#!/usr/bin/env python3
"""Checks what ships in conf/ as far as that goes without a cluster: schemas, references, names of metrics.

    target/tools/python/bin/python tests/conf/check_conf.py         (tests/run conf makes that interpreter)

- every manifest against the schema of its kind (offline, from the package kubernetes-validate), strictly;
- every ConfigMap, ServiceAccount, port and volume that a manifest names exists, selectors select;
- the arbiter.toml and policies.toml inside the ConfigMap pass `arbiter check`;
- alert rules and the dashboard use only metrics that Arbiter has.
"""

import json
import os
import pathlib
import re
import secrets
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).resolve().parent
CONF = HERE.parents[1] / "conf"
sys.path.insert(0, str(HERE.parent / "support"))

from arbiter import binary  # noqa: E402

KUBERNETES = "1.34"

# The names of the contract; a histogram is asked for by its `_bucket`, `_sum` and `_count`.
METRICS = set(
    """arbiter_requests_total arbiter_denials_total arbiter_tool_calls_total arbiter_anomalies_total arbiter_active_sessions arbiter_registered_agents
    arbiter_audit_records_total arbiter_audit_syncs_total arbiter_audit_healthy arbiter_credentials_injected_total arbiter_credentials_scrubbed_total arbiter_policy_version_info
    arbiter_build_info up""".split()
)
for histogram in ("arbiter_request_duration_seconds", "arbiter_upstream_duration_seconds", "arbiter_overhead_seconds"):
    METRICS |= {f"{histogram}_{part}" for part in ("bucket", "sum", "count")}

problems = []


def claim(holds, text):
    if not holds:
        problems.append(text)


def load(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def manifests():
    folder = CONF / "kubernetes"
    listed = load(folder / "kustomization.yaml")[0]["resources"]
    there = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    claim(set(listed) == there, f"kustomization.yaml lists {sorted(listed)}, there are {sorted(there)}")
    return [(name, document) for name in listed for document in load(folder / name)]


def check_schemas(documents):
    for name, document in documents:
        what = f"{name}: {document.get('kind')} {document.get('metadata', {}).get('name')}"
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.append(f"{what}: {error.message} at {list(error.path)}")


def check_references(documents):
    def named(kind):
        return {d["metadata"]["name"]: d for _, d in documents if d["kind"] == kind}

    pod = named("DaemonSet")["arbiter"]["spec"]["template"]
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    labels = pod["metadata"]["labels"].items()
    claim(spec["serviceAccountName"] in named("ServiceAccount"), "the DaemonSet's ServiceAccount does not exist")
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for mount in container["volumeMounts"]:
        claim(mount["name"] in volumes, f"volume {mount['name']} does not exist")
    for volume in volumes.values():
        if "configMap" in volume:
            claim(volume["configMap"]["name"] in named("ConfigMap"), f"{volume} names no ConfigMap")
    service = named("Service")["arbiter"]["spec"]
    claim(service["selector"].items() <= labels, "the Service selects no pod")
    ports = {port["name"] for port in container["ports"]}
    claim({port["targetPort"] for port in service["ports"]} <= ports, "the Service names a port that no pod has")
    for _, document in documents:
        space = document["metadata"].get("namespace")
        claim(space is None or space in named("Namespace"), f"namespace {space} does not exist")
    literal = [e["name"] for e in container["env"] if "value" in e and re.search("KEY|SECRET", e["name"])]
    claim(not literal, f"secrets written out: {literal}")


def check_shipped_config(documents):
    """Arbiter itself judges the files of the ConfigMap, with the paths of a pod turned into ones of this machine."""
    data = next(d["data"] for _, d in documents if d["kind"] == "ConfigMap")
    with tempfile.TemporaryDirectory(prefix="arbiter-conf-") as temporary:
        folder = pathlib.Path(temporary)
        for name, text in data.items():
            text = text.replace("/etc/arbiter", temporary).replace("/var/lib/arbiter", temporary)
            (folder / name).write_text(text)
        environment = {
            **os.environ,
            "ARBITER_ADMIN_API_KEY": secrets.token_hex(32),
            "ARBITER_SIGNING_SECRET": secrets.token_hex(32),
            "ARBITER_STORAGE_ENCRYPTION_KEY": secrets.token_hex(32),
            "ARBITER_AUDIT__FILE_PATH": str(folder / "audit.jsonl"),
            # A tool server in a cluster cannot be looked up from here.
            "ARBITER_PROXY__UPSTREAM_URL": "http://127.0.0.1:8081/mcp",
        }
        command = [str(binary()), "check", "--config", str(folder / "arbiter.toml")]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
            claim(done.returncode == 0, f"arbiter check: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        except OSError as error:
            problems.append(f"arbiter check could not run: {error}")


def metric_names(expression):
    """The identifiers of a PromQL expression that are metrics: not functions, keywords, labels or strings."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(by|without)\s*\([^)]*\)', " ", expression)
    return {
        word
        for word in re.findall(r"\b[a-z_]\w*\b(?!\s*\()", bare)
        if word not in {"sum", "count", "min", "max", "avg", "topk", "and", "or", "unless"}
    }


def check_metrics():
    rules = [rule for group in load(CONF / "prometheus/alerts.yml")[0]["groups"] for rule in group["rules"]]
    dashboard = json.loads((CONF / "grafana/arbiter.json").read_text())
    queries = [(rule["alert"], rule["expr"]) for rule in rules]
    queries += [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]
    for where, expression in queries:
        names = metric_names(expression)
        claim(names and names <= METRICS, f"{where}: {sorted(names - METRICS) or 'no metric at all'}")
    claim(load(CONF / "prometheus/scrape.yml")[0]["scrape_configs"], "nothing is scraped")
    return len(queries)


def check_patch(overlay, documents, target, patch):
    """A patch is a part of what it is laid over, or says where in it something is added."""
    there = [d for _, d in documents if d["kind"] == target["kind"] and d["metadata"]["name"] == target["name"]]
    claim(there, f"overlay {overlay}: there is no {target['kind']} {target['name']}")
    if isinstance(patch, dict):
        claim(patch["kind"] == target["kind"], f"overlay {overlay}: a patch misses its target")
        return
    for step in patch:
        place = there[0] if there else {}
        for key in step["path"].split("/")[1:-1]:
            place = place.get(key, {}) if isinstance(place, dict) else {}
        claim(place, f"overlay {overlay}: {step['path']} is nowhere in {target['kind']} {target['name']}")


def main():
    documents = manifests()
    check_schemas(documents)
    check_references(documents)
    for overlay in (CONF / "kubernetes/overlays").glob("*/kustomization.yaml"):
        for patch in load(overlay)[0]["patches"]:
            check_patch(overlay.parent.name, documents, patch["target"], yaml.safe_load(patch["patch"]))
    check_shipped_config(documents)
    queries = check_metrics()
    print("\n".join(problems))
    print(f"{len(documents)} manifests for Kubernetes {KUBERNETES}, {queries} queries: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
