"""What the endpoint is told by its environment, and the files that make its side effects visible to the tests."""

import asyncio
import os
from pathlib import Path

PREFIX = os.environ.get("PREFIX", "")
VERSION = os.environ.get("VERSION", "v1")


def _path(name: str) -> Path:
    return Path(os.environ["WITNESS_DIR"]) / name


def note(witness: str, text: object = "") -> int:
    """Append a line; how many there are with it."""
    path = _path(witness)
    with path.open("a") as file:
        file.write(f"{text}\n")
    return path.read_text().count("\n")


def is_open(gate: str) -> bool:
    return _path(f"{gate}.open").exists()


async def opened(gate: str) -> None:
    while not is_open(gate):  # noqa: ASYNC110  # another process opens it
        await asyncio.sleep(0.01)
