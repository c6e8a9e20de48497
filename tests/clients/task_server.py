"""A server made with the official Python SDK 1, whose tool `report` goes on as a task (2025-11-25).

    python task_server.py --ready-file FILE

Its task ids are numbers in a row, and whoever names one gets the task: the SDK ties a task to its session only where
the SDK itself has chosen the id. So what keeps one agent from another's task is whatever is in front of the server.
"""

import argparse
import contextlib
import itertools
import pathlib
import socket
import warnings

import uvicorn
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.routing import Mount

warnings.filterwarnings("ignore", category=DeprecationWarning)
server = Server("task-server")
server.experimental.enable_tasks()
numbers = itertools.count(1041)


@server.list_tools()
async def list_tools():
    execution = types.ToolExecution(taskSupport="required")
    return [types.Tool(name="report", inputSchema={"type": "object"}, execution=execution)]


@server.call_tool()
async def call_tool(_name, _arguments):
    async def work(_task):
        return types.CallToolResult(content=[types.TextContent(type="text", text="a private report")])

    return await server.request_context.experimental.run_task(work, task_id=f"task-{next(numbers)}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-file", required=True, type=pathlib.Path)
    options = parser.parse_args()
    manager = StreamableHTTPSessionManager(server, json_response=True)

    @contextlib.asynccontextmanager
    async def lifespan(_app):
        async with manager.run():
            yield

    app = Starlette(routes=[Mount("/mcp", manager.handle_request)], lifespan=lifespan)
    listener = socket.create_server(("127.0.0.1", 0))
    options.ready_file.write_text(f"{listener.getsockname()[1]}\n")
    uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)).run(sockets=[listener])


if __name__ == "__main__":
    main()
