"""The overlays as a cluster would get them: rendered by kubectl, checked by schemas, by checkov, and by arithmetic."""

import json
import os
import pathlib
import re
import secrets
import subprocess
import sys
import tempfile
import tomllib

import jsonschema
import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).resolve().parent
CONF = HERE.parents[1] / "conf"
OVERLAYS = CONF / "kubernetes/overlays"
sys.path.insert(0, str(HERE.parent / "support"))

from arbiter import binary  # noqa: E402

# `trafficDistribution: PreferSameNode` is as old as the first of them.
VERSIONS = ("1.34", "1.35", "1.37")
MIB = 1 << 20
RECORD_BYTES = 1_005

# What checkov would have otherwise, and why it is as it is.
CHECKOV_EXCEPTIONS = {
    "CKV_K8S_8": "no liveness probe: a restart mends nothing that readiness does not show, and ends calls in flight",
    "CKV_K8S_11": "no CPU limit: throttling shows up as latency of every call",
    "CKV_K8S_15": "no pull policy Always: a node must be able to start its gateway without the registry",
    "CKV_K8S_35": "secrets by environment: the variables are read once and never logged",
    "CKV_K8S_43": "image by tag: the place for a digest is marked in base/kustomization.yaml; whoever builds the image has it",
}


def render(overlay):
    done = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise ValueError(f"{overlay.name} does not render: {done.stderr.strip()}")
    return done.stdout


def schema_problems(document):
    kind, version = document.get("kind"), document.get("apiVersion", "")
    name = f"{kind} {document.get('metadata', {}).get('name')}"
    own = HERE / "schemas" / f"{version.replace('/', '_')}_{kind}.json"
    if own.exists():
        errors = jsonschema.Draft7Validator(json.loads(own.read_text())).iter_errors(document)
        yield from (f"{name}: {error.message} at {list(error.path)}" for error in errors)
        return
    for kubernetes in VERSIONS:
        try:
            kubernetes_validate.validate(document, kubernetes, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name} for {kubernetes}: {error.message} at {list(error.path)}"
        except kubernetes_validate.SchemaNotFoundError:
            yield f"{name}: there is no schema for {version} {kind}"


def checkov_problems(path):
    program = pathlib.Path(sys.executable).with_name("checkov")
    command = [program, "--framework", "kubernetes", "-f", path, "-o", "json", "--compact", "--skip-download"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    report = json.loads(done.stdout)
    failed = {check["check_id"]: check for check in report["results"]["failed_checks"]}
    if not report["results"]["passed_checks"]:
        yield "checkov has looked at nothing"
    for check_id, check in failed.items():
        if check_id not in CHECKOV_EXCEPTIONS:
            yield f"{check_id} {check['check_name']}: {check['resource']}"
    for check_id in set(CHECKOV_EXCEPTIONS) - set(failed):
        yield f"the exception for {check_id} is not needed any more"


def reference_problems(documents):
    def named(kind):
        return {d["metadata"]["name"]: d for d in documents if d["kind"] == kind}

    if "arbiter" not in named("DaemonSet"):
        yield "there is no DaemonSet"
        return
    pod = named("DaemonSet")["arbiter"]["spec"]["template"]
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    if spec["serviceAccountName"] not in named("ServiceAccount"):
        yield "the DaemonSet's ServiceAccount does not exist"
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for mount in container["volumeMounts"]:
        if mount["name"] not in volumes:
            yield f"volume {mount['name']} does not exist"
    for volume in volumes.values():
        if "configMap" in volume and volume["configMap"]["name"] not in named("ConfigMap"):
            yield f"{volume} names no ConfigMap"
    ports = {port["name"] for port in container["ports"]}
    for name, service in named("Service").items():
        if not service["spec"]["selector"].items() <= pod["metadata"]["labels"].items():
            yield f"the Service {name} selects no pod"
        if not {port["targetPort"] for port in service["spec"]["ports"]} <= ports:
            yield f"the Service {name} names a port that no pod has"
    for monitor in named("PodMonitor").values():
        if not {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports:
            yield "the PodMonitor names a port that no pod has"
    spaces = set(named("Namespace"))
    for document in documents:
        space = document["metadata"].get("namespace")
        if space is not None and space not in spaces:
            yield f"namespace {space} does not exist"
    for entry in container["env"]:
        if "value" in entry and re.search("KEY|SECRET", entry["name"]):
            yield f"a secret is written out: {entry['name']}"
    quotas = [quota["spec"]["scopeSelector"]["matchExpressions"] for quota in named("ResourceQuota").values()]
    if not any(spec["priorityClassName"] in rule["values"] for rules in quotas for rule in rules):
        yield "no ResourceQuota admits the priority class"
    if {"operator": "Exists"} not in spec["tolerations"]:
        yield "tainted nodes get no gateway"


def size(text):
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", text).groups()
    return int(number) * (MIB if unit == "Mi" else 1024 * MIB)


def arithmetic_problems(documents):
    """Memory, time and disk follow from one another."""
    daemonset = next(d for d in documents if d["kind"] == "DaemonSet")
    pod = daemonset["spec"]["template"]["spec"]
    config = next(d["data"] for d in documents if d["kind"] == "ConfigMap")["arbiter.toml"]
    config = tomllib.loads(config)
    proxy, audit = config["proxy"], config["audit"]
    limit = size(pod["containers"][0]["resources"]["limits"]["memory"])
    need = 96 * MIB + proxy["max_calls_in_flight"] * 64 * 1024
    need += proxy["max_in_flight_body_bytes"] + 32 * proxy["max_response_body_bytes"]
    if need > 0.9 * limit:
        yield f"memory: the caps allow {need // MIB} MiB, which is more than nine tenths of {limit // MIB} MiB"
    if need < 0.5 * limit:
        yield f"memory: the caps allow {need // MIB} MiB only, of {limit // MIB} MiB"
    grace = pod["terminationGracePeriodSeconds"]
    if grace < proxy["drain_delay_secs"] + proxy["drain_timeout_secs"] + 10:
        yield f"time: {grace} s are too few for a drain"
    journal = proxy["max_calls_in_flight"] * 2048
    most = audit["rotate_bytes"] * (audit["keep_files"] + 1) + journal
    volume = 2048 * MIB
    state = next(v for v in pod["volumes"] if v["name"] == "state")
    if "emptyDir" in state:
        volume = size(state["emptyDir"]["sizeLimit"])
    if not audit["compress_rotated"] or most > 0.8 * volume:
        yield f"disk: logs may take {most // MIB} MiB of {volume // MIB} MiB"
    if audit["rotate_bytes"] < 1_000 * RECORD_BYTES:
        yield "disk: a closed file holds less than a thousand records"
    # Two processes cannot share one SQLite file, and a pod that has a volume of its own has a file of its own.
    shared = "hostPath" in state
    sqlite = not any(e["name"] == "ARBITER_STORAGE__BACKEND" for e in pod["containers"][0]["env"])
    rolling = daemonset["spec"]["updateStrategy"]["rollingUpdate"]
    if shared and sqlite and (rolling["maxSurge"], rolling["maxUnavailable"]) != (0, 1):
        yield f"an update would start two pods on one SQLite file: {rolling}"
    own_log = any(e["name"] == "ARBITER_AUDIT__FILE_PATH" for e in pod["containers"][0]["env"])
    if shared and rolling["maxSurge"] != 0 and not own_log:
        yield "an update would start two pods on one audit log"


def config_problems(documents):
    """Arbiter itself judges the files of the ConfigMap, with a pod's paths turned into ones of this machine."""
    data = next(d["data"] for d in documents if d["kind"] == "ConfigMap")
    with tempfile.TemporaryDirectory(prefix="arbiter-conf-") as temporary:
        folder = pathlib.Path(temporary)
        for name, text in data.items():
            (folder / name).write_text(text.replace("/etc/arbiter", temporary).replace("/var/lib/arbiter", temporary))
        environment = {
            **os.environ,
            "ARBITER_ADMIN_API_KEY": secrets.token_hex(32),
            "ARBITER_SIGNING_SECRET": secrets.token_hex(32),
            "ARBITER_STORAGE_ENCRYPTION_KEY": secrets.token_hex(32),
            # A tool server in a cluster cannot be looked up from here, and ports may be taken.
            "ARBITER_PROXY__UPSTREAM_URL": "http://127.0.0.1:8081/mcp",
            "ARBITER_PROXY__LISTEN_PORT": "0",
            "ARBITER_ADMIN__LISTEN_PORT": "0",
        }
        command = [str(binary()), "check", "--config", str(folder / "arbiter.toml")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            yield f"arbiter check: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def rule_problems(documents):
    """The PrometheusRule says what conf/prometheus/alerts.yml says."""
    groups = yaml.safe_load((CONF / "prometheus/alerts.yml").read_text())["groups"]
    for document in documents:
        if document["kind"] == "PrometheusRule" and document["spec"]["groups"] != groups:
            yield "the PrometheusRule is not that of conf/prometheus/alerts.yml"


def problems():
    overlays = sorted(path.parent for path in OVERLAYS.glob("*/kustomization.yaml"))
    if {path.name for path in overlays} != {"trial", "node-storage", "fleet"}:
        yield f"overlays: {[path.name for path in overlays]}"
    count = 0
    for overlay in overlays:
        try:
            text = render(overlay)
        except ValueError as error:
            yield str(error)
            continue
        documents = [document for document in yaml.safe_load_all(text) if document]
        count += len(documents)
        checks = [reference_problems, arithmetic_problems, config_problems, rule_problems]
        found = [problem for check in checks for problem in check(documents)]
        found += [problem for document in documents for problem in schema_problems(document)]
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as rendered:
            rendered.write(text)
            rendered.flush()
            found += checkov_problems(rendered.name)
        yield from (f"{overlay.name}: {problem}" for problem in found)
    print(f"{len(overlays)} overlays, {count} objects, Kubernetes {', '.join(VERSIONS)}")
