"""The official Python client, begins a task, asks about one, or listens for a resource; prints what came of it as JSON.

    python py_owner.py --url URL [--header name=value]... begin | ask TASK | listen URI

Tasks need version 1 of the package, `listen` version 2.
"""

import argparse
import asyncio
import json

from mcp import types

LISTEN_SECONDS = 20


async def noted(awaited):
    """What a request gave, or the error that it ended with."""
    try:
        return (await awaited).model_dump(mode="json", by_alias=True, exclude_none=True)
    except Exception as error:
        if not hasattr(error, "error"):
            raise
        return {"error": {"code": error.error.code, "message": error.error.message}}


async def tasks(options, http):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with streamable_http_client(options.url, http_client=http) as (read, write, _):
        async with ClientSession(read, write) as session:
            await session.initialize()
            mine = session.experimental
            if options.what == "begin":
                task = (await mine.call_tool_as_task("report", {})).task.taskId
                async for status in mine.poll_task(task):
                    assert status.status != "failed", status
                return {"task": task}
            return {
                "get": await noted(mine.get_task(options.about)),
                "result": await noted(mine.get_task_result(options.about, types.CallToolResult)),
                "list": await noted(mine.list_tasks()),
                "cancel": await noted(mine.cancel_task(options.about)),
            }


async def listen(options, http):
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    transport = streamable_http_client(options.url, http_client=http)
    async with Client(transport, mode="2026-07-28", cache=None) as client:
        try:
            async with asyncio.timeout(LISTEN_SECONDS), client.listen(resource_subscriptions=[options.about]) as events:
                await client.call_tool("touch", {"uri": options.about})
                async for event in events:
                    return {"heard": str(event.uri)}
        except Exception as error:
            if not hasattr(error, "error"):
                raise
            return {"error": {"code": error.error.code, "message": error.error.message}}
    return {}


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("what", choices=["begin", "ask", "listen"])
    parser.add_argument("about", nargs="?")
    options = parser.parse_args()
    from mcp.shared._httpx_utils import create_mcp_http_client

    async with create_mcp_http_client(headers=dict(pair.split("=", 1) for pair in options.header)) as http:
        print(json.dumps(await (listen if options.what == "listen" else tasks)(options, http)))


if __name__ == "__main__":
    asyncio.run(main())
