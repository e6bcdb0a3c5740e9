"""L1, pure: `apply(tables, command) -> actions`. No asyncio, no clock, no chance, no socket, no disk."""
