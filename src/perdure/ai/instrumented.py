"""Methods of a framework's classes, replaced in all subclasses: those there are, and those to come."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["instrument"]

_DONE = "__perdure_durable__"


def instrument(base: type, methods: Mapping[str, Callable[[Any], Any]]) -> None:
    """Have each of these methods wrapped by its function, wherever `base` or a class below it defines it."""

    def wrap(cls: type) -> None:
        for name, make in methods.items():
            original = cls.__dict__.get(name)
            if inspect.isfunction(original) and not hasattr(original, _DONE):
                durable = functools.wraps(original)(make(original))
                setattr(durable, _DONE, True)
                setattr(cls, name, durable)

    inherited = base.__dict__.get("__init_subclass__")

    def init_subclass(cls: Any, /, **options: Any) -> None:
        if inherited is None:
            super(base, cls).__init_subclass__(**options)  # type: ignore[arg-type]
        else:
            inherited.__func__(cls, **options)
        wrap(cls)

    base.__init_subclass__ = classmethod(init_subclass)  # type: ignore[assignment]
    pending: list[type] = [base]
    while pending:
        cls = pending.pop()
        wrap(cls)
        pending += cls.__subclasses__()
