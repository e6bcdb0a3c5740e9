"""Which services there are, and what a call to one of their handlers means."""

from collections.abc import Iterable

from perdure.errors import NotFound
from perdure.model.invocation import Retention, Target
from perdure.model.services import HandlerInfo, HandlerKind, ServiceInfo

__all__ = ["Registry", "retention_of"]


class Registry:
    """The services this node can run."""

    def __init__(self, services: Iterable[ServiceInfo] = ()) -> None:
        self._services: dict[str, ServiceInfo] = {}
        for service in services:
            self._services[service.name] = service

    def services(self) -> list[ServiceInfo]:
        return list(self._services.values())

    def service(self, name: str) -> ServiceInfo | None:
        return self._services.get(name)

    def handler(self, service: str, handler: str) -> HandlerInfo | None:
        known = self._services.get(service)
        return None if known is None else known.handlers.get(handler)

    def target(self, service: str, handler: str, key: str | None) -> Target:
        """The target of a call; raises `NotFound` if there is no such service or handler."""
        known = self._services.get(service)
        if known is None:
            raise NotFound(f"service {service!r} not found; registered: {', '.join(self._services) or 'none'}")
        info = known.handlers.get(handler)
        if info is None:
            raise NotFound(f"service {service!r} has no handler {handler!r}; it has: {', '.join(known.handlers)}")
        return Target(service, handler, info.kind, key)


def retention_of(info: HandlerInfo, idempotency_key: str | None) -> Retention:
    """How long the result and the journal of an invocation are kept once it is completed."""
    if info.kind is HandlerKind.WORKFLOW:
        completion = info.workflow_retention_ms
    elif idempotency_key is not None:
        completion = info.idempotency_retention_ms
    else:
        return Retention(info.journal_retention_ms, info.journal_retention_ms)
    return Retention(completion, min(info.journal_retention_ms, completion))
