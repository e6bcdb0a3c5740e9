"""`App`: the services that are served together."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from perdure.model.services import HandlerKind
from perdure.sdk.service import AnyService, Service, VirtualObject, Workflow

if TYPE_CHECKING:
    from perdure.sdk.endpoint import Endpoint

__all__ = ["App"]

_Message: TypeAlias = MutableMapping[str, Any]


class App:
    """Services that are served together, by an engine in this process or as a remote deployment.

    Make it when all handlers are registered: this is where annotations that cannot be used are found, with a
    TypeError that names the handler. Two services of one name, and a workflow without a main, are a ValueError.

    As a remote deployment it is an ASGI application, for any ASGI server (docs/remote.md), that perdure and
    restate-server can call. `identity_keys` ("publickeyv1_...") are the servers' whose requests alone are answered;
    without them all are. `protocol` says how to be called, "bidi" (a conversation, needs HTTP/2) or
    "request-response"; it is found out from the version of HTTP unless it is given.
    """

    def __init__(
        self,
        *services: AnyService,
        identity_keys: Iterable[str] = (),
        protocol: Literal["bidi", "request-response"] | None = None,
    ) -> None:
        if protocol not in (None, "bidi", "request-response"):
            raise ValueError(f"protocol must be 'bidi' or 'request-response', not {protocol!r}")
        if isinstance(identity_keys, str):
            raise TypeError("identity_keys must be a list of keys, not one str")
        self.identity_keys = tuple(identity_keys)
        self.protocol = protocol
        self.services: dict[str, AnyService] = {}
        for service in services:
            if not isinstance(service, (Service, VirtualObject, Workflow)):
                raise TypeError(f"App takes services, virtual objects and workflows, not {service!r}")
            if service.name in self.services:
                given = "given twice" if self.services[service.name] is service else "the name of two services"
                raise ValueError(f"{service.name!r} is {given}; names in an App must differ")
            _check_complete(service)
            self.services[service.name] = service
        self._endpoint: Endpoint | None = None
        if self.identity_keys:
            self._served()  # a key that is none is found now

    def __repr__(self) -> str:
        return f"App({', '.join(self.services)})"

    def _served(self) -> "Endpoint":
        if self._endpoint is None:
            from perdure.model.deployments import ProtocolMode
            from perdure.sdk.endpoint import Endpoint

            modes = {"bidi": ProtocolMode.BIDI_STREAM, "request-response": ProtocolMode.REQUEST_RESPONSE}
            mode = None if self.protocol is None else modes[self.protocol]
            self._endpoint = Endpoint(self, mode, self.identity_keys)
        return self._endpoint

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """Answer one request of an ASGI server."""
        await self._served()(scope, receive, send)


def _check_complete(service: AnyService) -> None:
    kinds = [handler.kind for handler in service.handlers.values()]
    if isinstance(service, Workflow) and HandlerKind.WORKFLOW not in kinds:
        raise ValueError(f"workflow {service.name} has no main: decorate one function with @....main()")
    for handler in service.handlers.values():
        handler.resolve()
