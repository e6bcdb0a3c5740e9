"""Deployments: found out about, registered, changed, removed. What restate-server's admin API does, by the same rules.

Whatever is wrong with one is a `DeploymentError`, with the code that restate-server's documentation explains.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from perdure.errors import NotFound, RequestError
from perdure.model.deployments import Deployment, Endpoint, HttpEndpoint, LambdaEndpoint, ProtocolMode, Revision
from perdure.model.ids import IN_PROCESS
from perdure.model.services import ServiceInfo
from perdure.protocol import versions
from perdure.protocol.manifest import Manifest, ManifestError, read_manifest
from perdure.runtime.node import Node
from perdure.transports.remote import NO_HTTP2, Answer, Request

__all__ = ["DeploymentError", "Deployments", "Discovered", "Registration", "Update", "discover"]

TRIES: Final = 3
RETRY_SECONDS: Final = 0.5
PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})  # what may be otherwise a moment later


class DeploymentError(RequestError):
    """A deployment that can't be had; `restate_code` is restate-server's for it."""

    def __init__(self, message: str, code: str, status: int = 500) -> None:
        super().__init__(message)
        self.restate_code = code
        self.status = status


class Registration(msgspec.Struct, frozen=True):
    """What is asked for. `force` overwrites what is known of the same address, `breaking` lets a service change its
    type, `dry_run` stores nothing."""

    endpoint: Endpoint
    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}
    force: bool = False
    breaking: bool = False
    dry_run: bool = False


class Update(msgspec.Struct, frozen=True):
    """What of a deployment is to change; None stays. `overwrite` reads its services anew."""

    endpoint: Endpoint | None = None
    headers: dict[str, str] | None = None
    overwrite: bool = False
    dry_run: bool = False


class Discovered(NamedTuple):
    """What an endpoint says of itself. `endpoint` has the HTTP version it was found to speak."""

    endpoint: Endpoint
    manifest: Manifest
    sdk: str | None


async def discover(node: Node, endpoint: Endpoint, headers: Mapping[str, str]) -> Discovered:
    """Ask an endpoint what it serves. Raises `DeploymentError`."""
    answer = await _fetch(node, endpoint, headers)
    if isinstance(endpoint, HttpEndpoint):
        endpoint = replace(endpoint, http_version=answer.http_version)
    content_type = answer.headers.get("content-type")
    version = next((number for number, known in versions.MANIFEST_TYPES.items() if known == content_type), None)
    if version is None:
        raise DeploymentError(
            f"{endpoint.address}/discover answered with the content type {content_type}; "
            f"it has to be one of {', '.join(versions.MANIFEST_TYPES.values())}. Does a Restate SDK serve there?",
            "META0013",
        )
    try:
        manifest = read_manifest(answer.body, version)
    except ManifestError as error:
        status = 400 if error.code == "META0005" else 500
        raise DeploymentError(f"{endpoint.address}/discover: {error.message}", error.code, status) from None
    if versions.choose(manifest.oldest, manifest.newest) is None:
        raise DeploymentError(
            f"{endpoint.address} speaks versions {manifest.oldest} to {manifest.newest} of the service protocol; "
            f"this server speaks {versions.OLDEST} to {versions.NEWEST}",
            "META0012",
        )
    if isinstance(endpoint, LambdaEndpoint):
        if manifest.mode is not ProtocolMode.REQUEST_RESPONSE:
            raise DeploymentError(f"{endpoint.arn}: a Lambda function can't hold a conversation", "META0015")
        endpoint = replace(endpoint, compression=manifest.lambda_compression)
    services = tuple(node.registry.usual.filled_in(each) for each in manifest.services)
    return Discovered(endpoint, replace(manifest, services=services), answer.headers.get("x-restate-server"))


async def _fetch(node: Node, endpoint: Endpoint, headers: Mapping[str, str]) -> Answer:
    remote = node.remote
    if remote is None:
        raise DeploymentError("this node has no way to endpoints elsewhere", "META0003")
    accept = ", ".join(versions.MANIFEST_TYPES.values())
    request = Request(
        "GET", "/discover", [("accept", accept), *headers.items(), *remote.sign("/discover", None).items()]
    )
    for tried in range(1, TRIES + 1):
        last = tried == TRIES
        try:
            answer = await remote.connector(endpoint).fetch(endpoint, request)
        except ConnectionError as error:
            if last:
                raise _unreachable(endpoint, error) from None
        else:
            if 200 <= answer.status < 300:
                return answer
            if last or answer.status not in PASSING:
                raise _bad_status(endpoint, answer)
        await asyncio.sleep(RETRY_SECONDS)
    raise AssertionError("unreachable")


def _unreachable(endpoint: Endpoint, error: ConnectionError) -> DeploymentError:
    text = str(error)
    if isinstance(endpoint, HttpEndpoint) and endpoint.http_version == "2" and NO_HTTP2 in text:
        return DeploymentError(
            f"{endpoint.uri} seems to speak HTTP/1.1 only: register it with use_http_11 (--use-http1.1). {text}",
            "META0014",
        )
    return DeploymentError(f"{endpoint.address} can't be reached: {text}", "META0003")


def _bad_status(endpoint: Endpoint, answer: Answer) -> DeploymentError:
    hint = ""
    if answer.status == 404:
        hint = ": is this the path at which the SDK is served?"
    elif answer.status == 401:
        hint = ": does it know this server's identity key (perdure identity show)?"
    return DeploymentError(f"{endpoint.address}/discover answered with status {answer.status}{hint}", "META0003")


_IN_PROCESS = HttpEndpoint("http://in-process")


class Deployments:
    """The deployments of a node. One change at a time: revisions are counted."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._one_at_a_time = asyncio.Lock()

    def all(self) -> list[Deployment]:
        return self._node.registry.deployments()

    def shown(self) -> list[Deployment]:
        """The deployments; what this process serves is shown as one, for clients that look every service's up."""
        here = self._node.registry.here()
        if not here:
            return self.all()
        revisions = {info.name: Revision(1, info) for info in here}
        endpoint, mode, oldest, newest = _IN_PROCESS, ProtocolMode.BIDI_STREAM, versions.OLDEST, versions.NEWEST
        return [
            Deployment(IN_PROCESS, endpoint, mode, oldest, newest, self._node.started_at, revisions),
            *self.all(),
        ]

    def get(self, id: str) -> Deployment:
        """Raises `NotFound`."""
        found = self._node.registry.deployment(id)
        if found is None or not found.stored:
            raise NotFound(f"deployment {id!r} not found")
        return found

    async def register(self, wanted: Registration) -> tuple[Deployment, bool]:
        """The deployment at an address, and whether that is new. Raises `DeploymentError`."""
        async with self._one_at_a_time:
            found = await discover(self._node, wanted.endpoint, wanted.headers)
            known = self._at(found.endpoint)
            if known is not None and not wanted.force:
                return known, False
            self._check_types(found.manifest.services, wanted.breaking or wanted.force)
            deployment = Deployment(
                self._node.deployment_id() if known is None else known.id,
                found.endpoint,
                found.manifest.mode,
                found.manifest.oldest,
                found.manifest.newest,
                self._node.clock.now_ms(),
                {info.name: Revision(self._next_revision(info.name), info) for info in found.manifest.services},
                wanted.headers,
                wanted.metadata,
                found.sdk,
            )
            if not wanted.dry_run:
                await self._node.put_deployment(deployment)
            return deployment, known is None

    async def update(self, id: str, wanted: Update) -> Deployment:
        """Change where a deployment is, or what is known of it. Raises `NotFound` and `DeploymentError`."""
        async with self._one_at_a_time:
            known = self.get(id)
            if wanted.endpoint is None and wanted.headers is None and not wanted.overwrite:
                return known
            headers = known.headers if wanted.headers is None else wanted.headers
            found = await discover(self._node, wanted.endpoint or known.endpoint, headers)
            manifest = found.manifest
            if (manifest.oldest, manifest.newest) != (known.oldest, known.newest):
                raise DeploymentError(
                    f"{found.endpoint.address} speaks versions {manifest.oldest} to {manifest.newest} of the protocol, "
                    f"deployment {id} {known.oldest} to {known.newest}: register it as a new deployment",
                    "META0016",
                    400,
                )
            changed = replace(known, endpoint=found.endpoint, headers=headers, sdk=found.sdk)
            if wanted.overwrite:
                revisions = {info.name: self._kept_revision(known, info) for info in manifest.services}
                changed = replace(changed, revisions=revisions, mode=manifest.mode)
            if not wanted.dry_run:
                await self._node.put_deployment(changed)
            return changed

    async def remove(self, id: str) -> None:
        """Forget a deployment; what is pinned to it fails until it is back. Raises `NotFound`."""
        async with self._one_at_a_time:
            self.get(id)
            await self._node.remove_deployment(id)

    async def change_service(self, name: str, changes: Mapping[str, object]) -> ServiceInfo:
        """Change options of all handlers of a service's latest revision. Raises `NotFound`."""
        async with self._one_at_a_time:
            latest = self._node.registry.latest(name)
            if latest is None or not latest[0].stored:
                raise NotFound(f"service {name!r} not found among the deployments")
            deployment, revision = latest
            handlers = {each.name: replace(each, **changes) for each in revision.info.handlers.values()}
            info = replace(revision.info, handlers=handlers)
            revisions = {**deployment.revisions, name: Revision(revision.number, info)}
            await self._node.put_deployment(replace(deployment, revisions=revisions))
            return info

    def _at(self, endpoint: Endpoint) -> Deployment | None:
        return next((each for each in self.all() if each.endpoint.address == endpoint.address), None)

    def _next_revision(self, service: str) -> int:
        numbers = [each.revisions[service].number for each in self.all() if service in each.revisions]
        return max(numbers, default=0) + 1

    def _kept_revision(self, known: Deployment, info: ServiceInfo) -> Revision:
        before = known.revisions.get(info.name)
        return Revision(self._next_revision(info.name) if before is None else before.number, info)

    def _check_types(self, services: tuple[ServiceInfo, ...], breaking: bool) -> None:
        for info in services:
            latest = self._node.registry.latest(info.name)
            if latest is not None and latest[1].info.kind is not info.kind and not breaking:
                raise DeploymentError(
                    f"service {info.name} is a {latest[1].info.kind} and would become a {info.kind}: "
                    "register it with breaking (--breaking) if that is meant",
                    "META0006",
                    409,
                )
