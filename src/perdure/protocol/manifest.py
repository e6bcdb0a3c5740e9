"""The manifest: what an endpoint says of its services when it is asked (`GET /discover`), as JSON.

`write_manifest` is the endpoint's side, `read_manifest` the server's. Both know versions 1 to 4; the version is said in
the media type only, a later one has more properties. Durations are ms.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec

from perdure.errors import PerdureError
from perdure.model.deployments import ProtocolMode
from perdure.model.services import HandlerInfo, HandlerKind, RetryPolicy, ServiceInfo, ServiceKind
from perdure.protocol import versions

__all__ = ["Manifest", "ManifestError", "read_manifest", "write_manifest"]

INCOMPATIBLE = "META0012"
MALFORMED = "META0013"
RESERVED_NAME = "META0005"
UNSUPPORTED = "573"

UNLIMITED: Final = (1 << 31) - 1
"""Attempts: there is no word for "without end", and nobody gets that far."""

_SERVICE_NAME = re.compile(r"([a-zA-Z]|_[a-zA-Z0-9])[a-zA-Z0-9._-]*")
_HANDLER_NAME = re.compile(r"([a-zA-Z]|_[a-zA-Z0-9])[a-zA-Z0-9_]*")
_CONTENT_TYPE = re.compile(r"[\w!#$&^.+*-]+/[\w!#$&^.+*-]+\s*(;.*)?")


class ManifestError(PerdureError):
    """A manifest that cannot be used, or written; `code` is Restate's for the reason ("META0013", ...)."""

    def __init__(self, message: str, code: str = MALFORMED) -> None:
        super().__init__(f"[{code}] {message}")
        self.message = message
        self.code = code


class Manifest(msgspec.Struct, frozen=True):
    """An endpoint: how it wants to be called, the versions of the protocol it speaks, and its services."""

    mode: ProtocolMode
    oldest: int
    newest: int
    services: tuple[ServiceInfo, ...]
    lambda_compression: str | None = None


# ---- the JSON ------------------------------------------------------------------------------------------------------

_Whole = Annotated[int, msgspec.Meta(ge=0, le=1 << 61)]
_Version = Annotated[int, msgspec.Meta(ge=1, le=(1 << 31) - 1)]


class _Input(msgspec.Struct, rename="camel"):
    required: bool | None = None
    content_type: str | None = None
    json_schema: Any = None


class _Output(msgspec.Struct, rename="camel"):
    content_type: str | None = None
    set_content_type_if_empty: bool | None = None
    json_schema: Any = None


class _Options(msgspec.Struct, rename="camel", kw_only=True):
    """What both a service and a handler may say."""

    documentation: str | None = None
    metadata: dict[str, str] | None = None
    inactivity_timeout: _Whole | None = None
    abort_timeout: _Whole | None = None
    journal_retention: _Whole | None = None
    idempotency_retention: _Whole | None = None
    enable_lazy_state: bool | None = None
    eager_state_keys_whitelist: tuple[str, ...] | None = None
    ingress_private: bool | None = None
    retry_policy_initial_interval: _Whole | None = None
    retry_policy_max_interval: _Whole | None = None
    retry_policy_max_attempts: _Whole | None = None
    retry_policy_exponentiation_factor: float | None = None
    retry_policy_on_max_attempts: str | None = None


class _Handler(_Options, rename="camel", kw_only=True):
    name: str
    ty: HandlerKind | None = None
    input: _Input | None = None
    output: _Output | None = None
    workflow_completion_retention: _Whole | None = None


class _Service(_Options, rename="camel", kw_only=True):
    name: str
    ty: ServiceKind
    handlers: list[_Handler]


class _Manifest(msgspec.Struct, rename="camel", kw_only=True):
    protocol_mode: ProtocolMode
    min_protocol_version: _Version
    max_protocol_version: _Version
    services: list[_Service]
    lambda_compression: str | None = None


# ---- reading -------------------------------------------------------------------------------------------------------

_KINDS: dict[ServiceKind, dict[HandlerKind | None, HandlerKind]] = {
    ServiceKind.SERVICE: {None: HandlerKind.PLAIN, HandlerKind.SHARED: HandlerKind.PLAIN},
    ServiceKind.VIRTUAL_OBJECT: {
        None: HandlerKind.EXCLUSIVE,
        HandlerKind.EXCLUSIVE: HandlerKind.EXCLUSIVE,
        HandlerKind.SHARED: HandlerKind.SHARED,
    },
    ServiceKind.WORKFLOW: {
        None: HandlerKind.SHARED,
        HandlerKind.WORKFLOW: HandlerKind.WORKFLOW,
        HandlerKind.SHARED: HandlerKind.SHARED,
    },
}


def read_manifest(data: bytes, version: int) -> Manifest:
    """The manifest in these bytes, of this version, with what it leaves unsaid filled in.

    Raises `ManifestError`: META0012 for an endpoint whose versions of the protocol are all unknown here, META0005 for
    a reserved name, META0013 for anything else that is wrong with it. Properties that are unknown are passed over.
    """
    if version not in versions.MANIFEST_TYPES:
        raise ManifestError(f"version {version} of the manifest is unknown")
    try:
        manifest = msgspec.json.decode(data, type=_Manifest)
    except msgspec.MsgspecError as error:
        raise ManifestError(f"the manifest is malformed: {error}") from None
    except UnicodeDecodeError:
        raise ManifestError("the manifest is malformed: it is not UTF-8") from None
    oldest, newest = manifest.min_protocol_version, manifest.max_protocol_version
    if oldest > newest:
        raise ManifestError(f"minProtocolVersion {oldest} is above maxProtocolVersion {newest}")
    if versions.choose(oldest, newest) is None:
        known = f"{versions.OLDEST} to {versions.NEWEST}"
        raise ManifestError(f"the endpoint speaks versions {oldest} to {newest}, the server {known}", INCOMPATIBLE)
    if manifest.lambda_compression not in (None, "zstd"):
        raise ManifestError(f"lambdaCompression {manifest.lambda_compression!r} is unknown")
    services = tuple([_read_service(service) for service in manifest.services])
    _check_distinct("service", [service.name for service in services])
    return Manifest(manifest.protocol_mode, oldest, newest, services, manifest.lambda_compression)


def _check_distinct(what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ManifestError(f"there are two {what}s of the name {name!r}")


def _read_service(service: _Service) -> ServiceInfo:
    name = service.name
    if name.lower().startswith("restate") or name.lower() == "openapi":
        raise ManifestError(f"{name!r} is a reserved name for a service", RESERVED_NAME)
    if not _SERVICE_NAME.fullmatch(name):
        raise ManifestError(f"{name!r} is no name for a service")
    handlers = [_read_handler(service, handler) for handler in service.handlers]
    _check_distinct(f"{name}'s handler", [handler.name for handler in handlers])
    return ServiceInfo(
        name,
        service.ty,
        {handler.name: handler for handler in handlers},
        service.documentation,
        service.metadata or {},
    )


def _read_handler(service: _Service, handler: _Handler) -> HandlerInfo:
    where = f"{service.name}/{handler.name}"
    if not _HANDLER_NAME.fullmatch(handler.name):
        raise ManifestError(f"{handler.name!r} is no name for a handler of {service.name}")
    kind = _KINDS[service.ty].get(handler.ty)
    if kind is None:
        raise ManifestError(f"{where}: a {service.ty} has no handlers of the type {handler.ty}")
    if service.ingress_private and handler.ingress_private is False:
        raise ManifestError(f"{where} is public, its service private")
    if handler.workflow_completion_retention is not None and kind is not HandlerKind.WORKFLOW:
        raise ManifestError(f"{where}: workflowCompletionRetention is for WORKFLOW handlers")
    if handler.idempotency_retention is not None and kind is HandlerKind.WORKFLOW:
        raise ManifestError(f"{where}: idempotencyRetention is not for WORKFLOW handlers")
    given: dict[str, Any] = {}
    for field, option in _DURATIONS.items():
        value = _given(service, handler, option)
        if option == "idempotency_retention" and kind is HandlerKind.WORKFLOW:
            value = None  # the service's is for the other handlers
        if value is not None:
            given[field] = value
    if (value := handler.workflow_completion_retention) is not None:
        given["workflow_retention_ms"] = value
    if (value := _given(service, handler, "ingress_private")) is not None:
        given["private"] = value
    if (value := _given(service, handler, "enable_lazy_state")) is not None:
        given["lazy_state"] = value
    if (value := _given(service, handler, "eager_state_keys_whitelist")) is not None:
        given["eager_state_keys"] = value
    try:
        given["retry_policy"] = _read_policy(service, handler)
    except ValueError as error:
        raise ManifestError(f"{where}: {error}") from None
    return HandlerInfo(
        service.name,
        handler.name,
        kind,
        handler.documentation,
        handler.metadata or {},
        **given,
        **_read_input(where, handler.input),
        **_read_output(where, handler.output),
    )


_DURATIONS = {
    "inactivity_timeout_ms": "inactivity_timeout",
    "abort_timeout_ms": "abort_timeout",
    "journal_retention_ms": "journal_retention",
    "idempotency_retention_ms": "idempotency_retention",
}


def _given(service: _Service, handler: _Handler, option: str) -> Any:
    """The handler's word, or its service's, or None."""
    value = getattr(handler, option)
    return getattr(service, option) if value is None else value


def _read_policy(service: _Service, handler: _Handler) -> RetryPolicy:
    given: dict[str, Any] = {}
    for field in ("initial_interval", "max_interval"):
        if (value := _given(service, handler, f"retry_policy_{field}")) is not None:
            given[field] = value / 1000
    if (value := _given(service, handler, "retry_policy_max_attempts")) is not None:
        given["max_attempts"] = None if value >= UNLIMITED else max(value, 1)
    if (value := _given(service, handler, "retry_policy_exponentiation_factor")) is not None:
        given["factor"] = value
    if (value := _given(service, handler, "retry_policy_on_max_attempts")) is not None:
        if value not in ("PAUSE", "KILL"):
            raise ValueError(f"retryPolicyOnMaxAttempts is PAUSE or KILL, not {value!r}")
        given["on_exhausted"] = "pause" if value == "PAUSE" else "fail"
    return RetryPolicy(**given)


def _read_input(where: str, described: _Input | None) -> dict[str, Any]:
    if described is None:
        return {"input_content_type": "*/*"}
    return {
        "input_required": bool(described.required),
        "input_content_type": _content_type(where, described.content_type),
        "input_schema": _schema(where, described.json_schema),
    }


def _read_output(where: str, described: _Output | None) -> dict[str, Any]:
    if described is None:
        return {}
    return {
        "output_content_type": _content_type(where, described.content_type),
        "output_content_type_if_empty": bool(described.set_content_type_if_empty),
        "output_schema": _schema(where, described.json_schema),
    }


def _content_type(where: str, value: str | None) -> str | None:
    if value is not None and not _CONTENT_TYPE.fullmatch(value):
        raise ManifestError(f"{where}: {value!r} is no content type")
    return value


def _schema(where: str, schema: Any) -> dict[str, object] | bool | None:
    """The schema; `true` allows everything, and that there is one says all the same that there has to be a body."""
    for part in _parts(schema):
        reference = part.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            raise ManifestError(f"{where}: the schema refers to another document: {reference}")
    return schema if isinstance(schema, dict | bool) else None


def _parts(schema: Any) -> Iterable[dict[str, Any]]:
    """The objects in a JSON document."""
    rest = [schema]
    while rest:
        part = rest.pop()
        if isinstance(part, dict):
            yield part
            rest += part.values()
        elif isinstance(part, list):
            rest += part


# ---- writing -------------------------------------------------------------------------------------------------------

_SINCE = {
    "documentation": 2,
    "metadata": 2,
    "inactivityTimeout": 3,
    "abortTimeout": 3,
    "journalRetention": 3,
    "idempotencyRetention": 3,
    "workflowCompletionRetention": 3,
    "enableLazyState": 3,
    "ingressPrivate": 3,
    "retryPolicyInitialInterval": 4,
    "retryPolicyMaxInterval": 4,
    "retryPolicyMaxAttempts": 4,
    "retryPolicyExponentiationFactor": 4,
    "retryPolicyOnMaxAttempts": 4,
    "eagerStateKeysWhitelist": 5,
}
_DISPENSABLE = frozenset({"documentation", "metadata", "enableLazyState", "eagerStateKeysWhitelist"})


def write_manifest(
    services: Iterable[ServiceInfo],
    mode: ProtocolMode,
    version: int,
    *,
    lambda_compression: str | None = None,
) -> bytes:
    """The manifest of these services in this version (1 to 4), with the options that are not the defaults.

    What its version has no word for is left out if a server does as well without it (descriptions); otherwise, and for
    `concurrency`, which no version can say, it raises `ManifestError`.
    """
    manifest = {
        "protocolMode": mode.value,
        "minProtocolVersion": versions.OLDEST,
        "maxProtocolVersion": versions.NEWEST,
        "services": [_write_service(service, version) for service in services],
    }
    if lambda_compression is not None and version >= 4:
        manifest["lambdaCompression"] = lambda_compression
    return msgspec.json.encode(manifest)


def _write_service(service: ServiceInfo, version: int) -> dict[str, Any]:
    _refuse_concurrency(service.name, service.concurrency)
    handlers = list(service.handlers.values())
    options = {info.name: _options(info) for info in handlers}
    shared = _shared(options, handlers)
    written: dict[str, Any] = {"name": service.name, "ty": service.kind.value}
    written |= _said(service.name, _described(service.description, service.metadata) | shared, version)
    written["handlers"] = [
        _write_handler(
            info,
            {option: value for option, value in options[info.name].items() if option not in shared},
            version,
        )
        for info in handlers
    ]
    return written


def _refuse_concurrency(where: str, concurrency: int | None) -> None:
    if concurrency is not None:
        raise ManifestError(
            f"{where} has concurrency={concurrency}. Only an engine in the same process (`perdure serve`, `Engine`) "
            "keeps such a limit, a remote server would not: leave the option out of what is served remotely",
            UNSUPPORTED,
        )


def _shared(options: Mapping[str, dict[str, Any]], handlers: list[HandlerInfo]) -> dict[str, Any]:
    """The options that all handlers have alike: they are their service's."""
    mains = {info.name for info in handlers if info.kind is HandlerKind.WORKFLOW}
    shared: dict[str, Any] = {}
    for option in {option: None for each in options.values() for option in each}:
        if option == "workflowCompletionRetention":
            continue
        able = [each for name, each in options.items() if option != "idempotencyRetention" or name not in mains]
        values = [each.get(option) for each in able]
        if values[0] is not None and all(value == values[0] for value in values):
            shared[option] = values[0]
    return shared


_PLAIN = HandlerInfo("", "", HandlerKind.PLAIN)


def _options(info: HandlerInfo) -> dict[str, Any]:
    """What of a handler's options is not the default."""
    policy, usual = info.retry_policy, _PLAIN.retry_policy
    all_of_them = {
        "inactivityTimeout": (info.inactivity_timeout_ms, _PLAIN.inactivity_timeout_ms),
        "abortTimeout": (info.abort_timeout_ms, _PLAIN.abort_timeout_ms),
        "journalRetention": (info.journal_retention_ms, _PLAIN.journal_retention_ms),
        "ingressPrivate": (info.private, _PLAIN.private),
        "enableLazyState": (info.lazy_state, _PLAIN.lazy_state),
        "eagerStateKeysWhitelist": (info.eager_state_keys, _PLAIN.eager_state_keys),
        "retryPolicyInitialInterval": (round(policy.initial_interval * 1000), round(usual.initial_interval * 1000)),
        "retryPolicyMaxInterval": (round(policy.max_interval * 1000), round(usual.max_interval * 1000)),
        "retryPolicyMaxAttempts": (policy.max_attempts or UNLIMITED, usual.max_attempts),
        "retryPolicyExponentiationFactor": (policy.factor, usual.factor),
        "retryPolicyOnMaxAttempts": (
            "PAUSE" if policy.on_exhausted == "pause" else "KILL",
            "PAUSE",
        ),
    }
    if info.kind is HandlerKind.WORKFLOW:
        all_of_them["workflowCompletionRetention"] = (info.workflow_retention_ms, _PLAIN.workflow_retention_ms)
    else:
        all_of_them["idempotencyRetention"] = (info.idempotency_retention_ms, _PLAIN.idempotency_retention_ms)
    return {option: value for option, (value, default) in all_of_them.items() if value != default}


def _described(description: str | None, metadata: Mapping[str, str]) -> dict[str, Any]:
    described: dict[str, Any] = {}
    if description is not None:
        described["documentation"] = description
    if metadata:
        described["metadata"] = dict(metadata)
    return described


def _said(where: str, options: dict[str, Any], version: int) -> dict[str, Any]:
    """Those of the options that this version can say."""
    for option in options:
        if _SINCE[option] > version and option not in _DISPENSABLE:
            raise ManifestError(
                f"{where}: {option} needs version {_SINCE[option]} of the manifest, the server knows version {version}",
                UNSUPPORTED,
            )
    return {option: value for option, value in options.items() if _SINCE[option] <= version}


def _write_handler(info: HandlerInfo, options: dict[str, Any], version: int) -> dict[str, Any]:
    where = f"{info.service}/{info.name}"
    _refuse_concurrency(where, info.concurrency)
    written: dict[str, Any] = {"name": info.name}
    if info.kind is not HandlerKind.PLAIN:
        written["ty"] = info.kind.value
    taken: dict[str, Any] = {}
    if info.input_required:
        taken["required"] = True
    if info.input_content_type is not None:
        taken["contentType"] = info.input_content_type
    if info.input_schema is not None:
        taken["jsonSchema"] = info.input_schema
    if taken != {"contentType": "*/*"}:
        written["input"] = taken
    given: dict[str, Any] = {}
    if info.output_content_type is not None:
        given["contentType"] = info.output_content_type
    if info.output_content_type_if_empty:
        given["setContentTypeIfEmpty"] = True
    if info.output_schema is not None:
        given["jsonSchema"] = info.output_schema
    if given != {"contentType": "application/json"}:
        written["output"] = given
    return written | _said(where, _described(info.description, info.metadata) | options, version)
