"""Examples: each one runs with one command, and each one is tested."""
