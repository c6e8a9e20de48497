"""A server made with the official Python SDK 2 whose tool asks twice before it answers (2026-07-28).

    python rounds_server.py --ready-file FILE

It binds a free port of 127.0.0.1 and writes it to the ready file.
"""

from mcp import types
from mcp.server.mcpserver import Context, MCPServer

from serve import serve

server = MCPServer("rounds-server", version="1")


def question(name, state):
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    params = types.ElicitRequestFormParams(message=f"Which {name}?", requested_schema=schema)
    return types.InputRequiredResult(input_requests={name: types.ElicitRequest(params=params)}, request_state=state)


@server.tool()
async def order(item: str, ctx: Context) -> str | types.InputRequiredResult:
    """Orders something after two questions."""
    given, state = ctx.input_responses or {}, ctx.request_state
    if state is None:
        return question("size", "size")
    if state == "size":
        return question("colour", given["size"].content["answer"])
    return f"{state} {given['colour'].content['answer']} {item}"


if __name__ == "__main__":
    serve(server.streamable_http_app())
