"""A server made with the official Python SDK 2, which speaks 2026-07-28 and the handshake versions before it.

    python py_server.py --ready-file FILE --seen FILE

It binds a free port of 127.0.0.1 and writes it to the ready file. The headers of every request are appended to the
`--seen` file, one JSON object a line: how the test knows what a gateway took off and put on.
"""

import argparse
import asyncio
import json
import pathlib
import socket

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

server = MCPServer("sdk-server", version="1", instructions="A small server for tests.")


class Sum(BaseModel):
    total: int


@server.tool()
def echo(message: str) -> str:
    """Returns what it was given."""
    return f"Echo: {message}"


@server.tool()
def add(a: int, b: int) -> Sum:
    """Adds two numbers; the answer is structured."""
    return Sum(total=a + b)


@server.tool()
def fail() -> str:
    """Fails, as tools do."""
    raise ValueError("this tool always fails")


@server.tool()
async def work(steps: int, step_ms: int, ctx: Context) -> str:
    """Takes its time and reports progress after each step."""
    for step in range(1, steps + 1):
        await asyncio.sleep(step_ms / 1000)
        await ctx.report_progress(step, steps)
    return f"{steps} steps done"


@server.tool()
async def touch(uri: str, ctx: Context) -> str:
    """Says of a resource that it has changed, to those who listen."""
    await ctx.notify_resource_updated(uri)
    return "touched"


@server.resource("test://greeting")
def greeting() -> str:
    """A fixed text."""
    return "Hello from a resource, with an ümlaut."


@server.resource("test://square/{number}")
def square(number: int) -> str:
    """A number's square."""
    return str(number * number)


@server.prompt()
def review(code: str) -> str:
    """Asks for a review."""
    return f"Please review:\n{code}"


def recording(app, seen):
    """ASGI middleware that writes down each request's headers."""

    async def record(scope, receive, send):
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            with seen.open("a") as out:
                out.write(json.dumps(headers) + "\n")
        await app(scope, receive, send)

    return record


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-file", required=True, type=pathlib.Path)
    parser.add_argument("--seen", required=True, type=pathlib.Path)
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0))
    app = recording(server.streamable_http_app(), options.seen)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    # Connections wait in the listener's queue until uvicorn serves, so the port may be told already.
    options.ready_file.write_text(f"{listener.getsockname()[1]}\n")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
