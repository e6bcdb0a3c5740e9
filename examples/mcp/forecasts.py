"""An MCP server, as they are everywhere: it knows nothing of perdure. Over standard input and output."""

from mcp.server import MCPServer

server = MCPServer("forecasts")


@server.tool()
def weather(place: str) -> str:
    """The weather in a place."""
    return f"It rains in {place}."


if __name__ == "__main__":
    server.run()
