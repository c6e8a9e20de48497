"""The official Python client, versions 1 and 2, that opens pages for the person who uses it, calling `add`.

    python sent_client.py --url URL [--mode legacy|2026-07-28] [--header name=value]...

stdout, a JSON object a line: {"open": URL} for each page; then it waits for a line on stdin, as for a person who comes
back from there, and goes on. At the end {"result"} or {"refused": code}.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import sys

import mcp
from mcp import types
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import UrlElicitationRequiredError

VERSION_2 = int(importlib.metadata.version("mcp").split(".")[0]) >= 2
ProtocolError = mcp.MCPError if VERSION_2 else mcp.McpError


def say(what):
    print(json.dumps(what), flush=True)


async def open_page(url):
    say({"open": url})
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def on_elicitation(_context, params):
    await open_page(params.url)
    return types.ElicitResult(action="accept")


@contextlib.asynccontextmanager
async def connect(url, mode, headers):
    async with create_mcp_http_client(headers=headers) as http:
        transport = streamable_http_client(url, http_client=http)
        if VERSION_2:
            async with mcp.Client(transport, mode=mode, elicitation_callback=on_elicitation) as client:
                yield client
        else:
            async with transport as (read, write, _), mcp.ClientSession(
                read, write, elicitation_callback=on_elicitation
            ) as session:
                await session.initialize()
                yield session


async def called(client):
    try:
        return await client.call_tool("add", {"a": 20, "b": 22})
    except ProtocolError as error:
        if error.error.code != types.URL_ELICITATION_REQUIRED:
            raise
        for elicitation in UrlElicitationRequiredError.from_error(error.error).elicitations:
            await open_page(elicitation.url)
        return await client.call_tool("add", {"a": 20, "b": 22})


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--mode", default="legacy")
    parser.add_argument("--header", action="append", default=[])
    options = parser.parse_args()
    headers = dict(pair.split("=", 1) for pair in options.header)
    async with connect(options.url, options.mode, headers) as client:
        try:
            result = await called(client)
            say({"result": result.model_dump(mode="json", by_alias=True)["structuredContent"]})
        except ProtocolError as error:
            say({"refused": (error.error.data or {}).get("code")})


if __name__ == "__main__":
    asyncio.run(main())
