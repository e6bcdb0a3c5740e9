"""What a user defines: services, virtual objects, workflows, and the handlers in them.

A decorator registers a function and returns the function itself, so that it can be called in a test like any
other and given to `ctx.call` with its types. What perdure has to know is in its `__perdure_handler__`.
Annotations are looked at when they are first needed, so they may name what is defined further down the module.
"""

import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from types import NoneType
from typing import Any, Final, TypeAlias, TypedDict, TypeVar, Unpack, cast, get_type_hints, overload

from perdure.model.services import HandlerInfo, HandlerKind, RetryPolicy, ServiceInfo, ServiceKind
from perdure.sdk.serde import Serde, SerdeError, serde_for

__all__ = [
    "AnyService",
    "Duration",
    "HandlerDefinition",
    "HandlerOptions",
    "HandlerReference",
    "MainOptions",
    "Options",
    "Service",
    "ServiceOptions",
    "VirtualObject",
    "Workflow",
    "WorkflowOptions",
    "resolve_handler",
]

F = TypeVar("F", bound=Callable[..., Any])
Duration: TypeAlias = float | timedelta
"""Seconds, or a timedelta."""


class Options(TypedDict, total=False):
    """What can be said of a service, an object, a workflow or one handler; the handler's word counts for itself.

    An option that is None is one that is not given. Durations are seconds or timedeltas and not negative.
    """

    description: str | None
    """Shown by the console and the admin API. Of a handler: its docstring, unless given."""
    metadata: Mapping[str, str] | None
    """Shown with it, of no meaning to perdure."""
    private: bool | None
    """True: only other handlers can call it, HTTP clients cannot."""
    retry_policy: RetryPolicy | None
    """How failed attempts of an invocation are made again."""
    inactivity_timeout: Duration | None
    """How long an attempt that only waits stays in memory before it is suspended. One minute."""
    abort_timeout: Duration | None
    """How much longer it has to suspend before it is cut off. Ten minutes."""
    journal_retention: Duration | None
    """How long the journal is kept after the end. One day."""
    idempotency_retention: Duration | None
    """How long the result of a call with an idempotency key is kept. One day. Not for a workflow's main."""
    input_serde: Serde[Any] | None
    """Reads the argument, in place of what follows from its annotation."""
    output_serde: Serde[Any] | None
    """Writes the result, in place of what follows from its annotation."""
    lazy_state: bool | None
    """True: the state is read key by key where it is asked for, and does not come with the start of an attempt. For
    large states."""
    concurrency: int | None
    """At most so many invocations run at once, the others wait: of the whole service, or of the one handler."""


class ServiceOptions(Options, total=False):
    """The options of a `Service` or `VirtualObject`."""


class WorkflowOptions(Options, total=False):
    """The options of a `Workflow`."""

    workflow_retention: Duration | None
    """How long a finished workflow keeps its state, its promises and its result. One day."""


class HandlerOptions(Options, total=False):
    """The options of one handler."""

    name: str | None
    """What it is called by; the function's name, unless given."""


class MainOptions(HandlerOptions, total=False):
    """The options of a workflow's main."""

    workflow_retention: Duration | None
    """How long the finished workflow keeps its state, its promises and its result. One day."""


@dataclass(slots=True, frozen=True)
class HandlerReference:
    """Which handler to call; `definition` is known if the function itself was given."""

    service: str
    handler: str
    definition: "HandlerDefinition | None" = None


@dataclass(slots=True, eq=False)
class HandlerDefinition:
    """One handler as its decorator saw it; a function carries it as `__perdure_handler__`.

    `options` are those in force: its own, and its service's where it has none (but `description`, `metadata` and
    `concurrency` are never inherited). An option that nobody gave is not in it.
    """

    service: str
    service_kind: ServiceKind
    name: str
    kind: HandlerKind
    fn: Callable[..., Any]
    is_async: bool
    takes_input: bool
    options: Mapping[str, Any] = field(repr=False)
    default: Any = field(repr=False)
    """What the argument is if the body is empty; `inspect.Parameter.empty` if the function has no default."""
    reference: HandlerReference = field(init=False, repr=False)
    """What `resolve_handler` makes of the function."""
    _serdes: tuple[Serde[Any], Serde[Any]] | None = field(default=None, init=False, repr=False)
    _info: HandlerInfo | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.reference = HandlerReference(self.service, self.name, self)

    @property
    def input(self) -> Serde[Any]:
        """How the argument is read. Raises TypeError, naming the fix, if the annotation is of no use."""
        return (self._serdes or self.resolve())[0]

    @property
    def output(self) -> Serde[Any]:
        """How the result is written. Raises TypeError, naming the fix, if the annotation is of no use."""
        return (self._serdes or self.resolve())[1]

    @property
    def in_workflow(self) -> bool:
        return self.service_kind is ServiceKind.WORKFLOW

    @property
    def info(self) -> HandlerInfo:
        """What the engine is told of it: options, content types and schemas."""
        if self._info is None:
            self._info = self._describe()
        return self._info

    def arguments(self, body: bytes) -> tuple[Any, ...]:
        """What the function is called with after its context, for this request body."""
        if not self.takes_input:
            return ()
        if not body and self.default is not inspect.Parameter.empty:
            return (self.default,)
        return (self.input.deserialize(body),)

    def body(self, argument: Any) -> bytes:
        """The request body that calls it with `argument`; None where there is a default, or no input, is no body."""
        if argument is None and (not self.takes_input or self.default is not inspect.Parameter.empty):
            return b""
        if not self.takes_input:
            raise TypeError(f"{self.service}/{self.name} takes no input, and was given {type(argument).__qualname__}")
        return self.input.serialize(argument)

    def resolve(self) -> tuple[Serde[Any], Serde[Any]]:
        """Looks at the annotations now: the serdes of input and output."""
        if self._serdes is None:
            annotations = _annotations(self.fn)
            output = annotations.get("return", Any)
            self._serdes = self._input_serde(annotations), self._serde("output_serde", "return", output)
        return self._serdes

    def _input_serde(self, annotations: Mapping[str, Any]) -> Serde[Any]:
        if not self.takes_input:
            return serde_for(NoneType)
        name = list(_signature(self.fn).parameters)[1]
        return self._serde("input_serde", name, annotations.get(name, Any))

    def _serde(self, option: str, name: str, annotation: Any) -> Serde[Any]:
        if (given := self.options.get(option)) is not None:
            return cast(Serde[Any], given)
        what = "the return annotation" if name == "return" else f"the annotation of {name!r}"
        where = f"{what} of handler {self.service}/{self.name}"
        try:
            return serde_for(_evaluate(self.fn, name, annotation))
        except NameError as error:
            raise TypeError(
                f"{where} cannot be resolved: {error}. Import or define that name at the top level of module "
                f"{self.fn.__module__} (not under `if TYPE_CHECKING`, not in a function)"
            ) from error
        except SerdeError as error:
            raise TypeError(f"{where} is of no use: {error}; or set {option}=") from error

    def _describe(self) -> HandlerInfo:
        options = self.options
        given: dict[str, Any] = {
            f"{name}_ms": _milliseconds(name, options[name]) for name in _DURATIONS if name in options
        }
        for name in ("private", "retry_policy", "concurrency", "lazy_state"):
            if name in options:
                given[name] = options[name]
        if self.takes_input:
            given["input_required"] = self._input_required()
            given["input_content_type"] = self.input.content_type
            given["input_schema"] = self.input.schema()
        return HandlerInfo(
            service=self.service,
            name=self.name,
            kind=self.kind,
            description=options.get("description") or inspect.getdoc(self.fn),
            metadata=dict(options.get("metadata") or {}),
            output_content_type=self.output.content_type,
            output_schema=self.output.schema(),
            **given,
        )

    def _input_required(self) -> bool:
        if self.default is not inspect.Parameter.empty:
            return False
        try:
            self.input.deserialize(b"")
        except Exception:  # whatever a user's own serde says to an empty body
            return True
        return False


class _Definition:
    """What services, virtual objects and workflows have in common."""

    kind: ServiceKind

    def __init__(self, name: str, options: Mapping[str, Any], allowed: frozenset[str]) -> None:
        _check_service_name(name)
        self.name = name
        self.options = _checked(f"{type(self).__name__}({name!r})", options, allowed)
        self.handlers: dict[str, HandlerDefinition] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, handlers={list(self.handlers)})"

    @property
    def info(self) -> ServiceInfo:
        """What the engine is told of it."""
        return ServiceInfo(
            name=self.name,
            kind=self.kind,
            handlers={name: handler.info for name, handler in self.handlers.items()},
            description=self.options.get("description"),
            metadata=dict(self.options.get("metadata") or {}),
            concurrency=self.options.get("concurrency"),
        )

    def _decorate(self, fn: F | None, kind: HandlerKind, options: Mapping[str, Any]) -> F | Callable[[F], F]:
        def register(fn: F) -> F:
            self._add(fn, kind, options)
            return fn

        return register if fn is None else register(fn)

    def _add(self, fn: Callable[..., Any], kind: HandlerKind, options: Mapping[str, Any]) -> None:
        _check_function(fn, self.name)
        name = options.get("name") or fn.__name__
        where = f"{self.name}/{name}"
        if not _HANDLER_NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is not a name for a handler of {self.name}: letters, digits and '_' only, "
                "a letter (or '_' and another) first; give one with name="
            )
        if name in self.handlers:
            raise ValueError(f"there is a handler {where} already; give one of the two another name")
        allowed = _MAIN_OPTIONS if kind is HandlerKind.WORKFLOW else _HANDLER_OPTIONS
        own = _checked(f"handler {where}", options, allowed)
        if self.options.get("private") and own.get("private") is False:
            raise ValueError(f"handler {where} cannot be private=False, as {self.name} is private")
        inherited = {option: value for option, value in self.options.items() if option in allowed - _OWN_OPTIONS}
        takes_input, default = _parameters(fn, where)
        definition = HandlerDefinition(
            service=self.name,
            service_kind=self.kind,
            name=name,
            kind=kind,
            fn=fn,
            is_async=_is_async(fn),
            takes_input=takes_input,
            options=inherited | own,
            default=default,
        )
        fn.__perdure_handler__ = definition  # type: ignore[attr-defined]
        self.handlers[name] = definition


class Service(_Definition):
    """Handlers without state that run as many at once as there is work.

    `name` is what callers use: letters, digits, '.', '_' and '-', a letter first; it must not begin with `restate`.
    Options are described at `Options`. Raises ValueError or TypeError, naming the option, for one that cannot be.
    """

    kind = ServiceKind.SERVICE

    def __init__(self, name: str, **options: Unpack[ServiceOptions]) -> None:
        super().__init__(name, options, _SERVICE_OPTIONS)

    @overload
    def handler(self, fn: F, /) -> F: ...
    @overload
    def handler(self, fn: None = None, /, **options: Unpack[HandlerOptions]) -> Callable[[F], F]: ...
    def handler(self, fn: F | None = None, /, **options: Unpack[HandlerOptions]) -> F | Callable[[F], F]:
        """Makes a function `(ctx)` or `(ctx, argument)` a handler. With or without parentheses."""
        return self._decorate(fn, HandlerKind.PLAIN, options)


class VirtualObject(_Definition):
    """Handlers with state per key; of the exclusive ones, one at a time runs for a key.

    `name` and options as of `Service`.
    """

    kind = ServiceKind.VIRTUAL_OBJECT

    def __init__(self, name: str, **options: Unpack[ServiceOptions]) -> None:
        super().__init__(name, options, _SERVICE_OPTIONS)

    @overload
    def handler(self, fn: F, /) -> F: ...
    @overload
    def handler(self, fn: None = None, /, **options: Unpack[HandlerOptions]) -> Callable[[F], F]: ...
    def handler(self, fn: F | None = None, /, **options: Unpack[HandlerOptions]) -> F | Callable[[F], F]:
        """Makes a function an exclusive handler: one at a time per key, first come first served; may set state."""
        return self._decorate(fn, HandlerKind.EXCLUSIVE, options)

    @overload
    def shared(self, fn: F, /) -> F: ...
    @overload
    def shared(self, fn: None = None, /, **options: Unpack[HandlerOptions]) -> Callable[[F], F]: ...
    def shared(self, fn: F | None = None, /, **options: Unpack[HandlerOptions]) -> F | Callable[[F], F]:
        """Makes a function a shared handler: any number at once, state is read-only."""
        return self._decorate(fn, HandlerKind.SHARED, options)


class Workflow(_Definition):
    """A main that runs once per workflow id, and handlers that look at it or signal it meanwhile and after.

    `name` as of `Service`; options too, and `workflow_retention`.
    """

    kind = ServiceKind.WORKFLOW

    def __init__(self, name: str, **options: Unpack[WorkflowOptions]) -> None:
        super().__init__(name, options, _WORKFLOW_OPTIONS)

    @overload
    def main(self, fn: F, /) -> F: ...
    @overload
    def main(self, fn: None = None, /, **options: Unpack[MainOptions]) -> Callable[[F], F]: ...
    def main(self, fn: F | None = None, /, **options: Unpack[MainOptions]) -> F | Callable[[F], F]:
        """Makes a function the main of the workflow, of which there is one; it runs once per workflow id."""
        return self._decorate(fn, HandlerKind.WORKFLOW, options)

    @overload
    def handler(self, fn: F, /) -> F: ...
    @overload
    def handler(self, fn: None = None, /, **options: Unpack[HandlerOptions]) -> Callable[[F], F]: ...
    def handler(self, fn: F | None = None, /, **options: Unpack[HandlerOptions]) -> F | Callable[[F], F]:
        """Makes a function a shared handler: any time, while the workflow runs and while it is retained."""
        return self._decorate(fn, HandlerKind.SHARED, options)

    def _add(self, fn: Callable[..., Any], kind: HandlerKind, options: Mapping[str, Any]) -> None:
        mains = [name for name, handler in self.handlers.items() if handler.kind is HandlerKind.WORKFLOW]
        if mains and kind is HandlerKind.WORKFLOW:
            raise ValueError(f"workflow {self.name} has a main already: {mains[0]}; use .handler() for all others")
        super()._add(fn, kind, options)


AnyService: TypeAlias = Service | VirtualObject | Workflow


def resolve_handler(handler: Callable[..., Any] | str) -> HandlerReference:
    """Which handler a decorated function, or a string "Service/handler", stands for.

    Raises TypeError for anything else, ValueError for a string that is no such pair.
    """
    if isinstance(handler, str):
        return _parse_reference(handler)
    definition = getattr(handler, "__perdure_handler__", None)
    if isinstance(definition, HandlerDefinition):
        return definition.reference
    if isinstance(handler, _Definition):
        raise TypeError(f"{handler!r} is a service; name one of its handlers: {_examples(handler)}")
    name = getattr(handler, "__qualname__", None) or repr(handler)
    raise TypeError(
        f"{name} is not a handler. Decorate it (@service.handler()), or name one as 'Service/handler'; "
        "a plain function is for ctx.run(name, function)"
    )


def _examples(service: _Definition) -> str:
    return ", ".join(f"'{service.name}/{name}'" for name in service.handlers) or "it has none yet"


@lru_cache(maxsize=4096)
def _parse_reference(text: str) -> HandlerReference:
    service, slash, handler = text.partition("/")
    if not slash or not _SERVICE_NAME.fullmatch(service) or not _HANDLER_NAME.fullmatch(handler):
        raise ValueError(f"{text!r} does not name a handler; write 'Service/handler' (a key is given with key=)")
    return HandlerReference(service, handler)


# ---- what is given, checked

_SERVICE_NAME: Final = re.compile(r"([a-zA-Z]|_[a-zA-Z0-9])[a-zA-Z0-9._-]*")
_HANDLER_NAME: Final = re.compile(r"([a-zA-Z]|_[a-zA-Z0-9])[a-zA-Z0-9_]*")
_DURATIONS: Final = (
    "inactivity_timeout",
    "abort_timeout",
    "journal_retention",
    "idempotency_retention",
    "workflow_retention",
)
_LONGEST: Final = timedelta.max.total_seconds()
_OWN_OPTIONS: Final = frozenset({"name", "description", "metadata", "concurrency"})
_SERVICE_OPTIONS: Final = frozenset(Options.__annotations__)
_WORKFLOW_OPTIONS: Final = _SERVICE_OPTIONS | {"workflow_retention"}
_HANDLER_OPTIONS: Final = _SERVICE_OPTIONS | {"name"}
_MAIN_OPTIONS: Final = _HANDLER_OPTIONS - {"idempotency_retention"} | {"workflow_retention"}


def _check_service_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a service's name is a str, not {type(name).__qualname__}")
    if not _SERVICE_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a name for a service: letters, digits, '.', '_' and '-' only, "
            "a letter (or '_' and a letter or digit) first"
        )
    if name.lower().startswith("restate") or name.lower() == "openapi":
        raise ValueError(f"{name!r} is not a name for a service: 'openapi' and names with 'restate' first are reserved")


def _checked(where: str, options: Mapping[str, Any], allowed: frozenset[str]) -> dict[str, Any]:
    """The options that were given, each of them possible."""
    for name in options:
        if name not in allowed:
            raise TypeError(f"{where}: no such option {name!r}; there are {', '.join(sorted(allowed))}")
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        try:
            _check(name, value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where}: {error}") from None
    return given


def _check(name: str, value: Any) -> None:
    if name in _DURATIONS:
        _milliseconds(name, value)
    elif name in ("input_serde", "output_serde"):
        missing = [each for each in ("content_type", "serialize", "deserialize", "schema") if not hasattr(value, each)]
        if isinstance(value, type):
            raise TypeError(f"{name} must be a Serde object, not the class {value.__qualname__}")
        if missing:
            raise TypeError(f"{name} must be a Serde; {value!r} has no {', '.join(missing)}")
    elif name == "concurrency":
        if type(value) is not int:
            raise TypeError(f"concurrency must be an int, not {value!r}")
        if value < 1:
            raise ValueError(f"concurrency must be at least 1, or None for no limit, not {value}")
    elif name == "metadata":
        if not isinstance(value, Mapping) or any(not isinstance(each, str) for pair in value.items() for each in pair):
            raise TypeError(f"metadata must map str to str, not be {value!r}")
    elif not isinstance(
        value, wanted := {"private": bool, "lazy_state": bool, "retry_policy": RetryPolicy}.get(name, str)
    ):
        raise TypeError(f"{name} must be a {wanted.__name__}, not {value!r}")


def _milliseconds(name: str, value: Any) -> int:
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value
    else:
        raise TypeError(f"{name} must be seconds or a timedelta, not {value!r}")
    if not 0 <= seconds <= _LONGEST:
        limit = "not be negative" if seconds < 0 else f"be at most {_LONGEST:.0f} seconds"
        raise ValueError(f"{name} must {limit}: {value!r}")
    return math.ceil(round(seconds * 1000, 3))


def _check_function(fn: Any, service: str) -> None:
    if not callable(fn) or isinstance(fn, type) or not hasattr(fn, "__name__"):
        raise TypeError(f"a handler of {service} must be a function, not {fn!r}")
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise TypeError(f"{fn.__qualname__} cannot be a handler of {service}: it yields, and a handler returns once")
    known = getattr(fn, "__perdure_handler__", None)
    if isinstance(known, HandlerDefinition) and known.fn is fn:
        raise TypeError(f"{fn.__qualname__} is {known.service}/{known.name} already; a function is one handler only")


def _is_async(fn: Callable[..., Any]) -> bool:
    """Also if a decorator has wrapped the coroutine function in a plain one that returns its coroutine."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(inspect.unwrap(fn))


def _parameters(fn: Callable[..., Any], where: str) -> tuple[bool, Any]:
    """Whether the function takes an argument after its context, and that argument's default."""
    parameters = list(_signature(fn).parameters.values())
    empty = inspect.Parameter.empty
    if not parameters or parameters[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        raise TypeError(f"handler {where} must take the context first: def {fn.__name__}(ctx) or (ctx, argument)")
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    extra = parameters[2:] + [each for each in parameters[:2] if each.kind not in positional]
    if extra:
        names = ", ".join(str(each.replace(annotation=empty)) for each in extra)
        raise TypeError(
            f"handler {where} has extra parameters: {names}. It takes (ctx) or (ctx, argument); "
            "put several values into one dataclass or model"
        )
    return (True, parameters[1].default) if len(parameters) == 2 else (False, empty)


if sys.version_info >= (3, 14):
    import annotationlib

    def _signature(fn: Callable[..., Any]) -> inspect.Signature:
        return inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF)

    def _annotations(fn: Callable[..., Any]) -> Mapping[str, Any]:
        return annotationlib.get_annotations(fn, format=annotationlib.Format.FORWARDREF)

else:
    _signature = inspect.signature

    def _annotations(fn: Callable[..., Any]) -> Mapping[str, Any]:
        return getattr(fn, "__annotations__", {})


def _evaluate(fn: Callable[..., Any], name: str, annotation: Any) -> Any:
    """One annotation with the names in it resolved; the others may name what exists for type checkers only."""

    def owner() -> None: ...

    owner.__annotations__ = {name: annotation}
    return get_type_hints(owner, getattr(inspect.unwrap(fn), "__globals__", {}), include_extras=True)[name]
