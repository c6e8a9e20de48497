"""The official Python client 1 calling a tool that sends its person to a page; prints the addresses that it was asked to
open, and how the call ended, as JSON.

    python asking_client.py --url URL --tool NAME --page URL [--header name=value]...
"""

import argparse
import asyncio
import json

from mcp import ClientSession, McpError, types
from mcp.client.streamable_http import streamablehttp_client


async def main():
    parser = argparse.ArgumentParser()
    for name in ("--url", "--tool", "--page"):
        parser.add_argument(name, required=True)
    parser.add_argument("--header", action="append", default=[])
    options = parser.parse_args()
    headers = dict(pair.split("=", 1) for pair in options.header)
    pages = []

    async def on_elicitation(_context, params):
        pages.append(params.url)
        return types.ElicitResult(action="accept")

    async with streamablehttp_client(options.url, headers=headers) as (read, write, _):
        async with ClientSession(read, write, elicitation_callback=on_elicitation) as session:
            await session.initialize()
            try:
                result = await session.call_tool(options.tool, {"url": options.page})
                ended = result.content[0].text
            except McpError as error:
                ended = error.error.code
                pages += [page["url"] for page in (error.error.data or {}).get("elicitations", [])]
    print(json.dumps({"pages": pages, "ended": ended}))


if __name__ == "__main__":
    asyncio.run(main())
