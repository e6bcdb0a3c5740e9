"""Definitions: what the decorators take, what they refuse, and what they make of it."""

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Optional

import msgspec
import pytest

from perdure.model.services import DAY_MS, HandlerInfo, HandlerKind, RetryPolicy, ServiceInfo, ServiceKind
from perdure.sdk.app import App
from perdure.sdk.serde import NoneSerde, SerdeError, serde_for
from perdure.sdk.service import (
    AnyService,
    HandlerDefinition,
    HandlerReference,
    Service,
    VirtualObject,
    Workflow,
    resolve_handler,
)

if TYPE_CHECKING:
    from perdure.sdk.context import Context as OnlyForCheckers  # type: ignore[import-not-found,unused-ignore]


class Ctx:
    """Stands for any context."""


@dataclass
class Topic:
    name: str


class Shout:
    content_type = "text/plain"

    def serialize(self, value: str) -> bytes:
        return value.upper().encode()

    def deserialize(self, data: bytes) -> str:
        return data.decode()

    def schema(self) -> None:
        return None


def definition_of(fn: Callable[..., Any]) -> HandlerDefinition:
    definition = resolve_handler(fn).definition
    assert definition is not None
    return definition


async def greet(ctx: Ctx, topic: Topic) -> str:
    """Says hello.

    At length.
    """
    return topic.name


# ---- what a decorator makes of a function


def test_a_decorator_returns_the_function_itself() -> None:
    service = Service("S")

    async def one(ctx: Ctx) -> None: ...
    async def two(ctx: Ctx) -> None: ...

    assert service.handler()(one) is one
    assert service.handler(two) is two
    assert list(service.handlers) == ["one", "two"]
    assert service.handlers["one"] is one.__perdure_handler__  # type: ignore[attr-defined]


def test_every_decorator_says_which_kind() -> None:
    service, thing, flow = Service("S"), VirtualObject("O"), Workflow("W")
    decorators: list[tuple[Any, HandlerKind]] = [
        (service.handler, HandlerKind.PLAIN),
        (thing.handler, HandlerKind.EXCLUSIVE),
        (thing.shared, HandlerKind.SHARED),
        (flow.main, HandlerKind.WORKFLOW),
        (flow.handler, HandlerKind.SHARED),
    ]
    for number, (decorator, kind) in enumerate(decorators):

        async def fn(ctx: Ctx) -> None: ...

        decorator(name=f"h{number}")(fn)
        definition = definition_of(fn)
        assert (definition.kind, definition.name, definition.fn) == (kind, f"h{number}", fn)
        assert definition.info.kind is kind
        assert definition.in_workflow is (definition.service == "W")


def test_a_definition_knows_its_function() -> None:
    service = Service("S")

    @service.handler()
    def plain(ctx: Ctx) -> bytes:
        return b""

    @service.handler(name="given")
    async def with_argument(ctx: Ctx, topics: list[Topic] | None) -> None: ...

    @service.handler()
    async def untyped(ctx, x):  # type: ignore[no-untyped-def]
        return x

    one, two, three = service.handlers.values()
    assert (one.service, one.name, one.is_async, one.takes_input) == ("S", "plain", False, False)
    assert (two.name, two.is_async, two.takes_input) == ("given", True, True)
    assert isinstance(one.input, NoneSerde)
    assert one.output is serde_for(bytes)
    assert two.input is serde_for(list[Topic] | None)
    assert two.output is serde_for(type(None))
    assert three.input is three.output is serde_for(None)


def test_a_wrapped_coroutine_function_is_still_one() -> None:
    service = Service("S")

    def traced(fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def wrapper(*args: Any) -> Any:
            return fn(*args)

        return wrapper

    definition = definition_of(service.handler(name="traced")(traced(greet)))
    assert definition.is_async
    assert definition.takes_input
    assert definition.input is serde_for(Topic)


# ---- the argument


def test_an_empty_body_means_the_default() -> None:
    service = Service("S")

    @service.handler()
    async def add(ctx: Ctx, n: int = 1) -> int:
        return n

    @service.handler()
    async def need(ctx: Ctx, n: int) -> int:
        return n

    @service.handler()
    async def nothing(ctx: Ctx) -> None: ...

    assert definition_of(add).arguments(b"") == (1,)
    assert definition_of(add).arguments(b"5") == (5,)
    assert definition_of(need).arguments(b"5") == (5,)
    assert definition_of(nothing).arguments(b"") == ()
    with pytest.raises(SerdeError, match="there are no bytes"):
        definition_of(need).arguments(b"")


def test_a_caller_s_argument_becomes_the_body() -> None:
    service = Service("S")

    @service.handler()
    async def add(ctx: Ctx, n: int = 1) -> int:
        return n

    @service.handler()
    async def need(ctx: Ctx, n: int) -> int:
        return n

    @service.handler()
    async def maybe(ctx: Ctx, topic: Optional[Topic]) -> None: ...  # noqa: UP045

    @service.handler()
    async def nothing(ctx: Ctx) -> None: ...

    assert definition_of(add).body(None) == b""
    assert definition_of(add).body(3) == b"3"
    assert definition_of(maybe).body(None) == b""
    assert definition_of(maybe).body(Topic("x")) == b'{"name":"x"}'
    assert definition_of(nothing).body(None) == b""
    with pytest.raises(SerdeError, match="cannot serialize int: got None"):
        definition_of(need).body(None)
    with pytest.raises(TypeError, match="S/nothing takes no input, and was given Topic"):
        definition_of(nothing).body(Topic("x"))


async def _three(ctx: Ctx, a: int, b: int) -> None: ...
async def _keyword(ctx: Ctx, a: int, *, loud: bool = False) -> None: ...
async def _args(ctx: Ctx, *args: int) -> None: ...
async def _kwargs(ctx: Ctx, **kwargs: int) -> None: ...
async def _none() -> None: ...
async def _only_keyword(*, ctx: Ctx) -> None: ...


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (_three, "S/_three has extra parameters: b. It takes (ctx) or (ctx, argument)"),
        (_keyword, "S/_keyword has extra parameters: loud=False."),
        (_args, "S/_args has extra parameters: *args."),
        (_kwargs, "S/_kwargs has extra parameters: **kwargs."),
        (_none, "S/_none must take the context first: def _none(ctx) or (ctx, argument)"),
        (_only_keyword, "must take the context first"),
    ],
)
def test_the_signature_is_the_context_and_at_most_one_argument(fn: Callable[..., Any], says: str) -> None:
    with pytest.raises(TypeError, match=re.escape(says)):
        Service("S").handler()(fn)


async def _stream(ctx: Ctx) -> Any:
    yield 1


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (_stream, "_stream cannot be a handler of S: it yields"),
        (Ctx, "must be a function"),
        (3, "must be a function, not 3"),
        (functools.partial(greet), "must be a function"),
    ],
)
def test_a_handler_is_a_function_that_returns(fn: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        Service("S").handler()(fn)


def test_a_function_is_one_handler_only() -> None:
    service = Service("S")

    async def fn(ctx: Ctx) -> None: ...

    service.handler()(fn)
    with pytest.raises(TypeError, match="fn is S/fn already; a function is one handler only"):
        Service("T").handler()(fn)


# ---- annotations


def test_annotations_may_name_what_comes_later() -> None:
    service = Service("S")

    @service.handler()
    async def research(ctx: Ctx, topic: "Later") -> "list[Later | None]":
        return [topic]

    assert definition_of(research).input is serde_for(Later)
    assert definition_of(research).output is serde_for(list[Later | None])


def test_a_context_that_only_checkers_know_is_no_obstacle() -> None:
    service = Service("S")

    @service.handler()
    async def fn(ctx: "OnlyForCheckers", topic: "Topic") -> "None": ...

    App(service)
    assert definition_of(fn).input is serde_for(Topic)


def test_annotated_keeps_its_constraints() -> None:
    service = Service("S")

    @service.handler()
    async def fn(ctx: Ctx, n: Annotated[int, msgspec.Meta(gt=0)]) -> None: ...

    with pytest.raises(SerdeError, match="Expected `int` >= 1"):
        definition_of(fn).arguments(b"0")


def test_an_annotation_that_cannot_be_resolved_names_the_handler() -> None:
    service = Service("S")

    @service.handler()
    async def argument(ctx: Ctx, x: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match=r"annotation of 'x' of handler S/argument cannot be resolved: .*'Nowhere'.*"):
        App(service)
    other = Service("T")

    @other.handler()
    async def result(ctx: Ctx) -> "list[Nowhere]":  # type: ignore[name-defined]  # noqa: F821
        return []

    with pytest.raises(
        TypeError, match=r"return annotation of handler T/result cannot be resolved: .* at the top level"
    ):
        definition_of(result).output  # noqa: B018


def test_a_type_that_nobody_can_write_names_the_handler() -> None:
    service = Service("S")

    @service.handler()
    async def fn(ctx: Ctx) -> Ctx:
        return ctx

    with pytest.raises(
        TypeError, match=r"return annotation of handler S/fn is of no use: .*Ctx.*; or set output_serde="
    ):
        App(service)


def test_a_serde_of_one_s_own_takes_the_place_of_the_annotation() -> None:
    shout = Shout()
    service = Service("S", input_serde=shout)

    @service.handler(output_serde=shout)
    async def fn(ctx: Ctx, x: Ctx) -> Ctx:
        return x

    definition = definition_of(fn)
    assert definition.input is definition.output is shout
    assert definition.info.input_content_type == definition.info.output_content_type == "text/plain"
    assert not definition.info.input_required


@dataclass
class Later:
    n: int


# ---- options


OPTIONS: dict[str, Any] = {
    "private": True,
    "retry_policy": RetryPolicy(max_attempts=3),
    "inactivity_timeout": 1,
    "abort_timeout": 1.5,
    "journal_retention": timedelta(days=7),
    "idempotency_retention": timedelta(milliseconds=5),
}


def test_without_options_the_defaults_hold() -> None:
    service = Service("S")
    service.handler()(fresh := _fresh())
    info = HandlerInfo(service="S", name="fresh", kind=HandlerKind.PLAIN, input_content_type="application/json")
    assert definition_of(fresh).info == info
    assert service.info == ServiceInfo(
        name="S", kind=ServiceKind.SERVICE, handlers={"fresh": definition_of(fresh).info}
    )


def test_options_of_a_service_hold_for_its_handlers() -> None:
    service = Service("S", description="of S", metadata={"a": "b"}, concurrency=7, **OPTIONS)
    service.handler()(fresh := _fresh())
    info = definition_of(fresh).info
    assert info.private
    assert info.retry_policy == RetryPolicy(max_attempts=3)
    assert (info.inactivity_timeout_ms, info.abort_timeout_ms) == (1000, 1500)
    assert (info.journal_retention_ms, info.idempotency_retention_ms) == (7 * DAY_MS, 5)
    assert (info.description, info.metadata, info.concurrency) == (None, {}, None)
    assert (service.info.description, service.info.metadata, service.info.concurrency) == ("of S", {"a": "b"}, 7)


def test_the_handler_s_word_counts_for_itself() -> None:
    service = Service(
        "S", journal_retention=1, abort_timeout=1, retry_policy=RetryPolicy(max_attempts=1), concurrency=9
    )
    own = RetryPolicy(max_attempts=5)
    service.handler(journal_retention=0, retry_policy=own, abort_timeout=None, concurrency=2)(fresh := _fresh())
    info = definition_of(fresh).info
    assert (info.journal_retention_ms, info.abort_timeout_ms, info.retry_policy) == (0, 1000, own)
    assert (info.concurrency, service.info.concurrency) == (2, 9)


def test_what_nobody_gave_is_not_among_the_options() -> None:
    service = Service("S", journal_retention=1, abort_timeout=None)
    service.handler(private=False)(fresh := _fresh())
    assert definition_of(fresh).options == {"journal_retention": 1, "private": False}


def test_retention_of_workflows() -> None:
    flow = Workflow("W", workflow_retention=30, idempotency_retention=10)
    flow.main()(main := _fresh())
    flow.handler(name="look")(look := _fresh())
    assert definition_of(main).info.workflow_retention_ms == 30_000
    assert definition_of(main).info.idempotency_retention_ms == DAY_MS
    assert definition_of(look).info.workflow_retention_ms == DAY_MS
    assert definition_of(look).info.idempotency_retention_ms == 10_000
    other = Workflow("V", workflow_retention=30)
    other.main(workflow_retention=60)(main := _fresh())
    assert definition_of(main).info.workflow_retention_ms == 60_000


def test_the_docstring_is_the_description_unless_one_is_given() -> None:
    service = Service("S")
    service.handler()(greet)
    service.handler(description="mine")(fresh := _fresh())
    assert definition_of(greet).info.description == "Says hello.\n\nAt length."
    assert definition_of(fresh).info.description == "mine"
    del greet.__perdure_handler__  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["inactivity_timeout", "abort_timeout", "journal_retention", "idempotency_retention"])
def test_durations_are_checked_by_name(name: str) -> None:
    for wrong in (-1, -0.5, timedelta(seconds=-1)):
        with pytest.raises(ValueError, match=rf"^Service\('S'\): {name} must not be negative"):
            Service("S", **{name: wrong})  # type: ignore[arg-type]
    for endless in (float("inf"), float("nan"), 1e300):
        with pytest.raises(ValueError, match=f"{name} must be at most"):
            Service("S", **{name: endless})  # type: ignore[arg-type]
    for no_duration in ("1", True, [1]):
        with pytest.raises(TypeError, match=f"{name} must be seconds or a timedelta"):
            Service("S", **{name: no_duration})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"^handler S/fresh: {name} must not be negative"):
        Service("S").handler(**{name: -1})(_fresh())  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"concurency": 1}, TypeError, "no such option 'concurency'; there are abort_timeout, concurrency"),
        ({"workflow_retention": 1}, TypeError, "no such option 'workflow_retention'"),
        ({"concurrency": 0}, ValueError, "concurrency must be at least 1"),
        ({"concurrency": True}, TypeError, "concurrency must be an int"),
        ({"concurrency": 1.5}, TypeError, "concurrency must be an int"),
        ({"retry_policy": 3}, TypeError, "retry_policy must be a RetryPolicy"),
        ({"private": 1}, TypeError, "private must be a bool"),
        ({"description": 1}, TypeError, "description must be a str"),
        ({"metadata": {"a": 1}}, TypeError, "metadata must map str to str"),
        ({"metadata": ["a"]}, TypeError, "metadata must map str to str"),
        ({"input_serde": int}, TypeError, "input_serde must be a Serde object, not the class int"),
        ({"output_serde": "json"}, TypeError, "output_serde must be a Serde; 'json' has no content_type, serialize"),
    ],
)
def test_options_are_checked_where_they_are_given(options: Any, error: type[Exception], says: str) -> None:
    for define in (lambda: VirtualObject("S", **options), lambda: Service("S").handler(**options)(_fresh())):
        with pytest.raises(error, match=says):
            define()


def test_a_main_has_no_idempotency_retention() -> None:
    with pytest.raises(TypeError, match="handler W/fresh: no such option 'idempotency_retention'"):
        Workflow("W").main(idempotency_retention=1)(_fresh())


def test_a_private_service_has_no_public_handler() -> None:
    service = Service("S", private=True)
    with pytest.raises(ValueError, match="S/fresh cannot be private=False, as S is private"):
        service.handler(private=False)(_fresh())


def _fresh() -> Callable[[Ctx, Any], Any]:
    async def fresh(ctx: Ctx, x: Any) -> Any:
        return x

    return fresh


# ---- names


@pytest.mark.parametrize("name", ["a", "A1", "a.b-c_d", "_a", "_1", "Openapis", "myrestate"])
def test_names_of_services(name: str) -> None:
    assert Service(name).info.name == name


@pytest.mark.parametrize(
    "name",
    ["", "1a", "_", "__a", "-a", ".a", "a b", "a/b", "ä", "a\n", "restate", "RestateThing", "reStAtE.x", "openapi"],
)
def test_names_that_services_cannot_have(name: str) -> None:
    for kind in (Service, VirtualObject, Workflow):
        with pytest.raises(ValueError, match="is not a name for a service"):
            kind(name)


@pytest.mark.parametrize("name", ["1a", "_", "__a", "a.b", "a-b", "a b", "ä", "a\n"])
def test_names_that_handlers_cannot_have(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name for a handler of S"):
        Service("S").handler(name=name)(_fresh())


def test_a_name_must_be_a_str() -> None:
    with pytest.raises(TypeError, match="a service's name is a str, not function"):
        Service(greet)  # type: ignore[arg-type]


def test_two_handlers_of_one_name() -> None:
    service = Service("S")
    service.handler(_fresh())
    with pytest.raises(ValueError, match="there is a handler S/fresh already"):
        service.handler(_fresh())


def test_two_mains() -> None:
    flow = Workflow("W")
    flow.main(_fresh())
    with pytest.raises(ValueError, match=r"workflow W has a main already: fresh; use \.handler\(\)"):
        flow.main(name="other")(_fresh())
    assert list(flow.handlers) == ["fresh"]


# ---- what is told to the engine


def test_schemas_and_content_types() -> None:
    service = Service("S")

    @service.handler()
    async def fn(ctx: Ctx, n: int) -> bytes:
        return b""

    @service.handler()
    async def nothing(ctx: Ctx) -> None: ...

    info = service.info.handlers
    assert info["fn"].input_schema == {"type": "integer"}
    assert info["fn"].input_required
    assert info["fn"].output_content_type == "application/octet-stream"
    assert (info["nothing"].input_content_type, info["nothing"].output_content_type) == (None, None)
    assert not info["nothing"].input_required
    assert definition_of(fn).info is definition_of(fn).info


@pytest.mark.parametrize(
    ("annotation", "required"),
    [(int, True), (Topic, True), (int | None, False), (Any, False), (bytes, False), (None, False)],
)
def test_an_input_is_required_unless_no_bytes_are_a_value(annotation: Any, required: bool) -> None:
    async def fn(ctx: Ctx, x): ...  # type: ignore[no-untyped-def]

    fn.__annotations__["x"] = annotation
    Service("S").handler(fn)
    assert definition_of(fn).info.input_required is required


def test_infos_are_values_that_msgspec_can_keep() -> None:
    service = VirtualObject("O", **OPTIONS)
    service.handler(_fresh())
    data = msgspec.json.encode(service.info)
    assert msgspec.json.decode(data, type=ServiceInfo) == service.info


# ---- references


def test_references() -> None:
    service = Service("S.x")
    service.handler(name="h")(fresh := _fresh())
    reference = resolve_handler(fresh)
    assert (reference.service, reference.handler, reference.definition) == ("S.x", "h", service.handlers["h"])
    assert resolve_handler(fresh) is reference
    assert resolve_handler("S.x/h") == HandlerReference("S.x", "h", None)


@pytest.mark.parametrize("text", ["", "S", "S/", "/h", "S/h/k", "S/a b", "S h"])
def test_strings_that_are_no_reference(text: str) -> None:
    with pytest.raises(ValueError, match="does not name a handler; write 'Service/handler'"):
        resolve_handler(text)


def test_what_is_not_a_handler_is_refused_with_the_fix() -> None:
    with pytest.raises(TypeError, match=r"len is not a handler\. Decorate it .* 'Service/handler'; .* ctx\.run"):
        resolve_handler(len)
    service = Service("S")
    service.handler(_fresh())
    with pytest.raises(TypeError, match="is a service; name one of its handlers: 'S/fresh'"):
        resolve_handler(service)  # type: ignore[arg-type]


# ---- App


def test_an_app_has_its_services_by_name() -> None:
    services: list[AnyService] = [Service("A"), VirtualObject("B")]
    app = App(*services)
    assert app.services == {"A": services[0], "B": services[1]}
    assert repr(app) == "App(A, B)"


def test_an_app_refuses_two_services_of_one_name() -> None:
    service = Service("A")
    with pytest.raises(ValueError, match="'A' is the name of two services; names in an App must differ"):
        App(service, VirtualObject("A"))
    with pytest.raises(ValueError, match="'A' is given twice"):
        App(service, service)


def test_an_app_refuses_what_is_no_service() -> None:
    with pytest.raises(TypeError, match="App takes services, virtual objects and workflows, not 'A'"):
        App("A")  # type: ignore[arg-type]


def test_an_app_refuses_a_workflow_without_a_main() -> None:
    flow = Workflow("W")
    flow.handler(_fresh())
    with pytest.raises(ValueError, match="workflow W has no main"):
        App(flow)


def test_options_have_docstrings_with_their_units() -> None:
    from perdure.sdk import service

    source = inspect.getsource(service.Options)
    for name in service.Options.__annotations__:
        assert re.search(rf'    {name}: .*\n    """', source), name
