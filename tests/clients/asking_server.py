"""A server made with the official Python SDK 1 whose tools send people to a page (2025-11-25).

    python asking_server.py --ready-file FILE

`ask` sends a request on the stream of its answer, `demand` fails with the error -32042. Both take the page's address.
"""

import argparse
import pathlib
import socket

import uvicorn
from mcp import types
from mcp.server.fastmcp import Context, FastMCP
from mcp.shared.exceptions import UrlElicitationRequiredError

server = FastMCP("asking-server")


@server.tool()
async def ask(url: str, ctx: Context) -> str:
    """Asks for a page to be opened, and says what the person did."""
    return (await ctx.elicit_url("Please sign in", url, "sign-in")).action


@server.tool()
async def demand(url: str) -> str:
    """Demands that a page is opened first."""
    page = types.ElicitRequestURLParams(mode="url", message="Please sign in", url=url, elicitationId="sign-in")
    raise UrlElicitationRequiredError([page])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-file", required=True, type=pathlib.Path)
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(server.streamable_http_app(), log_level="warning", timeout_graceful_shutdown=1)
    options.ready_file.write_text(f"{listener.getsockname()[1]}\n")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
