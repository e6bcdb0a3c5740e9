"""`durable(server)`: an MCP client whose calls are steps in a handler."""

import asyncio
import dataclasses
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar
from weakref import WeakKeyDictionary

from mcp import Client, ClientSession, StdioServerParameters, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError

from perdure.ai.base import durable_call, durable_context, tool_call
from perdure.ai.mcp import questions
from perdure.ai.mcp.connections import Pool
from perdure.ai.mcp.failures import HttpTrouble, session_is_gone, translated
from perdure.ai.mcp.formats import anthropic_tools, openai_response_tools, openai_tools, text_of
from perdure.ai.mcp.journaled import ANSWER, wire
from perdure.errors import TerminalError
from perdure.model.services import RetryPolicy
from perdure.sdk.context import Context
from perdure.sdk.steps import current_step

if TYPE_CHECKING:
    import httpx2
    from langchain_core.tools import StructuredTool

__all__ = ["IDEMPOTENCY_KEY", "DurableServer", "durable"]

IDEMPOTENCY_KEY: Final = "perdure/idempotency-key"
"""Where in a call's `_meta` the step's token is: the same for every attempt of this call, and for no other call."""

_PAGE_LIMIT = 100  # of a list; a paginator without an end must not hold up a handler
_ROUND_LIMIT = 100  # of questions that a server may ask about one call
_ROUND_PAUSE_SECONDS = 1.0  # before a call is made again for which the server asked nothing but patience
T = TypeVar("T")


def durable(
    server: Any,
    *,
    name: str = "",
    transport: Literal["http", "sse"] = "http",
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
    retry: RetryPolicy | None = None,
    approval: Mapping[str, Any] | None = None,
    idle_seconds: float = 60.0,
    connect_seconds: float = 60.0,
    calls_at_once: int = 64,
) -> "DurableServer":
    """A client of an MCP server; in a handler what it asks is a step.

    `server` is

    * a URL, of streamable HTTP or with `transport="sse"` of the older way; `headers` go along with each request,
    * `mcp.StdioServerParameters`: a command, run while it is used,
    * an `mcp.Client` that is not entered, with whatever it was made with (callbacks, extensions),
    * a function that makes an `mcp.Client`, or one of `mcp`'s transports (`lambda: sse_client(url, auth=...)`),
    * a connected `mcp.Client` or `mcp.ClientSession`: used as it is, on the event loop it was connected on,
    * in tests, an `mcp.server.MCPServer`.

    `name` goes into the names of steps; two servers may have tools of the same name. `timeout` (seconds) is for each
    request. `retry` is the steps' policy, else the invocation's. `approval` are options of `ctx.approval` for what the
    server asks (`to`, `notify`, `timeout`, ...). A connection closes when it was not used for `idle_seconds`.

    Raises `TypeError` if it is no server.
    """
    return DurableServer(
        server,
        name=name,
        transport=transport,
        headers=headers,
        timeout=timeout,
        retry=retry,
        approval=approval,
        idle_seconds=idle_seconds,
        connect_seconds=connect_seconds,
        calls_at_once=calls_at_once,
    )


class DurableServer:
    """See `durable`. The methods have the names and results of `mcp.Client`; none needs a connection to be opened.

    `async with` closes the connection at the end, outside of handlers; in a handler it does nothing.
    """

    def __init__(
        self,
        server: Any,
        *,
        name: str,
        transport: str,
        headers: Mapping[str, str] | None,
        timeout: float | None,
        retry: RetryPolicy | None,
        approval: Mapping[str, Any] | None,
        idle_seconds: float,
        connect_seconds: float,
        calls_at_once: int,
    ) -> None:
        self.name = name
        self._timeout = timeout
        self._retry = retry
        self._approval = dict(approval or {})
        self._connected: ClientSession | None = None
        self._asks_itself = False  # the user's own callbacks answer what the server asks, within the step
        if isinstance(server, ClientSession):
            self._connected = server
        elif isinstance(server, Client) and _session_of(server) is not None:
            self._connected = _session_of(server)
        elif isinstance(server, Client):
            self._asks_itself = any((server.elicitation_callback, server.sampling_callback, server.extensions))
        make = _maker(server, transport, dict(headers or {}), timeout)
        self._pool = Pool(make, idle_seconds, connect_seconds, calls_at_once)
        self._lists: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if durable_context() is None:
            await self.close()

    async def close(self) -> None:
        """Closes the connection that this event loop has; the next call opens another."""
        await self._pool.close()

    # ---- lists

    async def list_tools(self, *, refresh: bool = False) -> types.ListToolsResult:
        """All tools, of all pages. In a handler a step, once: the list stays as it is for the whole invocation, also if
        the server changes it meanwhile; `refresh` asks again, in another step.
        """
        return await self._list("tools", types.ListToolsResult, refresh)

    async def list_resources(self, *, refresh: bool = False) -> types.ListResourcesResult:
        """All resources; kept as tools are."""
        return await self._list("resources", types.ListResourcesResult, refresh)

    async def list_resource_templates(self, *, refresh: bool = False) -> types.ListResourceTemplatesResult:
        """All templates of resources; kept as tools are."""
        return await self._list("resource_templates", types.ListResourceTemplatesResult, refresh)

    async def list_prompts(self, *, refresh: bool = False) -> types.ListPromptsResult:
        """All prompts; kept as tools are."""
        return await self._list("prompts", types.ListPromptsResult, refresh)

    async def tools_for_openai(self) -> list[dict[str, Any]]:
        """`tools=` of OpenAI's chat completions."""
        return openai_tools((await self.list_tools()).tools)

    async def tools_for_openai_responses(self) -> list[dict[str, Any]]:
        """`tools=` of OpenAI's responses."""
        return openai_response_tools((await self.list_tools()).tools)

    async def tools_for_anthropic(self) -> list[dict[str, Any]]:
        """`tools=` of Anthropic's messages."""
        return anthropic_tools((await self.list_tools()).tools)

    async def tools_for_langchain(self) -> "list[StructuredTool]":
        """Tools of LangChain, for agents and graphs; needs `langchain`. A result with `is_error` is a tool's error."""
        from langchain_core.tools import StructuredTool, ToolException

        def made(tool: types.Tool) -> StructuredTool:
            async def call(**arguments: Any) -> str:
                result = await self.call_tool(tool.name, arguments)
                if result.is_error:
                    raise ToolException(text_of(result))
                return text_of(result)

            return StructuredTool(
                name=tool.name,
                description=tool.description or tool.name,
                args_schema=tool.input_schema,
                coroutine=call,
                handle_tool_error=True,
            )

        return [made(tool) for tool in (await self.list_tools()).tools]

    async def _list(self, what: str, type: "type[T]", refresh: bool) -> T:
        async def pages(session: Any) -> Any:
            return await _all_pages(session, what)

        label = self._label(f"list {what}")
        context = durable_context()
        if context is None:
            return await self._ask(label, pages)  # type: ignore[no-any-return]
        lists = self._lists.setdefault(context, {})
        known = None if refresh else lists.get(what)
        if known is not None and not isinstance(known, asyncio.Future):
            return known  # type: ignore[no-any-return]
        if known is None:
            call = durable_call(label, lambda: self._ask(label, pages), serde=wire(type), retry=self._retry)
            if not isinstance(context, Context):
                lists[what] = result = await call
                return result  # type: ignore[no-any-return]
            known = lists[what] = asyncio.ensure_future(call)  # of several who ask at once, the first asks for all
        asked: asyncio.Future[T] = known
        try:
            return await asyncio.shield(asked)
        finally:
            if asked.done() and lists.get(what) is asked and (asked.cancelled() or asked.exception() is not None):
                del lists[what]

    # ---- calls

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: float | None = None,
        progress_callback: ProgressFnT | None = None,
        *,
        meta: Mapping[str, Any] | None = None,
        call_id: str | None = None,
    ) -> types.CallToolResult:
        """Call a tool; in a handler a step `tool <name> <call_id>`. A result with `is_error` is a result.

        `call_id` is the model's id of this call, if a model asked for it. `progress_callback` runs in the step: live,
        in every attempt, and not on replay. If the handler is cancelled, so is the request at the server.

        Raises `TerminalError` for errors of the protocol. What the server asks before it answers is asked with
        `ctx.approval`; a rejection is told to the server, and it is for the tool to say what comes of it.
        """

        def asked(inputs: dict[str, Any] | None, state: str | None) -> Callable[[], Any]:
            async def call(session: Any) -> Any:
                return await self._call(
                    session, name, arguments, read_timeout_seconds, progress_callback, meta, inputs, state
                )

            return lambda: self._ask(f"tool {name}", call)

        context = durable_context()
        if context is None:
            return self._answered(await asked(None, None)(), name)
        tool, inputs, state = self._label(name), None, None
        for _ in range(_ROUND_LIMIT):
            answer = await tool_call(tool, asked(inputs, state), call_id=call_id, serde=ANSWER, retry=self._retry)
            if not isinstance(answer, types.InputRequiredResult):
                return self._answered(answer, name)
            inputs = await questions.answers(context, answer, name, arguments, self._approval)
            state = answer.request_state
            if inputs is None:
                pause: Any = context.sleep(_ROUND_PAUSE_SECONDS)
                if inspect.isawaitable(pause):
                    await pause
        raise TerminalError(f"tool {name}: the server asks without end", 508)

    async def _call(
        self,
        session: Any,
        name: str,
        arguments: dict[str, Any] | None,
        timeout: float | None,
        progress: ProgressFnT | None,
        meta: Mapping[str, Any] | None,
        inputs: dict[str, Any] | None,
        state: str | None,
    ) -> Any:
        for last in (False, True):
            try:
                return await session.call_tool(
                    name,
                    arguments,
                    self._timeout if timeout is None else timeout,
                    progress,
                    input_responses=inputs,
                    request_state=state,
                    meta=_with_token(meta),
                    allow_input_required=True,
                )
            except MCPError as error:
                if error.code != types.HEADER_MISMATCH or last:
                    raise
                await _all_pages(session, "tools")  # the session has to know which arguments are headers too
        raise AssertionError

    def _answered(self, answer: Any, name: str) -> types.CallToolResult:
        if isinstance(answer, types.CallToolResult):
            return answer
        raise TerminalError(f"tool {name}: the server asks the user, and only a handler can", 501)

    async def read_resource(self, uri: str) -> types.ReadResourceResult:
        """The contents of a resource, text or bytes; in a handler a step."""

        async def read(session: Any) -> Any:
            return await session.read_resource(str(uri), meta=_with_token(None))

        return await self._step(f"resource {uri}", read, types.ReadResourceResult)

    async def get_prompt(self, name: str, arguments: dict[str, str] | None = None) -> types.GetPromptResult:
        """A prompt with its arguments filled in; in a handler a step."""

        async def get(session: Any) -> Any:
            return await session.get_prompt(name, arguments, meta=_with_token(None))

        return await self._step(f"prompt {name}", get, types.GetPromptResult)

    async def complete(
        self,
        ref: types.ResourceTemplateReference | types.PromptReference,
        argument: dict[str, str],
        context_arguments: dict[str, str] | None = None,
    ) -> types.CompleteResult:
        """What an argument of a prompt or a template may be; in a handler a step."""

        async def complete(session: Any) -> Any:
            return await session.complete(ref=ref, argument=argument, context_arguments=context_arguments)

        return await self._step("complete", complete, types.CompleteResult)

    async def _step(self, what: str, call: Callable[[Any], Awaitable[Any]], type: "type[T]") -> T:
        label = self._label(what)
        return await durable_call(  # type: ignore[no-any-return]
            label, lambda: self._ask(label, call), serde=wire(type), retry=self._retry
        )

    # ---- connections

    async def _ask(self, what: str, call: Callable[[Any], Awaitable[Any]]) -> Any:
        """On the real loop: in a step, or outside of handlers."""
        trouble = HttpTrouble()
        try:
            if self._connected is not None:
                return await call(self._connected)
            for last in (False, True):
                try:
                    async with self._pool.connection() as connection:
                        trouble = connection.trouble
                        client = await connection.client()
                        return await call(_Asking(client) if self._asks_itself else client.session)
                except MCPError as error:
                    if last or not session_is_gone(error):
                        raise
            raise AssertionError
        except Exception as error:
            if _token() is None:
                raise
            better = translated(error, f"MCP {what}", trouble)
            if better is error:
                raise
            raise better from error

    def _label(self, what: str) -> str:
        return f"{self.name}.{what}" if self.name else what


class _Asking:
    """A client whose own callbacks answer what the server asks, as its session."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client.session, name)

    async def call_tool(self, name: str, *args: Any, allow_input_required: bool = True, **options: Any) -> Any:
        return await self._client.call_tool(name, *args, **options)


def _token() -> str | None:
    try:
        return current_step().token
    except LookupError:
        return None


def _with_token(meta: Mapping[str, Any] | None) -> dict[str, Any] | None:
    token = _token()
    if token is None:
        return None if meta is None else dict(meta)
    return {IDEMPOTENCY_KEY: token, **(meta or {})}


def _session_of(client: Client) -> ClientSession | None:
    try:
        return client.session
    except RuntimeError:
        return None


async def _all_pages(session: Any, what: str) -> Any:
    """One result with what all pages have."""
    ask = getattr(session, f"list_{what}")
    whole = page = await ask()
    for _ in range(_PAGE_LIMIT):
        if page.next_cursor is None:
            return whole
        page = await ask(params=types.PaginatedRequestParams(cursor=page.next_cursor))
        field = "resource_templates" if what == "resource_templates" else what
        getattr(whole, field).extend(getattr(page, field))
        whole.next_cursor = None
    raise TerminalError(f"the server's list of {what} has more than {_PAGE_LIMIT} pages", 502)


def _maker(
    server: Any, transport: str, headers: dict[str, str], timeout: float | None
) -> Callable[[HttpTrouble], Client]:
    """What makes a client for a new connection; each connection needs a client of its own."""
    if isinstance(server, str):
        if not server.startswith(("http://", "https://")):
            raise TypeError(f"durable() takes a URL, which begins with http:// or https://, not {server!r}")
        if transport == "sse":
            return lambda trouble: _client(sse_client(server, headers=headers), timeout)
        return lambda trouble: _client(_http(server, headers, trouble), timeout)
    if isinstance(server, Client):
        if hasattr(server.server, "__aenter__"):
            if _session_of(server) is None:
                raise TypeError("a transport connects once: give durable() a function that makes the Client")
            return lambda trouble: server
        return lambda trouble: dataclasses.replace(server, **_usual(server))
    if isinstance(server, ClientSession):
        return lambda trouble: Client(server)  # type: ignore[arg-type]  # it is connected, and this is never called
    if isinstance(server, StdioServerParameters) or hasattr(server, "streamable_http_app"):
        return lambda trouble: _client(server, timeout)
    if callable(server):
        return lambda trouble: _made(server(), timeout)
    raise TypeError(f"durable() takes an MCP server (a URL, StdioServerParameters, a Client), not {server!r}")


def _made(made: Any, timeout: float | None) -> Client:
    return made if isinstance(made, Client) else _client(made, timeout)


def _client(server: Any, timeout: float | None) -> Client:
    return Client(server, read_timeout_seconds=timeout, elicitation_callback=questions.refuse)


def _usual(client: Client) -> dict[str, Any]:
    return {} if client.elicitation_callback is not None else {"elicitation_callback": questions.refuse}


@asynccontextmanager
async def _http(url: str, headers: dict[str, str], trouble: HttpTrouble) -> AsyncIterator[Any]:
    async def seen(response: "httpx2.Response") -> None:
        if response.status_code >= 400:
            trouble.status, trouble.headers = response.status_code, dict(response.headers)

    async with create_mcp_http_client(headers=headers or None) as http:
        http.event_hooks["response"] = [*http.event_hooks["response"], seen]
        async with streamable_http_client(url, http_client=http) as streams:
            yield streams
