"""The admin port's routes of what this server does not do: reading Kafka, and flow control by rules and queues.

They answer as a server without Kafka clusters, rules or queues does: there are none, and what would make one is refused
with the reason. A rule that nothing enforces would be a promise that is not kept.
"""

import re
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from perdure.errors import Invalid, NotFound, RequestError
from perdure.model.keys import Role
from perdure.runtime.registry import Registry
from perdure.web.http import Malformed, Request, Response, Router, Unreadable, json_response, read_json
from perdure.web.operations import BODY_ERRORS, Operation, Parameter

__all__ = ["FEATURES", "FeatureRoutes"]

FEATURES: Final = (
    "vqueues",
    "protocol_v7",
    "invoker_yield",
    "unique_random_seeds",
    "scoped_virtual_objects",
    "kafka_scope",
    "vqueues_migration_skip_completed",
    "vqueues_async_refill",
    "vqueue_obsolete_cleanup",
    "scoped_state_table_migration",
    "scoped_promise_table_migration",
    "preflight_invocation_termination_retention",
)
"""What restate-server can have switched on. Here none of it is."""

_SUBSCRIPTION_ID: Final = re.compile("sub_1[0-9A-Za-z]{22}")
_NO_KAFKA: Final = "this server does not read Kafka; send each record to the ingress, with an idempotency key"
_NO_RULES: Final = "this server has no flow control by rules: none would be enforced"


class SubscriptionRefused(RequestError):
    """A subscription that cannot be."""

    status = 400
    restate_code = "META0009"


class SubscriptionRequest(msgspec.Struct):
    source: str
    sink: str
    options: dict[str, str] | None = None


class Subscription(msgspec.Struct):
    id: str
    source: str
    sink: str
    options: dict[str, str]


class SubscriptionList(msgspec.Struct):
    subscriptions: list[Subscription]


class KafkaClusterRequest(msgspec.Struct):
    name: str
    properties: dict[str, str]


class KafkaClusterChange(msgspec.Struct):
    properties: dict[str, str]


class KafkaCluster(msgspec.Struct):
    name: str
    properties: dict[str, str]
    created_at: str


class KafkaClusterList(msgspec.Struct):
    clusters: list[KafkaCluster]


class RuleRequest(msgspec.Struct):
    pattern: str
    limits: dict[str, int | None]
    description: str | None = None
    disabled: bool = False
    precondition: dict[str, Any] | None = None


class RuleRemoval(msgspec.Struct):
    pattern: str
    expected_version: int | None = None


class FeatureRoutes:
    """`size_limit` is of a request's body, in bytes."""

    def __init__(self, registry: Registry, size_limit: int) -> None:
        self._registry = registry
        self._size_limit = size_limit

    def add_to(self, router: Router) -> None:
        """Make the routes known."""
        self._add_subscriptions(router)
        self._add_clusters(router)
        tag = "rule"
        operation = Operation(tag, "Set rules: refused, there is no flow control", {200: list[Any]}, BODY_ERRORS)
        operation = operation._replace(body=list[RuleRequest])
        router.add("PUT", "/limits/rules", self._set_rules, role=Role.ADMIN, operation=operation)
        operation = Operation(tag, "Remove rules; those that are not there are passed over", {200: list[str]})
        operation = operation._replace(body=list[RuleRemoval], refusals=BODY_ERRORS)
        router.add("POST", "/limits/rules/bulk-delete", self._remove_rules, role=Role.ADMIN, operation=operation)
        for verb in ("pause", "resume"):
            operation = Operation("vqueue", f"{verb.capitalize()} a virtual queue: there are none", {}, (404,))
            router.add("POST", f"/vqueues/{{vqueue_id}}/{verb}", self._no_queue, role=Role.ADMIN, operation=operation)

    # Subscriptions

    def _add_subscriptions(self, router: Router) -> None:
        tag, path = "subscription", "/subscriptions/{subscription}"
        filters = tuple(Parameter(name, f"Only with this {name}.", {"type": "string"}) for name in ("source", "sink"))
        operation = Operation(tag, "The subscriptions: none", {200: SubscriptionList}, parameters=filters)
        router.add("GET", "/subscriptions", self._subscriptions, role=Role.READ, operation=operation)
        operation = Operation(
            tag, "Subscribe to a topic: refused, there are no clusters", {}, BODY_ERRORS, SubscriptionRequest
        )
        router.add("POST", "/subscriptions", self._subscribe, role=Role.ADMIN, operation=operation)
        operation = Operation(tag, "A subscription: there are none", {}, (404,))
        router.add("GET", path, self._no_subscription, role=Role.READ, operation=operation)
        router.add("DELETE", path, self._no_subscription, role=Role.ADMIN, operation=operation)

    async def _subscriptions(self, request: Request) -> Response:
        return json_response(200, SubscriptionList([]))

    async def _subscribe(self, request: Request) -> Response:
        body = await read_json(request, SubscriptionRequest, self._size_limit)
        source, sink = _split("source", body.source, "kafka"), _split("sink", body.sink, "service")
        service, handler = self._registry.service(sink[0]), sink[1]
        if service is None or handler not in service.handlers:
            raise SubscriptionRefused(f"sink {body.sink!r}: there is no such handler")
        raise Invalid(f"source {body.source!r}: there is no Kafka cluster {source[0]!r}; {_NO_KAFKA}")

    async def _no_subscription(self, request: Request, subscription: str) -> Response:
        if not _SUBSCRIPTION_ID.fullmatch(subscription):
            raise Unreadable(f"path: subscription id {subscription!r}: it has to be sub_1 and 22 characters")
        raise NotFound(f"subscription {subscription!r} not found: there are none, {_NO_KAFKA}")

    # Kafka clusters

    def _add_clusters(self, router: Router) -> None:
        tag, path = "kafka_cluster", "/kafka-clusters/{cluster_name}"
        operation = Operation(tag, "The Kafka clusters: none", {200: KafkaClusterList})
        router.add("GET", "/kafka-clusters", self._clusters, role=Role.READ, operation=operation)
        operation = Operation(tag, "Make a Kafka cluster known: refused", {}, BODY_ERRORS, KafkaClusterRequest)
        router.add("POST", "/kafka-clusters", self._add_cluster, role=Role.ADMIN, operation=operation)
        about = Parameter("include_subscriptions", "Whether to list them.", {"type": "boolean"})
        operation = Operation(tag, "A Kafka cluster: there are none", {}, (404,), parameters=(about,))
        router.add("GET", path, self._show_cluster, role=Role.READ, operation=operation)
        operation = Operation(
            tag, "Change a Kafka cluster: there are none", {}, (404, *BODY_ERRORS), KafkaClusterChange
        )
        router.add("PATCH", path, self._change_cluster, role=Role.ADMIN, operation=operation)
        about = Parameter("force", "Whether to leave its subscriptions without it.", {"type": "boolean"})
        operation = Operation(tag, "Forget a Kafka cluster: there are none", {}, (404,), parameters=(about,))
        router.add("DELETE", path, self._remove_cluster, role=Role.ADMIN, operation=operation)

    async def _clusters(self, request: Request) -> Response:
        return json_response(200, KafkaClusterList([]))

    async def _add_cluster(self, request: Request) -> Response:
        body = await read_json(request, KafkaClusterRequest, self._size_limit)
        if not {"bootstrap.servers", "metadata.broker.list"} & body.properties.keys():
            raise Invalid("properties: bootstrap.servers or metadata.broker.list is needed")
        raise Invalid(f"kafka cluster {body.name!r}: {_NO_KAFKA}")

    async def _show_cluster(self, request: Request, cluster_name: str) -> Response:
        request.flag("include_subscriptions")
        raise _no_cluster(cluster_name)

    async def _change_cluster(self, request: Request, cluster_name: str) -> Response:
        await read_json(request, KafkaClusterChange, self._size_limit)
        raise _no_cluster(cluster_name)

    async def _remove_cluster(self, request: Request, cluster_name: str) -> Response:
        request.flag("force")
        raise _no_cluster(cluster_name)

    # Flow control

    async def _set_rules(self, request: Request) -> Response:
        rules = await read_json(request, list[RuleRequest], self._size_limit)
        for index, rule in enumerate(rules):
            if not 1 <= len(rule.pattern.split("/")) <= 3 or "" in rule.pattern.split("/"):
                raise Malformed(
                    f"body: [{index}].pattern {rule.pattern!r}: it has to be one to three names, by slashes"
                )
        if rules:
            raise Invalid(_NO_RULES)
        return json_response(200, [])

    async def _remove_rules(self, request: Request) -> Response:
        await read_json(request, list[RuleRemoval], self._size_limit)
        return json_response(200, [])

    async def _no_queue(self, request: Request, vqueue_id: str) -> Response:
        if not vqueue_id.startswith("vq_1"):
            raise Invalid(f"vqueue_id {vqueue_id!r}: it has to begin with 'vq_1'")
        raise NotFound(f"vqueue {vqueue_id!r} not found: this server has no virtual queues")


def _no_cluster(name: str) -> NotFound:
    return NotFound(f"kafka cluster {name!r} not found: there are none, {_NO_KAFKA}")


def _split(field: str, uri: str, scheme: str) -> tuple[str, str]:
    """The two parts of `scheme://one/two`."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        parts = urlsplit("")
    one, two = parts.netloc, parts.path[1:]
    if parts.scheme != scheme or not one or not two or "/" in two:
        form = "kafka://CLUSTER/TOPIC" if scheme == "kafka" else "service://SERVICE/HANDLER"
        raise SubscriptionRefused(f"{field} {uri!r}: it has to be {form}")
    return one, two
