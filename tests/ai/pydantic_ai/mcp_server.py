"""An MCP server with one tool, over standard input and output; each call is a line in the file that it is given."""

import sys
from pathlib import Path

from mcp.server import MCPServer

server = MCPServer("weather")


@server.tool()
def forecast(place: str) -> str:
    """What the weather will be."""
    with Path(sys.argv[1]).open("a") as ledger:
        ledger.write(f"{place}\n")
    return f"rain in {place}"


if __name__ == "__main__":
    server.run()
