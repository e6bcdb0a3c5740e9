"""`python -m perdure.cli.reference FILE`: write the table of settings into a document, between two comments."""

import sys
from collections.abc import Iterator
from pathlib import Path

from perdure.config import Config
from perdure.settings import Setting, settings_of, written

__all__ = ["with_reference"]

BEGIN = "<!-- settings: written by `make settings` -->"
END = "<!-- end of settings -->"


def with_reference(text: str) -> str:
    """The document with the table as it should be."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document needs the lines {BEGIN} and {END}")
    return "\n".join([f"{before}{begin}", "", *_table(), "", f"{end}{after}"])


def _table() -> Iterator[str]:
    yield "| setting | default | |"
    yield "| --- | --- | --- |"
    for setting in settings_of(Config):
        description = f"{setting.description} {_allowed(setting)}".rstrip().replace("|", "\\|")
        yield f"| `{setting.name}` | {_default(setting)} | {description} |"


def _default(setting: Setting) -> str:
    return "" if setting.default in (None, (), "") else f"`{written(setting, setting.default)}`"


def _allowed(setting: Setting) -> str:
    return f"One of `{'`, `'.join(setting.choices)}`." if setting.choices else ""


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_reference(file.read_text(encoding="utf-8")), encoding="utf-8")
