"""An MCP server over stdio, to be asked by agents under test."""

import os

from mcp.server import MCPServer

server = MCPServer("lab")


@server.tool()
def measure(what: str) -> str:
    """Measures something."""
    with open(os.environ["PERDURE_TEST_MEASURED"], "a") as ledger:
        ledger.write(f"{what}\n")
    return f"{what}: 7"


if __name__ == "__main__":
    server.run()
