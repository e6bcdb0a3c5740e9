"""The MCP server: a tool call is an invocation.

A call is sent with an idempotency key and then attached to, so that nothing that breaks on the way does anything twice.
Whoever hangs up stops nothing; `notifications/cancelled` does, and so does the tool `perdure_cancel`.
"""

import asyncio
import contextlib
import logging
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, cast

import msgspec
from mcp import types
from mcp.server import Server
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError

from perdure.errors import Conflict, Invalid, NotFound, NotReady, PerdureError
from perdure.mcp.answers import answered, failed
from perdure.mcp.gateway import Gateway, Gateways
from perdure.mcp.tools import HandlerTool
from perdure.sdk.reading import StreamChunk

__all__ = ["IDEMPOTENCY_KEY", "make_server"]

_log = logging.getLogger("perdure.mcp")

IDEMPOTENCY_KEY: Final = "perdure/idempotency-key"
"""Where in a call's `_meta` a client says that it is the same call as another with this key."""

_CUT_OFF_LIMIT = 256  # requests that were cut off, and of which it may yet be told that they were cancelled
_BEAT_SECONDS = 10.0  # between signs of life to clients that want progress
_LONGEST_WAIT_SECONDS = 300.0
_USUAL_WAIT_SECONDS = 30.0
_INSTRUCTIONS: Final = (
    "Each tool is a durable handler: its work goes on through crashes, and whether or not you wait for it. "
    "What may take long is best begun with perdure_start, which answers at once with an invocation id; "
    "perdure_result waits for its result, perdure_status tells how it stands, perdure_cancel stops it."
)

Context = ServerRequestContext[Any, Any]


def make_server(
    gateways: Gateways, *, name: str = "perdure", version: str = "", long_calls: bool = True
) -> Server[dict[str, Any]]:
    """A server for `mcp`'s transports. Over HTTP, requests go with the API key that they show themselves.

    With `long_calls` there are tools to begin a call, and to ask for its result later.
    """
    tools = _Tools(gateways, long_calls)
    server: Server[dict[str, Any]] = Server(
        name,
        version=version,
        instructions=_INSTRUCTIONS if long_calls else None,
        on_list_tools=tools.list,
        on_call_tool=tools.call,
    )
    server.middleware.append(cast(Any, tools.watch))
    return server


class _Call:
    """A request that calls a handler."""

    def __init__(self, gateway: Gateway, starting: "asyncio.Future[str]") -> None:
        self.gateway = gateway
        self.starting = starting


class _Tools:
    def __init__(self, gateways: Gateways, long_calls: bool) -> None:
        self._gateways = gateways
        self._under_way: dict[tuple[str, Any], _Call] = {}
        self._cut_off: OrderedDict[tuple[str, Any], _Call] = OrderedDict()
        self._cancelling: set[asyncio.Task[None]] = set()
        self._controls = _CONTROLS if long_calls else {}

    # ---- lists

    async def list(self, context: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        async with self._gateway(context) as gateway:
            try:
                tools = await gateway.tools()
            except PerdureError as error:
                raise MCPError(types.INTERNAL_ERROR, str(error)) from error
        return types.ListToolsResult(
            tools=[*map(_described, tools.values()), *(control.described for control in self._controls.values())]
        )

    # ---- calls

    async def call(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        arguments = params.arguments or {}
        async with self._gateway(context) as gateway:
            try:
                control = self._controls.get(params.name)
                if control is not None:
                    return await control.carry_out(gateway, arguments, _key(context))
                tool = await gateway.tool(params.name)
            except NotFound as error:
                if params.name in self._controls:
                    return failed(error, None)
                raise MCPError(types.INVALID_PARAMS, error.message) from None
            except PerdureError as error:
                return failed(error, None)
            return await self._invoke(context, gateway, tool, arguments)

    async def _invoke(
        self, context: Context, gateway: Gateway, tool: HandlerTool, arguments: dict[str, Any]
    ) -> types.CallToolResult:
        request = (_session(context), context.request_id)
        starting = asyncio.ensure_future(gateway.start(tool, arguments, _key(context)))
        starting.add_done_callback(_noticed)
        self._under_way[request] = _Call(gateway, starting)
        id = None
        try:
            id = await asyncio.shield(starting)  # it is known by its id then, also if somebody cancels meanwhile
            content = await _waiting(gateway, context, id)
        except PerdureError as error:
            return failed(error, id)
        except asyncio.CancelledError:
            self._cut_off[request] = self._under_way[request]  # whether by the client's wish is told next, if at all
            if len(self._cut_off) > _CUT_OFF_LIMIT:
                self._cut_off.popitem(last=False)
            raise
        finally:
            self._under_way.pop(request, None)
        return answered(content, tool.output_schema is not None, id)

    # ---- cancellation

    async def watch(self, context: Context, call_next: CallNext) -> HandlerResult:
        """Sees every message: that a request was cancelled is told after it is."""
        if context.method == "notifications/cancelled":
            request = (_session(context), (context.params or {}).get("requestId"))
            call = self._under_way.get(request) or self._cut_off.pop(request, None)
            if call is not None:
                task = asyncio.create_task(_cancel(call))
                self._cancelling.add(task)
                task.add_done_callback(self._cancelling.discard)
        return await call_next(context)

    # ---- who asks

    @contextlib.asynccontextmanager
    async def _gateway(self, context: Context) -> AsyncIterator[Gateway]:
        headers = getattr(context.request, "headers", None)
        gateway = self._gateways.own() if headers is None else self._gateways.of(bearer(headers.get("authorization")))
        gateway.users += 1
        try:
            yield gateway
        finally:
            gateway.users -= 1


def bearer(authorization: str | None) -> str | None:
    """The key that a header shows."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _session(context: Context) -> str:
    """Which client it is, where there are several; ids of requests are each client's own."""
    headers = getattr(context.request, "headers", None)
    return "" if headers is None else str(headers.get("mcp-session-id", ""))


def _key(context: Context) -> str:
    given = dict(context.meta or {}).get(IDEMPOTENCY_KEY)
    return given if isinstance(given, str) and given else f"mcp-{uuid.uuid4().hex}"


def _noticed(starting: "asyncio.Future[str]") -> None:
    """Whoever asked may be gone before it fails."""
    if not starting.cancelled():
        starting.exception()


async def _cancel(call: _Call) -> None:
    try:
        await call.gateway.cancel(await call.starting)
    except Conflict:
        pass  # it had ended
    except PerdureError as error:
        _log.warning("an invocation could not be cancelled: %s", error)


def _described(tool: HandlerTool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.input_schema,
        output_schema=tool.output_schema,
        annotations=types.ToolAnnotations(read_only_hint=True) if tool.read_only else None,
    )


# ---- waiting


async def _waiting(gateway: Gateway, context: Context, id: str) -> bytes:
    """The result; meanwhile, for a client that wants to know, what the handler says of its progress."""
    if dict(context.meta or {}).get("progress_token") is None:
        return await gateway.wait(id)
    telling = asyncio.ensure_future(_tell_progress(gateway, context, id))
    try:
        return await gateway.wait(id)
    finally:
        telling.cancel()
        await asyncio.wait([telling])


async def _tell_progress(gateway: Gateway, context: Context, id: str) -> None:
    """Never fails: that progress is not told is no reason to have no result."""
    told = _Progress(context.session.report_progress)
    beats = asyncio.ensure_future(told.beat())
    try:
        async for seen in gateway.progress(id):
            if isinstance(seen, StreamChunk):
                await told.tell(seen.value)
    except Exception as error:
        _log.debug("progress of %s is not told any more: %r", id, error)
    try:
        await asyncio.wait([beats])
    finally:
        beats.cancel()


class _Progress:
    """Progress has to grow: what a handler says of it may not."""

    def __init__(self, report: Callable[..., Any]) -> None:
        self._report = report
        self._last = 0.0
        self._spoke = False

    async def beat(self) -> None:
        with contextlib.suppress(Exception):  # the client is gone
            while not self._spoke:
                await asyncio.sleep(_BEAT_SECONDS)
                await self._tell(self._last + 1, None, "running")

    async def tell(self, value: Any) -> None:
        """A number, `{"progress", "total"?, "message"?}`, or anything else, which is the message."""
        self._spoke = True
        facts = value if isinstance(value, dict) and "progress" in value else {"message": value}
        if isinstance(value, int | float) and not isinstance(value, bool):
            facts = {"progress": value}
        progress, total, message = facts.get("progress"), facts.get("total"), facts.get("message")
        number = progress if isinstance(progress, int | float) else self._last + 1
        if number > self._last or (progress is None):
            words = None if message is None else str(message)
            await self._tell(float(number), total if isinstance(total, int | float) else None, words)

    async def _tell(self, progress: float, total: float | None, message: str | None) -> None:
        self._last = progress
        await self._report(progress, total, message)


# ---- long calls


class _Control:
    """A tool about invocations."""

    def __init__(self, described: types.Tool, carry_out: Callable[..., Awaitable[types.CallToolResult]]) -> None:
        self.described = described
        self.carry_out = carry_out


async def _start(gateway: Gateway, arguments: dict[str, Any], key: str) -> types.CallToolResult:
    name, given = arguments.get("tool"), arguments.get("arguments", {})
    if not isinstance(name, str) or not isinstance(given, dict):
        raise Invalid("perdure_start: tool must be a tool's name, and arguments an object")
    tool = await gateway.tool(name)
    id = await gateway.start(tool, given, key)
    return _said({"invocation": id, "tool": name, "status": "accepted"}, id)


async def _status(gateway: Gateway, arguments: dict[str, Any], key: str) -> types.CallToolResult:
    status = await gateway.status(_invocation(arguments))
    return _said(status, status["invocation"])


async def _result(gateway: Gateway, arguments: dict[str, Any], key: str) -> types.CallToolResult:
    id = _invocation(arguments)
    seconds = arguments.get("wait_seconds", _USUAL_WAIT_SECONDS)
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds <= _LONGEST_WAIT_SECONDS:
        raise Invalid(f"perdure_result: wait_seconds must be from 0 to {_LONGEST_WAIT_SECONDS:.0f}")
    status = await gateway.status(id)
    try:
        if seconds:
            content = await asyncio.wait_for(gateway.wait(id), seconds)
        else:
            content = await gateway.output(id)
    except (TimeoutError, NotReady):
        return _said({**await gateway.status(id), "note": "no result yet: ask again"}, id)
    except PerdureError as error:
        return failed(error, id)
    return answered(content, True, status["invocation"])


async def _cancelled(gateway: Gateway, arguments: dict[str, Any], key: str) -> types.CallToolResult:
    status = await gateway.status(_invocation(arguments))
    await gateway.cancel(status["invocation"])
    return _said({**status, "note": "it was asked to stop"}, status["invocation"])


def _invocation(arguments: dict[str, Any]) -> str:
    id = arguments.get("invocation")
    if not isinstance(id, str) or not id.startswith("inv_"):
        raise Invalid("invocation must be an id: inv_...")
    return id


def _said(facts: dict[str, Any], id: str) -> types.CallToolResult:
    return answered(msgspec.json.encode(facts), True, id)


def _control(name: str, description: str, properties: dict[str, Any], required: list[str], do: Any) -> _Control:
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    read_only = do in (_status, _result)
    annotations = types.ToolAnnotations(read_only_hint=True) if read_only else None
    tool = types.Tool(name=name, description=description, input_schema=schema, annotations=annotations)
    return _Control(tool, do)


_INVOCATION: Final = {"invocation": {"type": "string", "description": "The invocation's id: inv_..."}}
_WAIT: Final = {
    "type": "number",
    "minimum": 0,
    "maximum": _LONGEST_WAIT_SECONDS,
    "default": _USUAL_WAIT_SECONDS,
    "description": "How long to wait for the result.",
}
_CONTROLS: Final = {
    "perdure_start": _control(
        "perdure_start",
        "Begins a call of another tool, and answers at once with its invocation id.",
        {
            "tool": {"type": "string", "description": "The name of the tool to call."},
            "arguments": {"type": "object", "description": "Its arguments."},
        },
        ["tool"],
        _start,
    ),
    "perdure_status": _control("perdure_status", "How an invocation stands.", _INVOCATION, ["invocation"], _status),
    "perdure_result": _control(
        "perdure_result",
        "The result of an invocation; if there is none in time, how it stands.",
        {**_INVOCATION, "wait_seconds": _WAIT},
        ["invocation"],
        _result,
    ),
    "perdure_cancel": _control(
        "perdure_cancel", "Asks an invocation to stop.", _INVOCATION, ["invocation"], _cancelled
    ),
}
