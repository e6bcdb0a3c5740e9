# mypy: ignore-errors
"""What the endpoint is told by its environment, and the files that make its side effects visible to the tests."""

import asyncio
import os
from pathlib import Path

PREFIX = os.environ.get("PREFIX", "")
VERSION = os.environ.get("VERSION", "v1")
_DIRECTORY = Path(os.environ["WITNESS_DIR"])


def note(witness: str, text: object = "") -> int:
    """Append a line; how many there are with it."""
    path = _DIRECTORY / witness
    with path.open("a") as file:
        file.write(f"{text}\n")
    return path.read_text().count("\n")


def is_open(gate: str) -> bool:
    return (_DIRECTORY / f"{gate}.open").exists()


async def opened(gate: str) -> None:
    while not is_open(gate):  # noqa: ASYNC110 - it is opened by another process
        await asyncio.sleep(0.01)
