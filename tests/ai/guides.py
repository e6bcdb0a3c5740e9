"""The code of a guide in docs/ai, executed as it stands there."""

import pathlib
import re
from typing import Any

__all__ = ["code_of"]

DOCS = pathlib.Path(__file__).parent.parent.parent / "docs" / "ai"


def code_of(guide: str) -> dict[str, Any]:
    """The names that the guide's Python code defines, all blocks in one module."""
    text = (DOCS / guide).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert blocks
    names: dict[str, Any] = {"__name__": guide}
    for block in blocks:
        lines = text[: text.index(block)].count("\n")
        exec(compile("\n" * lines + block, guide, "exec"), names)
    return names
