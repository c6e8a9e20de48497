"""The official Python client asks for tools and gets something that is no list, a moment after the head.

    python late_list.py --url URL [--header name=value]…

Prints how the request ended, as JSON; hangs where it never does.
"""

import argparse
import asyncio
import json

from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client


async def ask(url, headers):
    async with streamablehttp_client(url, headers=headers) as (read, write, _):
        async with ClientSession(read, write) as session:
            await session.initialize()
            return await session.list_tools()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--header", action="append", default=[])
    options = parser.parse_args()
    headers = dict(text.split("=", 1) for text in options.header)
    try:
        asyncio.run(ask(options.url, headers))
        print(json.dumps({"ended": "with tools"}))
    except BaseException as error:  # an ExceptionGroup, too
        print(json.dumps({"ended": type(error).__name__}))


if __name__ == "__main__":
    main()
