"""Methods of a framework's classes, replaced in all subclasses: those there are, and those to come."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from perdure.ai.base import durable_context, refuse_in_handler

__all__ = ["instrument", "only_of_the_handler"]

_DONE = "__perdure_durable__"
_MADE = "_perdure_made_in_handler"


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


def only_of_the_handler(base: type, methods: tuple[str, ...], instead: str) -> None:
    """Have these methods refused in a handler that did not make the object itself.

    It is for what keeps things in memory: made in the handler, a replay makes it again; older than the handler, a
    replay would find there what it has still to do. `instead` says what to use.
    """

    def make_init(original: Callable[..., None]) -> Callable[..., None]:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            self.__dict__[_MADE] = durable_context() is not None

        return init

    def make_refused(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.__dict__.get(_MADE):
                refuse_in_handler(f"an {base.__name__} that was not made in this handler ({instead})")
            return original(self, *args, **kwargs)

        return method

    instrument(base, {"__init__": make_init, **dict.fromkeys(methods, make_refused)})
