"""The inspector's command line, run once for each step of a plan; prints what it said as JSON.

    python inspector_client.py --node NODE --modules FOLDER --url URL --plan FILE [--mode legacy|auto|2026-07-28]
                               [--header name=value]...

It knows nothing of Arbiter: headers are all that is added. stdout holds the transcript, equal with and without a
gateway in between. Every step is a process and a handshake of its own, as a person at a shell would have them.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile

MAIN = "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
ERAS = {"legacy": "legacy", "auto": "auto", "2026-07-28": "modern"}
# The command line's own exit code for a tool that says `isError`.
TOOL_ERROR = 5
SECONDS_A_STEP = 60


def pairs(arguments):
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in arguments.items()]


def words(step):
    """A step of a plan as the command line's own words."""
    match step["op"]:
        case "initialize":
            return ["--method", "initialize"]
        case "set_log_level":
            return ["--method", "logging/setLevel", "--log-level", step["level"]]
        case "list_tools":
            return ["--method", "tools/list"]
        case "list_resources":
            return ["--method", "resources/list"]
        case "list_resource_templates":
            return ["--method", "resources/templates/list"]
        case "list_prompts":
            return ["--method", "prompts/list"]
        case "read_resource":
            return ["--method", "resources/read", "--uri", step["uri"]]
        case "get_prompt":
            given = pairs(step.get("arguments", {}))
            return ["--method", "prompts/get", "--prompt-name", step["name"], *(["--prompt-args", *given] if given else [])]
        case "call_tool":
            given = pairs(step["arguments"])
            return ["--method", "tools/call", "--tool-name", step["name"], *(["--tool-arg", *given] if given else [])]
        case other:
            raise SystemExit(f"the command line has no {other}")


def run(options, folder, step):
    command = [options.node, options.modules / MAIN, "--cli", options.url, "--transport", "http"]
    command += ["--protocol-era", ERAS[options.mode], "--format", "json", "--quiet", *words(step)]
    for header in options.header:
        name, value = header.split("=", 1)
        command += ["--header", f"{name}: {value}"]
    environment = {**os.environ, "HOME": folder, "MCP_CATALOG_PATH": f"{folder}/catalog.json"}
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=SECONDS_A_STEP, env=environment
    )
    if done.returncode not in (0, TOOL_ERROR):
        raise SystemExit(f"{words(step)} ended with {done.returncode}: {done.stdout[-500:]} {done.stderr[-1000:]}")
    result = json.loads(done.stdout)["result"]
    if bool(result.get("isError")) != (done.returncode == TOOL_ERROR):
        raise SystemExit(f"{words(step)} ended with {done.returncode} and said {done.stdout[-500:]}")
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", required=True)
    parser.add_argument("--modules", required=True, type=pathlib.Path)
    parser.add_argument("--url", required=True)
    parser.add_argument("--plan", required=True, type=pathlib.Path)
    parser.add_argument("--mode", default="legacy")
    parser.add_argument("--header", action="append", default=[])
    options = parser.parse_args()
    plan = json.loads(options.plan.read_text())
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as two:
        results = list(two.map(lambda step: run(options, folder, step), [{"op": "initialize"}, *plan]))
    hello, *results = results
    print(f"{len(plan) + 1} runs of the command line", file=sys.stderr)
    transcript = {
        "protocol": hello["protocolVersion"],
        "server": hello["serverInfo"],
        "capabilities": hello["capabilities"],
        "instructions": hello.get("instructions"),
        "steps": [{"op": step["op"], "result": result} for step, result in zip(plan, results)],
    }
    print(json.dumps(transcript))


if __name__ == "__main__":
    main()
