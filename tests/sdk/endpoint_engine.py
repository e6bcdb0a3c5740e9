"""An ASGI client in memory, and an engine small enough to be read: it keeps one journal and answers every command.

The engine runs an invocation to its end, in as many attempts as that takes. It can lose the connection at any message,
half-close whenever the handler waits, or call it in request/response mode; the outcome must not depend on it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from perdure.model import entries as e
from perdure.model.ids import format_invocation_id, random_seed
from perdure.model.invocation import Target
from perdure.model.services import HandlerKind, RetryPolicy
from perdure.protocol import control, versions
from perdure.protocol.exchange import EngineEnd
from perdure.sdk.app import App

ID = bytes(23) + b"\x07"
QUIET_S = 0.02
LONG_S = 2.0
PATIENCE_S = 10.0


class Exchange:
    """One request to an application and its response."""

    def __init__(
        self, app: App, method: str, path: str, headers: Mapping[str, str] = {}, http_version: str = "2"
    ) -> None:
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._sent: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.stuck = asyncio.Event()  # cleared: the client does not read
        self.stuck.set()
        scope = {
            "type": "http",
            "http_version": http_version,
            "method": method,
            "path": path,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        self.task = asyncio.create_task(self._serve(app, scope))

    async def _serve(self, app: App, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._events.get, self._send)
        finally:
            self._sent.put_nowait(None)

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            await self.stuck.wait()
            self._sent.put_nowait(message)

    def write(self, data: bytes) -> None:
        self._events.put_nowait({"type": "http.request", "body": data, "more_body": True})

    def close(self) -> None:
        self._events.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    def disconnect(self) -> None:
        self._events.put_nowait({"type": "http.disconnect"})

    async def read(self, timeout_s: float = PATIENCE_S) -> bytes | None:
        """The next piece of the body; None at its end. Raises `TimeoutError`."""
        message = await asyncio.wait_for(self._sent.get(), timeout_s)
        if message is None:
            await self.task
            return None
        if not message.get("more_body", False):
            body: bytes = message["body"]
            return body or None
        return bytes(message["body"])

    async def whole(self) -> bytes:
        """The body to its end."""
        body = b""
        while (piece := await self.read()) is not None:
            body += piece
        return body


async def ask(app: App, method: str, path: str, headers: Mapping[str, str] = {}, http_version: str = "2") -> Exchange:
    """A request without a body, answered. `.status`, `.headers`; the body is in `.body`."""
    exchange = Exchange(app, method, path, headers, http_version)
    exchange.close()
    exchange.body = await exchange.whole()  # type: ignore[attr-defined]
    return exchange


class NotYet(Exception):
    """What is to be answered was not asked yet."""


class Lost(Exception):
    """The connection was lost on purpose."""


class SmallEngine:
    """One invocation of `Service/handler`. `world` are things that happen when nothing else does, in this order."""

    def __init__(
        self,
        app: App,
        handler: str,
        body: bytes = b"",
        *,
        version: int = 6,
        bidirectional: bool = True,
        world: "list[Callable[[SmallEngine], None]] | None" = None,
        state: dict[str, bytes] | None = None,
        key: str | None = None,
        lose_at: int | None = None,
        keep_last: bool = False,
        piece: int | None = None,
        half_close: bool = False,
        impatient: bool = False,
    ) -> None:
        self.app = app
        self.handler = handler
        self.version = version
        self.bidirectional = bidirectional
        self.world = list(world or [])
        self.state = state
        self.key = key
        self.journal: list[e.Entry] = [e.Input(body)]
        self.result: e.Value | e.Failure | None = None
        self.errors: list[control.Error] = []
        self.suspensions: list[control.Suspension] = []
        self.attempts = 0
        self.messages = 0
        self.now = 1_700_000_000_000
        self.promises: dict[str, e.Value | e.Failure] = {}
        self.lose_at = lose_at
        self.keep_last = keep_last
        self.piece = piece
        self.half_close = half_close or impatient
        self.impatient = impatient  # half-closes while steps run, too, as an inactivity timeout does
        self._end: EngineEnd
        self._exchange: Exchange | None = None
        self._closed = False

    async def run(self) -> "SmallEngine":
        failures = 0
        while self.result is None or not self._ended:
            assert self.attempts < 300
            try:
                last = await self.attempt(failures)
            except Lost:
                failures += 1
                continue
            if isinstance(last, control.Error):
                failures += 1
                if last.failure.code in (570, 571) or failures > 20:
                    raise AssertionError(last.failure)
            else:
                failures = 0
            if isinstance(last, control.Suspension) and not self._is_answered(last):
                self._go_on()
        return self

    _ended = False

    def _is_answered(self, suspension: control.Suspension) -> bool:
        waiting = suspension.waiting
        notifications = [entry for entry in self.journal if isinstance(entry, e.Completion | e.Signal)]
        for entry in notifications[suspension.seen or 0 :]:
            if isinstance(entry, e.Completion):
                if entry.completion_id in waiting.completions:
                    return True
            elif entry.signal in waiting.signals or entry.signal in waiting.names:
                return True
        return False

    async def attempt(self, failures: int) -> control.FromHandler:
        self.attempts += 1
        service, _, handler = self.handler.partition("/")
        target = Target(service, handler, HandlerKind.PLAIN, self.key)
        start = control.Start(
            ID, target, tuple(self.journal), self.state, random_seed(ID), failures + 1, failures, 0, {}, RetryPolicy()
        )
        self._end = EngineEnd(start, self.version)
        exchange = Exchange(
            self.app, "POST", f"/mounted/invoke/{self.handler}", {"content-type": versions.content_type(self.version)}
        )
        self._exchange, self._closed = exchange, False
        opening = self._end.opening()
        for at in range(0, len(opening), self.piece or len(opening)):
            exchange.write(opening[at : at + (self.piece or len(opening))])
        if not self.bidirectional:
            self._half_close()
        try:
            last = await self._converse(exchange)
            self._half_close()
            assert await exchange.read() is None
            return last
        finally:
            self._exchange = None
            exchange.disconnect()
            await asyncio.wait_for(exchange.task, PATIENCE_S)

    async def _converse(self, exchange: Exchange) -> control.FromHandler:
        silence_s = 0.0
        while True:
            try:
                data = await exchange.read(QUIET_S)
            except TimeoutError:
                silence_s += QUIET_S
                assert silence_s < PATIENCE_S, "neither a message nor an end"
                if self.bidirectional:
                    self._be_quiet(silence_s)
                continue
            assert data is not None, "the response ended without a last message"
            silence_s = 0.0
            for message in self._end.feed(data, self.now):
                self._receive(message)
                if isinstance(message, control.Suspension | control.Error | control.End):
                    return message

    def _be_quiet(self, silence_s: float) -> None:
        """The machine may only be slow, so what happens now must not depend on when it does."""
        if self.half_close or silence_s > LONG_S:
            if self.impatient or not self._end.running:
                self._half_close()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """The next thing happens in the world, if it can already."""
        if self.world:
            with contextlib.suppress(NotYet):
                self.world[0](self)
                self.world.pop(0)

    def _half_close(self) -> None:
        if not self._closed and self._exchange is not None:
            self._closed = True
            self._exchange.close()

    # The journal

    def append(self, notification: e.Notification) -> None:
        self.journal.append(notification)
        if self._exchange is not None and not self._closed:
            self._exchange.write(self._end.notify(notification))

    def complete(self, type: int, completion_id: int, result: e.Result) -> None:
        self.append(e.Completion(type, completion_id, result))

    def _receive(self, message: control.FromHandler) -> None:
        lost = self.messages == self.lose_at
        self.messages += 1
        if lost and not self.keep_last:
            raise Lost
        if isinstance(message, control.Error):
            self.errors.append(message)
        elif isinstance(message, control.Suspension):
            self.suspensions.append(message)
        elif isinstance(message, control.ProposeRun):
            self.complete(e.RUN_COMPLETION, message.completion_id, message.result)
        elif isinstance(message, control.End):
            self._ended = True
        elif not isinstance(message, control.AwaitingOn | control.StepFailed):
            self.journal.append(message)
            self._answer(message)
        if lost:
            raise Lost

    def _answer(self, command: e.Command) -> None:
        if isinstance(command, e.Output):
            self.result = command.result
        elif isinstance(command, e.GetLazyState):
            self.complete(e.GET_LAZY_STATE_COMPLETION, command.completion_id, e.VOID)
        elif isinstance(command, e.Sleep):
            if command.name == "now":
                self.complete(e.SLEEP_COMPLETION, command.completion_id, e.VOID)
        elif isinstance(command, e.Call | e.OneWayCall):
            callee = format_invocation_id(bytes(22) + b"\x09" + bytes([command.invocation_id_completion_id]))
            identity = e.InvocationIdResult(callee)
            self.complete(e.CALL_INVOCATION_ID_COMPLETION, command.invocation_id_completion_id, identity)
        elif isinstance(command, e.PeekPromise):
            found = self.promises.get(command.key, e.VOID)
            self.complete(e.PEEK_PROMISE_COMPLETION, command.completion_id, found)
        elif isinstance(command, e.CompletePromise):
            self.promises[command.key] = command.result
            self.complete(e.COMPLETE_PROMISE_COMPLETION, command.completion_id, e.VOID)

    # What happens outside

    def unanswered(self, kind: type[e.Command]) -> Any:
        """The first command of that kind without a completion."""
        settled = {entry.completion_id for entry in self.journal if isinstance(entry, e.Completion)}
        for entry in self.journal:
            if isinstance(entry, kind) and entry.completion_id not in settled:  # type: ignore[union-attr]
                return entry
        raise NotYet

    def end_sleep(self) -> None:
        self.complete(e.SLEEP_COMPLETION, self.unanswered(e.Sleep).completion_id, e.VOID)

    def return_call(self, content: bytes) -> None:
        self.complete(e.CALL_COMPLETION, self.unanswered(e.Call).completion_id, e.Value(content))

    def signal(self, signal: int | str, result: e.Value | e.Failure | e.Void) -> None:
        self.append(e.Signal(signal, result))
