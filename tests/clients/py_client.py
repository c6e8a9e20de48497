"""The official Python client, versions 1 and 2, walking through a plan of steps and printing what it got as JSON.

    python py_client.py --url URL --plan FILE [--mode legacy|auto|2026-07-28] [--header name=value]...

It knows nothing of Arbiter: headers are all that is added. stdout holds the transcript, equal with and without a
gateway in between; a progress notification that does not arrive while its tool runs ends it with an error.
Modes other than `legacy` (the `initialize` handshake, up to 2025-11-25) need version 2 of the package.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import pathlib
import sys
import time

from mcp import types

VERSION_2 = int(importlib.metadata.version("mcp").split(".")[0]) >= 2


async def on_sampling(_context, params):
    text = params.messages[0].content.text
    content = types.TextContent(type="text", text=f"sampled: {text}")
    return types.CreateMessageResult(role="assistant", model="test-model", content=content)


@contextlib.asynccontextmanager
async def connect(url, mode, headers):
    """Yields (client, facts of the handshake). Version 1 has no `Client`, but its session answers to the same calls."""
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    async with create_mcp_http_client(headers=headers) as http:
        transport = streamable_http_client(url, http_client=http)
        if VERSION_2:
            from mcp import Client

            # No cache: each step of the plan is to reach the server.
            async with Client(transport, mode=mode, sampling_callback=on_sampling, cache=None) as client:
                yield client, {
                    "protocol": client.protocol_version,
                    "server": plain(client.server_info),
                    "capabilities": plain(client.server_capabilities),
                    "instructions": client.instructions,
                }
        else:
            from mcp import ClientSession

            async with transport as (read, write, _), ClientSession(
                read, write, sampling_callback=on_sampling
            ) as session:
                hello = await session.initialize()
                yield session, {
                    "protocol": hello.protocolVersion,
                    "server": plain(hello.serverInfo),
                    "capabilities": plain(hello.capabilities),
                    "instructions": hello.instructions,
                }


def plain(model):
    return model and model.model_dump(mode="json", by_alias=True, exclude_none=True)


def assert_live(step, arrivals, total):
    """Progress is worth something only while the tool still runs: its notifications must be spread over the run."""
    shown = f"{' '.join(f'{at * 1000:.0f}' for at in arrivals)} of {total * 1000:.0f} ms"
    print(f"progress at {shown}", file=sys.stderr)
    spread = arrivals[-1] - arrivals[0] if arrivals else 0
    if len(arrivals) != step["progress"] or arrivals[0] > total * 0.6 or spread < total * 0.4:
        raise SystemExit(f"{step['name']}: expected {step['progress']} notifications during the run, got {shown}")


async def call_tool(client, step):
    if not step.get("progress"):
        return plain(await client.call_tool(step["name"], step["arguments"]))
    started, arrivals, seen = time.monotonic(), [], []

    async def on_progress(progress, total, _message):
        arrivals.append(time.monotonic() - started)
        seen.append({"progress": progress, "total": total})

    result = plain(await client.call_tool(step["name"], step["arguments"], progress_callback=on_progress))
    assert_live(step, arrivals, time.monotonic() - started)
    return {**result, "test/progress": seen}


async def call_tools_at_once(client, step):
    return await asyncio.gather(*(call_tool(client, call) for call in step["calls"]))


async def complete(client, step):
    known = {"ref/prompt": types.PromptReference, "ref/resource": types.ResourceTemplateReference}
    ref = known[step["ref"]["type"]](**step["ref"])
    return plain(await client.complete(ref, step["argument"]))


def read_uri(uri):
    if VERSION_2:
        return uri
    from pydantic import AnyUrl

    return AnyUrl(uri)


OPERATIONS = {
    "list_tools": lambda client, _: client.list_tools(),
    "call_tool": call_tool,
    "call_tools_at_once": call_tools_at_once,
    "list_resources": lambda client, _: client.list_resources(),
    "list_resource_templates": lambda client, _: client.list_resource_templates(),
    "read_resource": lambda client, step: client.read_resource(read_uri(step["uri"])),
    "list_prompts": lambda client, _: client.list_prompts(),
    "get_prompt": lambda client, step: client.get_prompt(step["name"], step.get("arguments")),
    "complete": complete,
    "ping": lambda client, _: client.send_ping(),
    "set_log_level": lambda client, step: client.set_logging_level(step["level"]),
}


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--plan", required=True, type=pathlib.Path)
    parser.add_argument("--mode", default="legacy")
    parser.add_argument("--header", action="append", default=[])
    options = parser.parse_args()
    headers = dict(pair.split("=", 1) for pair in options.header)

    async with connect(options.url, options.mode, headers) as (client, transcript):
        transcript["steps"] = []
        for step in json.loads(options.plan.read_text()):
            result = await OPERATIONS[step["op"]](client, step)
            result = result if isinstance(result, (dict, list)) else plain(result)
            transcript["steps"].append({"op": step["op"], "result": result})
    print(json.dumps(transcript))


if __name__ == "__main__":
    asyncio.run(main())
