"""The tree is the architecture (docs/architecture.md). This file keeps it true."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent / "src" / "perdure"

MAY_IMPORT: dict[str, set[str]] = {  # package (or top-level module) -> what it may import besides itself
    "errors": set(),
    "model": {"errors"},
    "core": {"errors", "model"},
    "protocol": {"errors", "model"},
    "telemetry": {"errors", "model"},
    "storage": {"errors", "model", "core", "protocol", "telemetry"},
    "transports": {"errors", "model", "protocol"},
    "sdk": {"errors", "model", "protocol"},
    "builtin": {"errors", "model", "protocol", "sdk"},
    "prices": {"errors"},
    "ai": {"errors", "model", "protocol", "sdk", "prices"},
    "mcp": {"errors", "sdk"},
    "runtime": {"errors", "model", "core", "protocol", "storage", "transports", "telemetry"},
    "sql": {"errors", "model", "core", "protocol"},
    "web": {"errors", "model", "protocol", "runtime", "sql", "telemetry"},
    "settings": {"errors", "web"},
    "config": {"errors", "model", "settings"},
}
COMPOSITION = {"__init__", "__main__", "assembly", "cli", "embedded", "server", "testing"}  # may import anything
PURE = {"errors", "model", "core", "protocol"}
IMPURE = {"asyncio", "os", "random", "secrets", "socket", "sqlite3", "threading", "time", "uuid"}
GENERATED = {"wire_pb2.py"}
BANNED = {  # a call -> what to use instead
    "datetime.now": "the command's `at`, or a Clock",
    "time.time": "a Clock",
    "time.sleep": "a Clock",
}
CLOCKS = {"runtime/clock.py", "runtime/watchdog.py"}  # the only files that look at a real clock

FILES = sorted(path for path in ROOT.rglob("*.py") if path.name not in GENERATED)


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            if node.module == "perdure":
                yield from (f"perdure.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def layer_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file(path: pathlib.Path) -> None:
    source = path.read_text()
    tree = ast.parse(source)
    layer = layer_of(path)
    assert layer in MAY_IMPORT or layer in COMPOSITION, "give it a layer"
    for name in imports(tree):
        head, _, rest = name.partition(".")
        if head == "perdure" and layer in MAY_IMPORT:
            assert rest.split(".")[0] in {layer} | MAY_IMPORT[layer], f"imports {name}: the arrow points up"
        if layer in PURE:
            assert head not in IMPURE, f"imports {name}: this layer is pure"
    assert source.count("\n") <= 800, "split it: no file above 800 lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 70, f"{node.name} has {length} lines: no function above 70"
        if isinstance(node, ast.Call) and str(path.relative_to(ROOT)) not in CLOCKS and layer != "testing":
            called = ast.unparse(node.func)
            assert called not in BANNED, f"line {node.lineno}: {called}; use {BANNED[called]}"


@pytest.mark.parametrize("path", sorted((ROOT / "ai").rglob("*.py")), ids=lambda path: path.name)
def test_integrations_use_public_names_of_the_sdk(path: pathlib.Path) -> None:
    from importlib import import_module

    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("perdure.sdk.", "perdure.model.")):
            public = import_module(node.module or "").__all__
            assert {alias.name for alias in node.names} <= set(public), f"{path.name}: a private name of {node.module}"


def test_no_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "helpers", "common", "manager", "misc"}
    assert not [path for path in ROOT.rglob("*") if path.stem in drawers]


def test_every_command_and_action_has_its_one_function() -> None:
    from typing import get_args

    from perdure.core.journal import ENTRIES
    from perdure.core.partition import HANDLERS, MESSAGES
    from perdure.model import actions, commands, entries
    from perdure.runtime.perform import PERFORMERS

    assert HANDLERS.keys() == set(get_args(commands.PartitionCommand))
    assert MESSAGES.keys() == set(get_args(commands.Message))
    assert PERFORMERS.keys() == set(get_args(actions.Action))
    called = {entries.Call, entries.OneWayCall}  # they come with their callee, in a command of their own
    assert ENTRIES.keys() | called | {entries.Input} == set(get_args(entries.Command))


def test_every_status_has_a_row_in_the_transition_table() -> None:
    from typing import get_args

    from perdure.core.lifecycle import ALLOWED
    from perdure.model.invocation import Status

    assert ALLOWED.keys() == set(get_args(Status))
