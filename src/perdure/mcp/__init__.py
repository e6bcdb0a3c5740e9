"""Handlers as MCP tools: what `perdure mcp` serves. The client's side of MCP is `perdure.ai.mcp`.

`tools` says which tool a handler is, `gateway` asks a server of perdure, `server` speaks MCP, `serving` does so over
standard input and output or HTTP.
"""
