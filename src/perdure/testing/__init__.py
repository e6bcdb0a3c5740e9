"""For tests of handlers: `TestEngine` and what it raises, loaded when it is first asked for.

The fixture `perdure_engine` comes with the installation (`perdure.testing.pytest_plugin`).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.testing.harness import InvocationPaused, InvocationStuck, StepRun, TestEngine

__all__ = ["InvocationPaused", "InvocationStuck", "StepRun", "TestEngine"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'perdure.testing' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module("perdure.testing.harness"), name)
    globals()[name] = value
    return value
