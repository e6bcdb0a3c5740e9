"""The manifest: written, read, and refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.model.deployments import ProtocolMode
from perdure.model.services import HandlerInfo, HandlerKind, RetryPolicy, ServiceInfo, ServiceKind
from perdure.protocol.manifest import Manifest, ManifestError, read_manifest, write_manifest

BIDI = ProtocolMode.BIDI_STREAM
DAY = 24 * 60 * 60 * 1000


def written(*services: ServiceInfo, version: int = 4) -> Any:
    return json.loads(write_manifest(services, BIDI, version))


def read(services: Any, version: int = 4, **fields: Any) -> Manifest:
    manifest = {
        "protocolMode": "BIDI_STREAM",
        "minProtocolVersion": 5,
        "maxProtocolVersion": 7,
        "services": services,
    } | fields
    said = {name: value for name, value in manifest.items() if value is not ...}
    return read_manifest(json.dumps(said).encode(), version)


def one(handler: dict[str, Any] | None = None, ty: str = "SERVICE", **service: Any) -> HandlerInfo:
    """The only handler of the only service."""
    (info,) = read([{"name": "S", "ty": ty, "handlers": [{"name": "h"} | (handler or {})]} | service]).services
    return info.handlers["h"]


def code(services: Any, version: int = 4, **fields: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        read(services, version, **fields)
    assert caught.value.code in str(caught.value)
    return caught.value.code


def code_of(handler: dict[str, Any] | None = None, ty: str = "SERVICE", **service: Any) -> str:
    return code([{"name": "S", "ty": ty, "handlers": [{"name": "h"} | (handler or {})]} | service])


def service(*handlers: HandlerInfo, kind: ServiceKind = ServiceKind.SERVICE, **options: Any) -> ServiceInfo:
    return ServiceInfo("S", kind, {handler.name: handler for handler in handlers}, **options)


def handler(name: str = "h", kind: HandlerKind = HandlerKind.PLAIN, **options: Any) -> HandlerInfo:
    return HandlerInfo("S", name, kind, **options)


# There and back

names = st.from_regex(r"\A([a-zA-Z]|_[a-zA-Z0-9])[a-zA-Z0-9_]{0,8}\Z").filter(
    lambda name: not name.lower().startswith("restate") and name.lower() != "openapi"
)
texts = st.text(st.characters(codec="utf-8"), max_size=8)
durations = st.sampled_from([0, 1, 60_000, DAY]) | st.integers(0, 1 << 50)
seconds = (st.sampled_from([500, 60_000]) | st.integers(0, 1 << 40)).map(lambda ms: ms / 1000)
policies = st.builds(
    RetryPolicy,
    seconds,
    st.sampled_from([1.0, 2.0, 1.5]) | st.floats(1, 1e6),
    seconds,
    st.none() | st.just(70) | st.integers(1, (1 << 31) - 2),
    st.none(),
    st.sampled_from(["pause", "fail"]),
)
schemas = (
    st.none() | st.booleans() | st.fixed_dictionaries({"type": st.sampled_from(["string", "object"]), "title": texts})
)
content_types = st.sampled_from([None, "application/json", "text/*", "*/*", "text/plain; charset=utf-8"])


@st.composite
def services(draw: st.DrawFn) -> ServiceInfo:
    kind = draw(st.sampled_from(ServiceKind))
    kinds = {
        ServiceKind.SERVICE: [HandlerKind.PLAIN],
        ServiceKind.VIRTUAL_OBJECT: [HandlerKind.EXCLUSIVE, HandlerKind.SHARED],
        ServiceKind.WORKFLOW: [HandlerKind.WORKFLOW, HandlerKind.SHARED],
    }[kind]
    name = draw(names)
    common = {
        "inactivity_timeout_ms": draw(durations),
        "private": draw(st.booleans()),
        "retry_policy": draw(policies),
    }
    handlers = {}
    for each in draw(st.lists(names, max_size=4, unique=True)):
        own = draw(st.sampled_from(kinds))
        main = own is HandlerKind.WORKFLOW
        options: dict[str, Any] = {
            "description": draw(st.none() | texts),
            "metadata": draw(st.dictionaries(texts, texts, max_size=2)),
            "private": draw(st.booleans()),
            "retry_policy": draw(policies),
            "inactivity_timeout_ms": draw(durations),
            "abort_timeout_ms": draw(durations),
            "journal_retention_ms": draw(durations),
            "idempotency_retention_ms": DAY if main else draw(durations),
            "workflow_retention_ms": draw(durations) if main else DAY,
            "input_required": draw(st.booleans()),
            "input_content_type": draw(content_types),
            "output_content_type": draw(content_types),
            "input_schema": draw(schemas),
            "output_schema": draw(schemas),
            "lazy_state": draw(st.booleans()),
            "output_content_type_if_empty": draw(st.booleans()),
        }
        if draw(st.booleans()):
            options |= common
        handlers[each] = HandlerInfo(name, each, own, **options)
    described: dict[str, Any] = {
        "description": draw(st.none() | texts),
        "metadata": draw(st.dictionaries(texts, texts, max_size=2)),
    }
    return ServiceInfo(name, kind, handlers, **described)


@given(st.lists(services(), max_size=4, unique_by=lambda service: service.name), st.sampled_from(ProtocolMode))
def test_what_is_written_is_read(listed: list[ServiceInfo], mode: ProtocolMode) -> None:
    found = read_manifest(write_manifest(listed, mode, 4), 4)
    assert found == Manifest(mode, 5, 7, tuple(listed))


def test_lambda_compression_came_with_version_4() -> None:
    data = write_manifest([], ProtocolMode.REQUEST_RESPONSE, 4, lambda_compression="zstd")
    assert read_manifest(data, 4).lambda_compression == "zstd"
    assert b"zstd" not in write_manifest([], ProtocolMode.REQUEST_RESPONSE, 3, lambda_compression="zstd")


# Writing


def test_only_what_is_not_the_default_is_written() -> None:
    assert written(service(handler(input_content_type="*/*"))) == {
        "protocolMode": "BIDI_STREAM",
        "minProtocolVersion": 5,
        "maxProtocolVersion": 7,
        "services": [{"name": "S", "ty": "SERVICE", "handlers": [{"name": "h"}]}],
    }


def test_what_all_handlers_have_alike_is_their_services() -> None:
    a, b = handler("a", private=True, abort_timeout_ms=1), handler("b", private=True, abort_timeout_ms=2)
    (found,) = written(service(a, b))["services"]
    assert found["ingressPrivate"] is True
    assert [each.get("ingressPrivate") for each in found["handlers"]] == [None, None]
    assert [each.get("abortTimeout") for each in found["handlers"]] == [1, 2]


def test_a_handler_without_input_says_so() -> None:
    (found,) = written(service(handler()))["services"]
    assert found["handlers"][0]["input"] == {}


def test_retry_policies() -> None:
    policy = RetryPolicy(0.25, 1.5, 10.0, None, None, "fail")
    (found,) = written(service(handler(retry_policy=policy)))["services"]
    assert {name: value for name, value in found.items() if name.startswith("retry")} == {
        "retryPolicyInitialInterval": 250,
        "retryPolicyMaxInterval": 10_000,
        "retryPolicyMaxAttempts": 2_147_483_647,
        "retryPolicyExponentiationFactor": 1.5,
        "retryPolicyOnMaxAttempts": "KILL",
    }


def test_older_versions_are_not_told_what_they_do_not_know() -> None:
    told = service(handler(description="d", metadata={"a": "b"}, lazy_state=True), description="s")
    assert "documentation" not in json.dumps(written(told, version=1))
    assert "documentation" in json.dumps(written(told, version=2))
    assert "enableLazyState" in json.dumps(written(told, version=3))


@pytest.mark.parametrize(
    ("options", "since"),
    [
        ({"private": True}, 3),
        ({"abort_timeout_ms": 1}, 3),
        ({"idempotency_retention_ms": 1}, 3),
        ({"retry_policy": RetryPolicy(max_attempts=3)}, 4),
    ],
    ids=str,
)
def test_an_option_that_a_version_cannot_say_is_an_error(options: dict[str, Any], since: int) -> None:
    told = service(handler(**options))
    written(told, version=since)
    with pytest.raises(ManifestError, match=f"version {since}"):
        written(told, version=since - 1)


@pytest.mark.parametrize("told", [service(handler(), concurrency=1), service(handler(concurrency=1))], ids=["s", "h"])
def test_a_limit_that_only_an_engine_keeps_is_an_error(told: ServiceInfo) -> None:
    with pytest.raises(ManifestError, match="concurrency=1"):
        written(told)


# Reading


def test_what_is_not_said_is_the_default() -> None:
    assert one() == handler(input_content_type="*/*")


def test_a_manifest_of_another_sdk() -> None:
    """Of the Python SDK 1.3.0, abbreviated."""
    data = b"""{"protocolMode":"BIDI_STREAM","minProtocolVersion":5,"maxProtocolVersion":7,"services":[
     {"name":"Greeter","ty":"SERVICE","handlers":[
       {"name":"greet","input":{"required":false,"contentType":"application/json","jsonSchema":{"type":"string"}},
        "output":{"contentType":"application/json","setContentTypeIfEmpty":false,"jsonSchema":{"type":"string"}}}]},
     {"name":"Obj","ty":"VIRTUAL_OBJECT","handlers":[{"name":"a","ty":"EXCLUSIVE"},{"name":"b","ty":"SHARED","input":{}}]},
     {"name":"Wf","ty":"WORKFLOW","handlers":[{"name":"run","ty":"WORKFLOW"},{"name":"sig","ty":"SHARED"}]}]}"""
    found = read_manifest(data, 3)
    assert (found.mode, found.oldest, found.newest) == (BIDI, 5, 7)
    greeter, obj, wf = found.services
    assert greeter.handlers["greet"].input_schema == {"type": "string"}
    assert [each.kind for each in obj.handlers.values()] == [HandlerKind.EXCLUSIVE, HandlerKind.SHARED]
    assert [each.input_content_type for each in obj.handlers.values()] == ["*/*", None]
    assert [each.kind for each in wf.handlers.values()] == [HandlerKind.WORKFLOW, HandlerKind.SHARED]


@pytest.mark.parametrize(
    ("ty", "own", "kind"),
    [
        ("SERVICE", None, HandlerKind.PLAIN),
        ("SERVICE", "SHARED", HandlerKind.PLAIN),
        ("VIRTUAL_OBJECT", None, HandlerKind.EXCLUSIVE),
        ("VIRTUAL_OBJECT", "EXCLUSIVE", HandlerKind.EXCLUSIVE),
        ("VIRTUAL_OBJECT", "SHARED", HandlerKind.SHARED),
        ("WORKFLOW", None, HandlerKind.SHARED),
        ("WORKFLOW", "WORKFLOW", HandlerKind.WORKFLOW),
        ("WORKFLOW", "SHARED", HandlerKind.SHARED),
    ],
)
def test_the_kind_of_a_handler(ty: str, own: str | None, kind: HandlerKind) -> None:
    assert one({"ty": own}, ty).kind is kind


@pytest.mark.parametrize(
    ("ty", "own"),
    [
        ("SERVICE", "EXCLUSIVE"),
        ("SERVICE", "WORKFLOW"),
        ("VIRTUAL_OBJECT", "WORKFLOW"),
        ("WORKFLOW", "EXCLUSIVE"),
        ("SERVICE", "ODD"),
        ("VIRTUAL_OBJECT", "PLAIN"),
    ],
)
def test_a_kind_that_a_service_cannot_have(ty: str, own: str) -> None:
    assert code_of({"ty": own}, ty) == "META0013"


def test_a_handlers_word_comes_before_its_services() -> None:
    found = one({"abortTimeout": 1}, abortTimeout=2, inactivityTimeout=3, retryPolicyMaxAttempts=0)
    assert (found.abort_timeout_ms, found.inactivity_timeout_ms) == (1, 3)
    assert found.retry_policy.max_attempts == 1
    found = one({"retryPolicyOnMaxAttempts": "PAUSE"}, retryPolicyOnMaxAttempts="KILL", retryPolicyMaxInterval=1500)
    assert found.retry_policy == RetryPolicy(max_interval=1.5, on_exhausted="pause")


def test_retention_of_workflows_and_of_their_other_handlers() -> None:
    (found,) = read(
        [
            {
                "name": "W",
                "ty": "WORKFLOW",
                "idempotencyRetention": 1,
                "handlers": [
                    {"name": "run", "ty": "WORKFLOW", "workflowCompletionRetention": 2},
                    {"name": "look"},
                ],
            }
        ]
    ).services
    run, look = found.handlers.values()
    assert (run.workflow_retention_ms, run.idempotency_retention_ms) == (2, DAY)
    assert (look.workflow_retention_ms, look.idempotency_retention_ms) == (DAY, 1)
    assert code_of({"ty": "SHARED", "workflowCompletionRetention": 1}, "WORKFLOW") == "META0013"
    assert code_of({"ty": "WORKFLOW", "idempotencyRetention": 1}, "WORKFLOW") == "META0013"


def test_a_private_service_has_no_public_handler() -> None:
    assert one(ingressPrivate=True).private
    assert one({"ingressPrivate": True}).private
    assert code_of({"ingressPrivate": False}, ingressPrivate=True) == "META0013"


@pytest.mark.parametrize("name", ["restate", "RestateThing", "restate.x", "openapi", "OpenAPI"])
def test_reserved_names(name: str) -> None:
    assert code_of(name=name) == "META0005"


@pytest.mark.parametrize("name", ["", "1a", "_", "-a", "a b", "a/b", "é", "__a"])
def test_names_that_are_none(name: str) -> None:
    assert code_of(name=name) == "META0013"
    assert code_of({"name": name}) == "META0013"


def test_names_of_services_may_have_dots_and_dashes_those_of_handlers_not() -> None:
    assert read([{"name": "a.b-c", "ty": "SERVICE", "handlers": []}]).services[0].name == "a.b-c"
    assert code_of({"name": "a.b"}) == "META0013"


@pytest.mark.parametrize(
    "problem",
    [
        {"protocolMode": ...},
        {"protocolMode": "ODD"},
        {"minProtocolVersion": 0},
        {"minProtocolVersion": ...},
        {"minProtocolVersion": 8, "maxProtocolVersion": 7},
        {"maxProtocolVersion": 1 << 31},
        {"lambdaCompression": "gzip"},
        {"services": ...},
        {"services": [{"name": "S", "ty": "SERVICE"}]},
        {"services": [{"name": "S", "ty": "SERVICE", "handlers": []}] * 2},
        {"services": [{"name": "S", "ty": "SERVICE", "handlers": [{"name": "h"}] * 2}]},
    ],
    ids=str,
)
def test_a_manifest_that_is_malformed(problem: dict[str, Any]) -> None:
    assert code(**{"services": []} | problem) == "META0013"


@pytest.mark.parametrize(
    "problem",
    [
        {"inactivityTimeout": -1},
        {"abortTimeout": "1s"},
        {"journalRetention": 1 << 62},
        {"retryPolicyExponentiationFactor": 0.5},
        {"retryPolicyOnMaxAttempts": "EXPLODE"},
        {"retryPolicyMaxAttempts": -1},
        {"metadata": {"a": 1}},
        {"input": {"contentType": "json"}},
        {"output": {"contentType": ""}},
        {"input": {"jsonSchema": {"properties": {"a": [{"$ref": "https://example.com/a.json"}]}}}},
    ],
    ids=str,
)
def test_an_option_that_is_malformed(problem: dict[str, Any]) -> None:
    assert code_of(problem) == "META0013"


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"a":', b"null"])
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(ManifestError) as caught:
        read_manifest(data, 4)
    assert caught.value.code == "META0013"


def test_versions_that_have_nothing_in_common() -> None:
    assert code([], minProtocolVersion=8, maxProtocolVersion=9) == "META0012"
    assert code([], minProtocolVersion=1, maxProtocolVersion=4) == "META0012"
    assert read([], minProtocolVersion=1, maxProtocolVersion=5).newest == 5


def test_a_version_of_the_manifest_that_is_unknown() -> None:
    assert code([], 9) == "META0013"


def test_schemas_may_refer_to_themselves_and_be_anything() -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}
    assert one({"input": {"contentType": "application/json", "jsonSchema": schema}}).input_schema == schema
    assert one({"input": {"contentType": "application/json", "jsonSchema": True}}).input_schema is True


def test_properties_of_later_versions_are_passed_over() -> None:
    assert one({"somethingNew": 1}, alsoNew=[1]) == one()
    assert one({"enableLazyState": True, "eagerStateKeysWhitelist": ["a"]}).eager_state_keys == ("a",)
