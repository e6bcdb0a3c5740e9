"""One attempt of a handler over one HTTP request: bytes in, bytes out, and the handler's run between them.

Two things happen beside each other, and neither waits for the other: `_read` takes the request's body as it comes,
`_write` sends what the handler has said since it last did, in one piece. The handler's code runs in plain callbacks of
the event loop (`_deliver`), as everywhere. A response that the client does not read holds back the delivery of what
comes in, and with it the handler.

Whatever happens, the response ends with a last message (`Suspension`, `Error` or `End`) or because nobody is there to
read it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from msgspec.structs import replace

from perdure.errors import ProtocolError, RemoteProtocolError
from perdure.model.entries import Notification
from perdure.model.invocation import AttemptFailure, Target
from perdure.protocol.control import End, Error, Said, Start, Suspension
from perdure.protocol.exchange import HandlerEnd
from perdure.sdk.driver import HandlerRun
from perdure.sdk.service import HandlerDefinition
from perdure.sdk.serving import run_main
from perdure.sdk.steps import Host

__all__ = ["Conversation", "Receive", "Send"]

_log = logging.getLogger("perdure.endpoint")

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

UNSENT_LIMIT = 4 << 20
"""Bytes of a response that wait to be sent, from which on the handler is told nothing more until they are."""

HANG_UP_S = 10.0
"""How long a client may take to end its request after the last message; servers give an endpoint about as long."""

_LAST = (Suspension, Error, End)


class _EndOfInput:
    """The client has ended its request."""


class Conversation:
    """See the module's docstring. `run` answers one request; `trace` is what its headers say of traces."""

    __slots__ = (
        "_end",
        "_gone",
        "_inbox",
        "_input_over",
        "_over",
        "_run",
        "_scheduled",
        "_trace",
        "_trace_state",
        "_unsent",
        "_unsent_bytes",
        "_wake",
        "definition",
        "host",
    )

    def __init__(
        self, definition: HandlerDefinition, version: int, host: Host, trace: tuple[str, str] = ("", "")
    ) -> None:
        self.definition = definition
        self.host = host
        self._trace, self._trace_state = trace
        target = Target(definition.service, definition.name, definition.kind)
        self._end = HandlerEnd(target, version, definition.info.retry_policy)
        self._run: HandlerRun | None = None
        self._inbox: deque[Start | Notification | _EndOfInput | ProtocolError] = deque()
        self._scheduled = False
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._wake = asyncio.Event()
        self._input_over = asyncio.Event()
        self._over = False  # the last message was said
        self._gone = False  # nobody is there to read it

    async def run(self, receive: Receive, send: Send) -> None:
        """Take the request's body and send the response's, whose head was sent before."""
        loop = self.host.loop
        reader = loop.create_task(self._read(receive), name=f"reads for {self.definition.service}")
        hung_up = True
        try:
            await self._write(send)
            await self._wait_for_input_to_end()
            hung_up = self._gone
        finally:
            self._gone = True
            reader.cancel()
            loop.call_soon(self._abort)
        if not hung_up:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _wait_for_input_to_end(self) -> None:
        """Some servers drop a response whose request is not over yet."""
        try:
            async with asyncio.timeout(HANG_UP_S):
                await self._input_over.wait()
        except TimeoutError:
            _log.warning("%s/%s: the request did not end", self.definition.service, self.definition.name)

    # In

    async def _read(self, receive: Receive) -> None:
        try:
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    break
                if self._input_over.is_set():
                    raise RuntimeError("the ASGI server gave more of a request after its end")
                body = message.get("body")
                if body:
                    self._take(body)
                if not message.get("more_body", False):
                    self._end_input()
        except OSError as error:
            _log.debug("the connection was lost: %r", error)
        finally:
            self._input_over.set()
            if not self._over:
                self._hang_up()

    def _take(self, data: bytes) -> None:
        if self._over:
            return
        try:
            self._inbox.extend(self._end.feed(data))
        except ProtocolError as error:
            self._inbox.append(error)
        self._schedule()

    def _end_input(self) -> None:
        self._input_over.set()
        try:
            self._end.close()
            self._inbox.append(_EndOfInput())
        except ProtocolError as error:
            self._inbox.append(error)
        self._schedule()

    def _hang_up(self) -> None:
        """The client is gone."""
        self._gone = True
        self._input_over.set()
        self._wake.set()
        self.host.loop.call_soon(self._abort)

    def _schedule(self) -> None:
        if not self._scheduled and self._inbox and self._unsent_bytes < UNSENT_LIMIT:
            self._scheduled = True
            self.host.loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        """Give the handler what has come, as far as its answers are being read."""
        self._scheduled = False
        inbox = self._inbox
        try:
            while inbox and not self._over and not self._gone and self._unsent_bytes < UNSENT_LIMIT:
                self._give(inbox.popleft())
        except Exception as error:
            _log.exception("%s/%s: the attempt broke", self.definition.service, self.definition.name)
            self._break(f"the endpoint broke: {type(error).__name__}; its log says more")

    def _give(self, what: "Start | Notification | _EndOfInput | ProtocolError") -> None:
        if isinstance(what, ProtocolError):
            _log.warning("%s/%s: %s", self.definition.service, self.definition.name, what.message)
            self._break(what.message, what.code)
        elif isinstance(what, Start):
            if self._trace:
                what = replace(what, trace=self._trace, trace_state=self._trace_state)
            self._run = HandlerRun(self.definition, what, self._say, self.host, run_main)
            self._run.begin()
        else:
            run = self._run
            if run is None:
                raise RemoteProtocolError("a message before the journal was whole")
            if isinstance(what, _EndOfInput):
                run.close_input()
            else:
                run.notify(what)

    # Out

    def _say(self, message: Said) -> None:
        """What the handler's run says; called in the middle of it."""
        if self._over:
            return
        try:
            data = self._end.encode(message)
        except (ValueError, TypeError) as error:  # a number or a text that no message can hold
            _log.error("%s/%s: %r cannot be sent", self.definition.service, self.definition.name, type(message))
            self._break(f"{type(message).__name__} cannot be sent: {error}")
            return
        self._over = isinstance(message, _LAST)
        if data:
            self._unsent.append(data)
            self._unsent_bytes += len(data)
        self._wake.set()

    def _break(self, message: str, code: int = 500) -> None:
        """End the attempt with an error of the endpoint's own."""
        if self._over:
            return
        self._say(Error(AttemptFailure(message, code, self.host.now_ms())))
        self.host.loop.call_soon(self._abort)

    def _abort(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.abort()

    async def _write(self, send: Send) -> None:
        wake = self._wake
        while not self._gone:
            if self._unsent:
                data = b"".join(self._unsent)
                self._unsent.clear()
                try:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                except OSError as error:
                    _log.debug("the connection was lost: %r", error)
                    self._hang_up()
                    return
                self._unsent_bytes -= len(data)
                self._schedule()
            elif self._over:
                return
            else:
                wake.clear()
                await wake.wait()
