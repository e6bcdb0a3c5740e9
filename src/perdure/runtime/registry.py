"""Which services there are, where each is served, and what a call to one of their handlers means.

A service of this process comes before one of the same name that is deployed elsewhere. Of several deployments the one
with the service's highest revision is its latest: new invocations go there, those that have begun stay where they are.
"""

from collections.abc import Iterable
from typing import NamedTuple

from perdure.errors import NotFound
from perdure.model.deployments import Deployment, Revision
from perdure.model.ids import IN_PROCESS
from perdure.model.invocation import Retention, Target
from perdure.model.services import HandlerInfo, HandlerKind, ServiceInfo, Usual

__all__ = ["Registry", "Route", "retention_of"]


class Route(NamedTuple):
    """A handler and where it is served; `deployment` is None for what runs in this process."""

    info: HandlerInfo
    deployment: Deployment | None


class Registry:
    """The services this node can have run."""

    def __init__(
        self,
        services: Iterable[ServiceInfo] = (),
        usual: Usual | None = None,
        builtin: Iterable[ServiceInfo] = (),
    ) -> None:
        """`builtin` are services like others, except that nobody is told of them."""
        self.usual = usual or Usual()
        """What holds for handlers that do not say otherwise, from when they are registered."""
        hidden = {service.name: service for service in builtin}
        self._local: dict[str, ServiceInfo] = hidden | {each.name: self.usual.filled_in(each) for each in services}
        self._hidden = {name for name, service in hidden.items() if self._local[name] is service}
        self._deployments: dict[str, Deployment] = {}
        self._latest: dict[str, tuple[Deployment, Revision]] = {}
        self._services: dict[str, ServiceInfo] = dict(self._local)

    # Deployments

    def deploy(self, deployment: Deployment) -> None:
        """A deployment is there, or has changed."""
        self._deployments[deployment.id] = deployment
        self._choose()

    def undeploy(self, id: str) -> None:
        """A deployment is gone."""
        if self._deployments.pop(id, None) is not None:
            self._choose()

    def _choose(self) -> None:
        latest: dict[str, tuple[Deployment, Revision]] = {}
        for deployment in self._deployments.values():
            for name, revision in deployment.revisions.items():
                known = latest.get(name)
                if known is None or _comes_before(deployment, revision, *known):
                    latest[name] = (deployment, revision)
        self._latest = latest
        self._services = {name: revision.info for name, (_, revision) in latest.items()} | self._local

    def deployments(self) -> list[Deployment]:
        """Those that are stored, oldest first."""
        return [each for each in self._deployments.values() if each.stored]

    def deployment(self, id: str) -> Deployment | None:
        return self._deployments.get(id)

    def latest(self, service: str) -> tuple[Deployment, Revision] | None:
        """Where a service is served elsewhere, and as what; None if only here or nowhere."""
        return self._latest.get(service)

    def here(self) -> list[ServiceInfo]:
        """What this process serves."""
        apps = [each for each in self._deployments.values() if not each.stored]
        elsewhere = [revision.info for each in apps for revision in each.revisions.values()]
        return [*(info for name, info in self._local.items() if name not in self._hidden), *elsewhere]

    def whereabouts(self, service: str) -> tuple[str, int]:
        """The id of the deployment that new invocations of a service go to, and the service's revision there."""
        latest = self._latest.get(service)
        if service in self._local or latest is None or not latest[0].stored:
            return IN_PROCESS, 1
        return latest[0].id, latest[1].number

    # Services

    def services(self) -> list[ServiceInfo]:
        """All but the built-in ones."""
        return [info for name, info in self._services.items() if name not in self._hidden]

    def service(self, name: str) -> ServiceInfo | None:
        return self._services.get(name)

    def handler(self, service: str, handler: str) -> HandlerInfo | None:
        """The handler as a new invocation would find it."""
        known = self._services.get(service)
        return None if known is None else known.handlers.get(handler)

    def target(self, service: str, handler: str, key: str | None) -> Target:
        """The target of a call; raises `NotFound` if there is no such service or handler."""
        known = self._services.get(service)
        if known is None:
            raise NotFound(f"service {service!r} not found; registered: {self._names() or 'none'}")
        info = known.handlers.get(handler)
        if info is None:
            raise NotFound(f"service {service!r} has no handler {handler!r}; it has: {', '.join(known.handlers)}")
        return Target(service, handler, info.kind, key)

    def _names(self) -> str:
        return ", ".join(info.name for info in self.services())

    def route(self, target: Target, pinned: str | None) -> Route | None:
        """Where an invocation runs: where it is pinned to, else at its service's latest; None: nowhere now."""
        if pinned is None:
            local = self._local.get(target.service)
            if local is not None:
                info = local.handlers.get(target.handler)
                return None if info is None else Route(info, None)
            latest = self._latest.get(target.service)
            if latest is None:
                return None
            deployment, revision = latest
        else:
            found = self._deployments.get(pinned)
            if found is None or target.service not in found.revisions:
                return None
            deployment, revision = found, found.revisions[target.service]
        handler = revision.info.handlers.get(target.handler)
        return None if handler is None else Route(handler, deployment)


def _comes_before(deployment: Deployment, revision: Revision, known: Deployment, known_revision: Revision) -> bool:
    """What this process serves is the latest, whatever is deployed elsewhere."""
    if deployment.stored == known.stored:
        return revision.number > known_revision.number
    return known.stored


def retention_of(info: HandlerInfo, idempotency_key: str | None) -> Retention:
    """How long the result and the journal of an invocation are kept once it is completed."""
    if info.kind is HandlerKind.WORKFLOW:
        completion = info.workflow_retention_ms
    elif idempotency_key is not None:
        completion = info.idempotency_retention_ms
    else:
        return Retention(info.journal_retention_ms, info.journal_retention_ms)
    return Retention(completion, min(info.journal_retention_ms, completion))
