"""A node that records what it is asked and answers what it is told to, and an ASGI client without a socket."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from perdure.errors import Invalid
from perdure.model import ids
from perdure.model.actions import Accepted, AlreadyInvoked, Answer, Description, Done, Refused
from perdure.model.entries import Failure, Signal, Value
from perdure.model.ids import InvocationId
from perdure.model.invocation import Target
from perdure.model.services import HandlerInfo, HandlerKind, ServiceInfo, ServiceKind
from perdure.runtime.registry import Registry

ID = ids.invocation_id(bytes(range(8)), bytes(range(16)))
ID_TEXT = ids.format_invocation_id(ID)
AWAKEABLE = ids.awakeable_id(ID, 17)


def service(name: str, kind: ServiceKind, *handlers: HandlerInfo) -> ServiceInfo:
    return ServiceInfo(name, kind, {handler.name: handler for handler in handlers})


def handler(service: str, name: str, kind: HandlerKind = HandlerKind.PLAIN, **options: Any) -> HandlerInfo:
    """A handler that takes whatever is sent, unless told otherwise."""
    return HandlerInfo(service, name, kind, **{"input_content_type": "*/*", **options})


JSON_INPUT: dict[str, Any] = {"input_content_type": "application/json", "input_schema": {}, "input_required": True}
SERVICES = (
    service(
        "Greeter",
        ServiceKind.SERVICE,
        handler("Greeter", "greet"),
        handler("Greeter", "send"),
        handler("Greeter", "strict", **JSON_INPUT),
        handler("Greeter", "json", input_content_type="application/json"),
        handler("Greeter", "optional", input_content_type="application/json", input_schema={}),
        handler("Greeter", "text", input_content_type="text/*", output_content_type="text/plain"),
        handler("Greeter", "anything", input_content_type="*/*", input_required=True),
        handler("Greeter", "silent", output_content_type=None),
        handler("Greeter", "hidden", private=True),
    ),
    service(
        "Counter",
        ServiceKind.VIRTUAL_OBJECT,
        handler("Counter", "add", HandlerKind.EXCLUSIVE),
        handler("Counter", "get", HandlerKind.SHARED, output_content_type="text/plain"),
    ),
    service(
        "Signup",
        ServiceKind.WORKFLOW,
        handler("Signup", "run", HandlerKind.WORKFLOW, output_content_type="text/plain"),
        handler("Signup", "click", HandlerKind.SHARED),
    ),
)


class FakeNode:
    """`answer` is the outcome of every operation: a value, an error to raise, or a coroutine function to await."""

    def __init__(self, answer: Any = None) -> None:
        self.registry = Registry(SERVICES)
        self.ready = True
        self.failure: BaseException | None = None
        self.answer = answer if answer is not None else Answer(ID, Value(b'"hi"'))
        self.asked: list[tuple[Any, ...]] = []

    async def _respond(self, *asked: Any) -> Any:
        self.asked.append(asked)
        if isinstance(self.answer, BaseException):
            raise self.answer
        if callable(self.answer):
            return await self.answer()
        return self.answer

    async def call(
        self,
        target: Target,
        body: bytes,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        idempotency_key: str | None = None,
        on_accepted: Callable[[InvocationId], None] | None = None,
    ) -> Answer | AlreadyInvoked:
        if on_accepted is not None and not isinstance(self.answer, BaseException):
            on_accepted(ID)
        return await self._respond("call", target, body, headers, idempotency_key)  # type: ignore[no-any-return]

    async def send(
        self,
        target: Target,
        body: bytes,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        idempotency_key: str | None = None,
        delay_ms: int | None = None,
    ) -> Accepted:
        return await self._respond("send", target, body, headers, idempotency_key, delay_ms)  # type: ignore[no-any-return]

    async def attach(self, id: InvocationId) -> Answer | Refused:
        return await self._respond("attach", id)  # type: ignore[no-any-return]

    async def output(self, id: InvocationId) -> Answer | Refused:
        return await self._respond("output", id)  # type: ignore[no-any-return]

    async def signal(self, id: InvocationId, signal: Signal) -> None:
        await self._respond("signal", id, signal)

    async def complete_awakeable(self, awakeable_id: str, result: Value | Failure) -> None:
        await self._respond("complete_awakeable", awakeable_id, result)

    async def cancel(self, id: InvocationId) -> Done | Refused:
        return await self._respond("cancel", id)  # type: ignore[no-any-return]

    async def kill(self, id: InvocationId) -> Done | Refused:
        return await self._respond("kill", id)  # type: ignore[no-any-return]

    async def pause(self, id: InvocationId) -> Done | Refused:
        return await self._respond("pause", id)  # type: ignore[no-any-return]

    async def resume(self, id: InvocationId, deployment: str | None = None) -> Done | Refused:
        return await self._respond("resume", id, deployment)  # type: ignore[no-any-return]

    async def purge(self, id: InvocationId, journal_only: bool = False) -> Done | Refused:
        return await self._respond("purge", id, journal_only)  # type: ignore[no-any-return]

    async def restart(self, id: InvocationId, keep: int = 1, deployment: str | None = "") -> Done | Refused:
        return await self._respond("restart", id, keep, deployment)  # type: ignore[no-any-return]

    async def describe(self, id: InvocationId) -> Description | Refused:
        return await self._respond("describe", id)  # type: ignore[no-any-return]

    async def state(self, service: str, key: str) -> dict[str, bytes]:
        return await self._respond("state", service, key)  # type: ignore[no-any-return]

    async def change_state(
        self,
        service: str,
        key: str,
        changes: dict[str, bytes | None],
        replace: bool = False,
        version: str | None = None,
    ) -> Done:
        asked = (service, key, changes, replace, *([] if version is None else [version]))
        return await self._respond("change_state", *asked)  # type: ignore[no-any-return]

    def invocation_id(self, target: Target, idempotency_key: str | None) -> InvocationId:
        if target.kind is HandlerKind.WORKFLOW:
            return ids.invocation_id(
                ids.partition_key_of(target.key or ""), ids.workflow_uuid(target.service, target.key or "")
            )
        if not idempotency_key:
            raise Invalid("no idempotency key")
        uuid = ids.idempotent_uuid(target.service, target.key, target.handler, idempotency_key)
        return ids.invocation_id(ids.partition_key_of(target.key or idempotency_key), uuid)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


App = Callable[[Any, Any, Any], Awaitable[None]]


class Web:
    """Sends requests to an ASGI application. A body given in chunks comes without a content-length."""

    def __init__(self, app: App) -> None:
        self.app = app

    def scope(self, method: str, path: str, headers: Iterable[tuple[str, str | bytes]]) -> dict[str, Any]:
        raw, _, query = path.partition("?")
        return {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": raw,
            "raw_path": raw.encode(),
            "query_string": query.encode(),
            "headers": [
                (name.lower().encode(), value if isinstance(value, bytes) else value.encode())
                for name, value in headers
            ],
        }

    async def __call__(
        self,
        method: str,
        path: str,
        body: bytes | list[bytes] = b"",
        *headers: tuple[str, str | bytes],
        gone: asyncio.Event | None = None,
    ) -> Reply | None:
        """The reply; None if the application sent none. The caller hangs up when `gone` is set."""
        chunks = body if isinstance(body, list) else [body]
        if isinstance(body, list):
            headers += (("transfer-encoding", "chunked"),)
        elif body and not any(name.lower() == "content-length" for name, _ in headers):
            headers += (("content-length", str(len(body))),)
        messages = [
            {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
            for index, chunk in enumerate(chunks)
        ]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            if gone is None:
                await asyncio.Event().wait()
            else:
                await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(self.scope(method, path, headers), receive, send)
        if not sent:
            return None
        start, *rest = sent
        fields: dict[str, str] = {}
        for name, value in start["headers"]:
            assert name.decode() not in fields, f"{name} twice"
            fields[name.decode()] = value.decode()
        return Reply(start["status"], fields, b"".join(each.get("body", b"") for each in rest))

    async def get(self, path: str, *headers: tuple[str, str | bytes]) -> Reply:
        reply = await self("GET", path, b"", *headers)
        assert reply is not None
        return reply

    async def post(self, path: str, body: bytes | list[bytes] = b"", *headers: tuple[str, str | bytes]) -> Reply:
        reply = await self("POST", path, body, *headers)
        assert reply is not None
        return reply

    async def patch(self, path: str, body: bytes = b"", *headers: tuple[str, str | bytes]) -> Reply:
        reply = await self("PATCH", path, body, *headers)
        assert reply is not None
        return reply
