"""`App`: the services that are served together."""

from perdure.model.services import HandlerKind
from perdure.sdk.service import AnyService, Service, VirtualObject, Workflow

__all__ = ["App"]


class App:
    """Services that are served together, by an engine in this process or as a remote deployment.

    Make it when all handlers are registered: this is where annotations that cannot be used are found, with a
    TypeError that names the handler. Two services of one name, and a workflow without a main, are a ValueError.
    """

    def __init__(self, *services: AnyService) -> None:
        self.services: dict[str, AnyService] = {}
        for service in services:
            if not isinstance(service, (Service, VirtualObject, Workflow)):
                raise TypeError(f"App takes services, virtual objects and workflows, not {service!r}")
            if service.name in self.services:
                given = "given twice" if self.services[service.name] is service else "the name of two services"
                raise ValueError(f"{service.name!r} is {given}; names in an App must differ")
            _check_complete(service)
            self.services[service.name] = service

    def __repr__(self) -> str:
        return f"App({', '.join(self.services)})"


def _check_complete(service: AnyService) -> None:
    kinds = [handler.kind for handler in service.handlers.values()]
    if isinstance(service, Workflow) and HandlerKind.WORKFLOW not in kinds:
        raise ValueError(f"workflow {service.name} has no main: decorate one function with @....main()")
    for handler in service.handlers.values():
        handler.resolve()
