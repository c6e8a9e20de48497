"""The official Python client 2 calling `order`, whose questions it answers with themselves; prints the result's text.

    python rounds_client.py --url URL [--header name=value]...
"""

import argparse
import asyncio

from mcp import Client, types
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client


async def on_elicitation(_context, params):
    return types.ElicitResult(action="accept", content={"answer": f"<{params.message}>"})


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--header", action="append", default=[])
    options = parser.parse_args()
    headers = dict(pair.split("=", 1) for pair in options.header)
    async with create_mcp_http_client(headers=headers) as http:
        transport = streamable_http_client(options.url, http_client=http)
        async with Client(transport, mode="2026-07-28", elicitation_callback=on_elicitation) as client:
            result = await client.call_tool("order", {"item": "mug"})
    print(result.content[0].text)


if __name__ == "__main__":
    asyncio.run(main())
