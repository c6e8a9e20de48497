#!/usr/bin/env python3
"""Replays `mcp-defense-bench` through Arbiter, without a model: which attacks are stopped, and what is wrongly refused.

    load-tests/traces/defense.py [--write]

66 attacks in 37 vectors, each with a control that differs from it only in what is harmful, and 337 benign definitions,
calls, results and lists. Two set-ups: every session lists the tools of its case and all is allowed; the same with the
policies in `defense/policies.toml` and without forms that ask for secrets (`proxy.refuse_secret_forms`). An attack is
stopped if what it shows did not go through; an attack and its control are one case, so an attack whose control was
refused too counts as wrongly refused. Cases that are not seen on the wire (registries, artefacts, consent dialogues,
configurations) are outside. The bench also wants text to be found out that
would mislead a model; Arbiter reads no text, so such definitions and results are let through.

The run fails if one of the cases in `STOPPED` is let through, a control is refused, or more than 1 % of what is benign.
--write renews `load-tests/results/defense-bench.{md,json}`.
"""

import json
import sys

from defense_cases import Stage, cases
from replay import ALLOW_ALL, ROOT, Arbiter, Server, markdown

BENCH = "0.2.0"
AIM_REFUSED = 0.01
POLICIES = ROOT / "load-tests/traces/defense/policies.toml"
# Stopped whatever the policies are: continuations, caches, headers, origins.
STOPPED = ("dns-rebinding/", "header-body-desync/", "list-cache-poisoning/",
    "requeststate-forgery/001", "requeststate-forgery/002", "task-authz-bypass/", "tool-shadowing/", "transport-downgrade/")
PROXY = {"allowed_origins": ["http://localhost:7000"], "allowed_hosts": ["127.0.0.1"], "max_refusals_per_agent_per_sec": 100_000}
SET_UPS = [
    ("whitelist", ALLOW_ALL, PROXY),
    ("whitelist and policies", POLICIES.read_text(), {**PROXY, "refuse_secret_forms": True}),
]
# Stopped by the setting of the second.
ALSO_STOPPED = {"whitelist and policies": ("mrtr-input-phishing/001",)}
SETTINGS = {
    "sessions": {"max_concurrent_sessions_per_agent": 8, "default_time_limit_secs": 600},
    "admin": {"rate_limit_per_minute": 1_000_000},
}


def run(name, policies, proxy):
    """One set-up: the outcome of each attack with its control, and the benign cases that were refused."""
    server = Server()
    with Arbiter(server.url, policies=policies, settings={"proxy": proxy, **SETTINGS}) as gateway:
        stage = Stage(gateway, server)
        attacks = [(case["vector"], case["id"], judge(stage, case)) for case in cases("testcases")]
        played = [(case["id"], stage.play(case["fixture"])) for case in cases("testcases-benign")]
    seen = [(case, passed) for case, passed in played if passed is not None]
    return {
        "set_up": name, "attacks": {case: outcome for _, case, outcome in attacks},
        "benign": len(seen), "benign_outside": len(played) - len(seen), "refused": [case for case, passed in seen if not passed],
    }


def judge(stage, case):
    control = stage.play(case["benignControl"])
    if control is None:
        return "outside"
    if not control:
        return "wrongly refused"
    return "let through" if stage.play(case["fixture"], is_attack=True) else "stopped"


def vector(case):
    return case.split("/")[0]


def count(result, outcome):
    return sum(one == outcome for one in result["attacks"].values())


def report(results):
    outcomes = ["stopped", "let through", "wrongly refused", "outside"]
    rows = [
        [r["set_up"], *(count(r, outcome) for outcome in outcomes), f"{len(r['refused'])} of {r['benign']}"] for r in results
    ]
    by_vector = []
    for name in sorted({vector(case) for case in results[0]["attacks"]}):
        row = [name]
        for r in results:
            of = [outcome for case, outcome in r["attacks"].items() if vector(case) == name]
            seen = [outcome for outcome in of if outcome != "outside"]
            row.append(f"{seen.count('stopped')} of {len(seen)}" if seen else "outside")
        by_vector.append(row)
    refused = "".join(f"- {r['set_up']}: `{case}`\n" for r in results for case in r["refused"])
    return (
        f"# mcp-defense-bench {BENCH} through Arbiter, without a model\n\n"
        "Made by `load-tests/traces/defense.py --write`, whose head says what is counted; the policies of the second set-up are\n"
        "`load-tests/traces/defense/policies.toml`, written for the tools and not for the attacks; it also sets\n"
        "`proxy.refuse_secret_forms`.\n\n"
        + markdown(["set-up", *outcomes, "benign refused"], rows)
        + "\nStopped, by vector:\n\n"
        + markdown(["vector", *(r["set_up"] for r in results)], by_vector)
        + ("\nBenign cases that were refused:\n\n" + refused if refused else "")
    )


def main():
    results = [run(*set_up) for set_up in SET_UPS]
    print(report(results))
    if "--write" in sys.argv:
        out = ROOT / "load-tests/results/defense-bench"
        out.with_suffix(".md").write_text(report(results))
        out.with_suffix(".json").write_text(json.dumps({"version": BENCH, "results": results}, indent=1) + "\n")
    bad = [f"{r['set_up']}: {case}" for r in results for case, outcome in r["attacks"].items()
        if outcome != "stopped" and case.startswith(STOPPED + ALSO_STOPPED.get(r["set_up"], ())) or outcome == "wrongly refused"]
    bad += [f"{r['set_up']}: benign" for r in results if len(r["refused"]) > AIM_REFUSED * r["benign"]]
    if bad:
        sys.exit("not as it should be:\n" + "\n".join(bad))


if __name__ == "__main__":
    main()
