"""A node whose endpoints elsewhere are apps of the test's process, behind the addresses it gives them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from perdure import App
from perdure.assembly import LocalNode, Reach, assemble
from perdure.model.deployments import AsgiEndpoint, Endpoint, HttpEndpoint, LambdaEndpoint
from perdure.protocol import versions
from perdure.storage.base import Storage
from perdure.storage.memory import MemoryStorage
from perdure.transports.asgi import AsgiApp, AsgiConnector
from perdure.transports.remote import Answer, ByteStream, Connector, Listener, Request

SDK = ("x-restate-server", "test-sdk/1")


def manifest(
    *services: Mapping[str, Any], oldest: int = 5, newest: int = 7, mode: str = "BIDI_STREAM", **more: Any
) -> dict[str, Any]:
    return {
        "protocolMode": mode,
        "minProtocolVersion": oldest,
        "maxProtocolVersion": newest,
        "services": list(services),
        **more,
    }


def service(name: str, ty: str = "SERVICE", *handlers: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "ty": ty, "handlers": [{"name": handler} for handler in handlers or ("greet",)], **options}


def answer(body: bytes, status: int = 200, content_type: str = versions.MANIFEST_TYPES[4]) -> Answer:
    return Answer(status, {"content-type": content_type, SDK[0]: SDK[1]}, body)


class World:
    """What is there, by address. `apps` are run, `manifests` (bytes, answers or errors to raise) only discovered.

    A connector to HTTP endpoints and Lambda functions.
    """

    def __init__(self) -> None:
        self.apps: dict[str, AsgiApp] = {}
        self.answers: dict[str, list[Answer | Exception]] = {}
        self.asked: list[tuple[str, Request]] = []
        self.began: list[tuple[str, str]] = []  # address and content type of every attempt
        self._asgi: AsgiConnector | None = None

    def _connector(self) -> AsgiConnector:
        if self._asgi is None:
            self._asgi = AsgiConnector(self.apps)
        return self._asgi

    def open(self, endpoint: Endpoint, request: Request, listener: Listener) -> ByteStream:
        self.began.append((endpoint.address, dict(request.headers)["content-type"]))
        return self._connector().open(AsgiEndpoint(endpoint.address), request, listener)

    async def fetch(self, endpoint: Endpoint, request: Request) -> Answer:
        self.asked.append((endpoint.address, request))
        waiting = self.answers.get(endpoint.address)
        if waiting is not None:
            found = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            if isinstance(found, Exception):
                raise found
            return found
        if endpoint.address not in self.apps:
            raise ConnectionError(f"can't connect to {endpoint.address}: refused")
        return await self._connector().fetch(AsgiEndpoint(endpoint.address), request)

    async def close(self) -> None:
        if self._asgi is not None:
            await self._asgi.close()
            self._asgi = None

    def reach(self, **options: Any) -> Reach:
        world = self

        class Reached(Reach):
            def _http(self) -> Connector:
                return world

            def _lambda(self) -> Connector:
                return world

        return Reached(**options)


@asynccontextmanager
async def running(
    world: World,
    storages: Sequence[Storage] | None = None,
    *apps: App,
    reach: dict[str, Any] | None = None,
    **more: Any,
) -> AsyncIterator[LocalNode]:
    stores = [MemoryStorage()] if storages is None else storages
    node = assemble(apps, stores, reach=world.reach(**(reach or {})), **more)
    await node.start()
    try:
        yield node
    finally:
        await node.stop(0)


def at(address: str) -> HttpEndpoint | LambdaEndpoint:
    return LambdaEndpoint(address) if address.startswith("arn:") else HttpEndpoint(address)
