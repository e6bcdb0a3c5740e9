"""Asks an endpoint to show a payload as people read it, or to turn what they wrote into a payload."""

from typing import Final

from perdure.errors import Invalid, NotFound, RequestError
from perdure.model.deployments import Deployment
from perdure.runtime.node import Node
from perdure.transports.remote import Answer, Collector, Request

__all__ = ["TIMEOUT_SECONDS", "SerdeUnavailable", "convert"]

TIMEOUT_SECONDS: Final = 30.0


class SerdeUnavailable(RequestError):
    """The SDK that serves the service does not convert, or cannot be reached."""


async def convert(node: Node, service: str, direction: str, serde: str, body: bytes, deployment: str | None) -> Answer:
    """What the endpoint answers. `direction` is `decode` or `encode`; without a `deployment`, the service's latest.

    Raises `NotFound` (no such service), `Invalid` (no such deployment of it) and `SerdeUnavailable`.
    """
    if node.registry.service(service) is None:
        raise NotFound(f"service {service!r} not found")
    where = _deployment(node, service, deployment)
    remote = node.remote
    if where is None or remote is None:
        raise SerdeUnavailable(f"{service} is served by this process, which does not convert payloads")
    path = f"/serdes/{service}/{direction}/{serde}"
    headers = [
        ("content-type", "application/json"),
        ("accept", "*/*"),
        ("x-restate-serdes-protocol", "v1"),
        *where.headers.items(),
        *remote.sign(path, None).items(),
    ]
    collector = Collector(f"{where.endpoint.address}{path}", remote.limit)
    stream = remote.connector(where.endpoint).open(where.endpoint, Request("POST", path, headers), collector)
    try:
        if body:
            stream.write(body)
        stream.close()
        answer = await collector.answer(TIMEOUT_SECONDS)
    except ConnectionError as error:
        stream.abort()
        raise SerdeUnavailable(str(error)) from None
    if not 200 <= answer.status < 300:
        raise SerdeUnavailable(
            f"{where.endpoint.address}{path} answered with status {answer.status}: "
            "its SDK may not convert payloads, or has no serde of this name"
        )
    return answer


def _deployment(node: Node, service: str, wanted: str | None) -> Deployment | None:
    """None: this process serves it."""
    if wanted is None:
        local = any(info.name == service for info in node.registry.here())
        latest = None if local else node.registry.latest(service)
        return None if latest is None else latest[0]
    found = node.registry.deployment(wanted)
    if found is None or service not in found.revisions:
        raise Invalid(f"deployment {wanted!r} of {service} not found")
    return found
