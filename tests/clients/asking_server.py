"""A server made with the official Python SDK 1 whose tools send people to a page (2025-11-25).

    python asking_server.py --ready-file FILE

`ask` sends a request on the stream of its answer, `demand` fails with the error -32042. Both take the page's address.
"""

from mcp import types
from mcp.server.fastmcp import Context, FastMCP
from mcp.shared.exceptions import UrlElicitationRequiredError

from serve import serve

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


if __name__ == "__main__":
    serve(server.streamable_http_app())
