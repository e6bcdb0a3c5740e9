"""An `App` as an endpoint of Restate's service protocol: an ASGI 3 application that any server of it can call.

    GET  .../discover                     what is served here, and in which versions of the protocol
    GET  .../health                       whether it is
    POST .../invoke/{service}/{handler}   one attempt of a handler, a stream of messages in both directions

The paths may stand behind any prefix. What an attempt is, is in `conversation`.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from perdure.errors import Unauthorized
from perdure.model.deployments import ProtocolMode
from perdure.protocol import versions
from perdure.protocol.identity import parse_public_key, verify
from perdure.protocol.manifest import ManifestError, write_manifest
from perdure.sdk.conversation import Conversation, Receive, Send
from perdure.sdk.host import EndpointHost
from perdure.sdk.logs import quiet_replays
from perdure.sdk.tracing import trace_of

if TYPE_CHECKING:
    from perdure.sdk.app import App

__all__ = ["Endpoint"]

_log = logging.getLogger("perdure.endpoint")

_ANY: Final = ("*/*", "application/*")


class Endpoint:
    """Answers the requests to an `App`; `mode` None is to be found out from how the server asks."""

    def __init__(self, app: "App", mode: ProtocolMode | None, identity_keys: Iterable[str]) -> None:
        self._app = app
        self._mode = mode
        self._keys = tuple([parse_public_key(text) for text in identity_keys])
        self._host: EndpointHost | None = None
        self._server = (b"x-restate-server", f"perdure-sdk-python/{_version()}".encode())

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            raise RuntimeError(f"a perdure App answers HTTP, not {scope['type']}")

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._hosted()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if self._host is not None:
                    self._host.close()
                    self._host = None
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _hosted(self) -> EndpointHost:
        """The host of this event loop; a server that knows no lifespan has it made by the first request."""
        loop = asyncio.get_running_loop()
        if self._host is None or self._host.loop is not loop:
            quiet_replays()
            self._host = EndpointHost(loop)
        return self._host

    async def _serve(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        segments = path.split("/")
        method = scope["method"]
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if method == "GET" and segments[-1] == "health" and segments[-3:-2] != ["invoke"]:
            await self._answer(send, 200, b'{"status":"ok"}', "application/json")
            return
        try:
            verify(headers, path, self._keys, self._hosted().now_ms() / 1000)
        except Unauthorized as error:
            _log.warning("%s %s: %s", method, path, error.message)
            await self._answer(send, 401, error.message)
            return
        if len(segments) >= 3 and segments[-3] == "invoke":
            if method != "POST":
                await self._answer(send, 405, "an invocation is a POST")
                return
            await self._invoke(segments[-2], segments[-1], headers, receive, send)
        elif segments[-1] == "discover" and method == "GET":
            await self._discover(scope, headers, send)
        else:
            await self._answer(send, 404, "not found; an endpoint has /discover, /health and /invoke/service/handler")

    # Discovery

    async def _discover(self, scope: Mapping[str, Any], headers: Mapping[str, str], send: Send) -> None:
        version = _manifest_version(headers.get("accept"))
        if version is None:
            known = ", ".join(versions.MANIFEST_TYPES.values())
            await self._answer(send, 415, f"this endpoint speaks {known}; the accept header names none of them")
            return
        mode = self._mode
        if mode is None:
            once = str(scope.get("http_version", "1.1")).startswith("1")
            mode = ProtocolMode.REQUEST_RESPONSE if once else ProtocolMode.BIDI_STREAM
        try:
            manifest = write_manifest([service.info for service in self._app.services.values()], mode, version)
        except ManifestError as error:
            _log.error("%s", error.message)
            await self._answer(send, 500, error.message)
            return
        await self._answer(send, 200, manifest, versions.MANIFEST_TYPES[version])

    # Invocations

    async def _invoke(
        self, service: str, handler: str, headers: Mapping[str, str], receive: Receive, send: Send
    ) -> None:
        known = self._app.services.get(service)
        definition = None if known is None else known.handlers.get(handler)
        if definition is None:
            await self._answer(send, 404, f"there is no handler {service}/{handler} here")
            return
        content_type = headers.get("content-type")
        version = versions.version_of(content_type)
        if version is None:
            oldest, newest = versions.content_type(versions.OLDEST), versions.content_type(versions.NEWEST)
            await self._answer(
                send,
                415,
                f"the content type {content_type!r} is none of {oldest} to {newest}: "
                "handlers are called through a server, at its ingress",
            )
            return
        # The head goes out before the journal is read: a server that waits for it must not wait long.
        await self._head(send, 200, [(b"content-type", versions.content_type(version).encode())])
        await Conversation(definition, version, self._hosted(), trace_of(headers)).run(receive, send)

    # Answers

    async def _head(self, send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [*headers, self._server]})

    async def _answer(self, send: Send, status: int, body: bytes | str, content_type: str = "text/plain") -> None:
        if isinstance(body, str):
            body = body.encode("utf-8", "backslashreplace")
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await self._head(send, status, headers)
        await send({"type": "http.response.body", "body": body, "more_body": False})


def _version() -> str:
    try:
        return metadata.version("perdure")
    except metadata.PackageNotFoundError:  # used from its source, without having been installed
        return "unknown"


def _manifest_version(accept: str | None) -> int | None:
    """The newest version that the header names, or allows by naming none in particular."""
    newest = max(versions.MANIFEST_TYPES)
    if accept is None:
        return newest
    for version in range(newest, 0, -1):
        if versions.MANIFEST_TYPES[version] in accept:
            return version
    return newest if any(kind in accept for kind in _ANY) else None
