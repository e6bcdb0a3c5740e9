"""The admin port, row by row. Each row is asked of perdure and of restate-server."""

from typing import Any

from tests.contract.cases import Case

NO_ID = "inv_1".ljust(38, "0")
NO_DEPLOYMENT = "dp_1" + "1" * 22
NO_SUBSCRIPTION = "sub_1" + "1" * 22
BATCH = "/internal/invocations_batch_operations"
OURS = "perdure's own route"

EXPLAINED = "a rule that nothing enforces would be a promise that is not kept"
PAUSED = "a suspended one is paused; restate-server says so and leaves it suspended, to go on when it is woken"
FIELDS = "what cannot be is refused by the name of its field, before anything is connected to"

GENERAL = [
    Case("GET", "/health", 200, ""),
    Case("HEAD", "/health", 200, ""),
    Case("GET", "/v2/health", 200, ""),
    Case("GET", "/v3/health", 200, ""),
    Case("GET", "/v4/health", 200, ""),
    Case("POST", "/health", 405, "any"),
    Case("GET", "/health/", 404, ""),
    Case("GET", "/v1/health", 400, "text"),
    Case("GET", "/v1", 400, "text"),
    Case("GET", "/v1/", 404, ""),
    Case("GET", "/v5/health", 404, ""),
    Case("GET", "/v0/health", 404, ""),
    Case("GET", "/nothing", 404, ""),
    Case("POST", "/nothing", 404, ""),
    Case("GET", "/v4", 308, ""),
    Case("GET", "/v4/", 404, ""),
    Case("GET", "/", 308, ""),
    Case("POST", "/", 405, "any"),
    Case("GET", "/ui", 308, ""),
    Case("GET", "/v4/ui", 308, ""),
    Case("GET", "/ui/", 200, "html"),
    Case("GET", "/ui/no/such/page", 200, "html"),
    Case("GET", "/version", 200, "version min_admin_api_version max_admin_api_version ingress_endpoint features"),
    Case("GET", "/v4/version", 200, "version"),
    Case("GET", "/cluster-health", 200, "cluster_name metadata_cluster_health"),
    Case("POST", "/cluster-health", 405, "any"),
    Case("GET", "/openapi", 200, "openapi info paths components"),
    Case("POST", "/openapi", 405, "any"),
    Case("GET", "/metadata/x", 404, ""),
]

_STRANGE: list[tuple[Any, str | None, int]] = [
    ({}, None, 415),
    ({}, "text/plain", 415),
    (b"{", "application/json", 400),
    (b"", "application/json", 400),
    (b"\xff", "application/json", 400),
    ([], "application/json", 422),
    ({"a": 1}, "application/json; charset=utf-8", 422),
    ({"a": 1}, "application/vnd.a+json", 422),
]
BODIES = [
    Case(method, path, status, "text", b"{}" if body == {} else body, kind)
    for method, path in (
        ("POST", "/deployments"),
        ("POST", "/query"),
        ("POST", "/subscriptions"),
        ("POST", "/kafka-clusters"),
        ("POST", "/services/Counter/state"),
        ("POST", f"{BATCH}/kill"),
    )
    for body, kind, status in _STRANGE
]

DEPLOYMENTS = [
    Case("GET", "/deployments", 200, "deployments"),
    Case("HEAD", "/deployments", 200, ""),
    Case("DELETE", "/deployments", 405, "any"),
    Case("POST", "/deployments", 200, "id services min_protocol_version max_protocol_version", {"uri": "{uri}"}),
    Case("POST", "/v3/deployments", 200, "id services", {"uri": "{uri}"}),
    Case("POST", "/deployments", 200, "id services", {"uri": "{uri}", "dry_run": True}),
    Case("POST", "/v2/deployments", 409, "error", {"uri": "{uri}", "force": False}),
    Case("POST", "/deployments", 422, "text", {"uri": 3}),
    Case("POST", "/deployments", 422, "text", {"uri": ""}),
    Case("POST", "/deployments", 400, "error", {"uri": "x"}),
    Case("POST", "/deployments", 400, "error", {"uri": "/x"}),
    Case("POST", "/deployments", 422, "text", {"uri": "http://"}),
    Case("POST", "/deployments", 422, "text", {"uri": "http://a b"}),
    Case("POST", "/deployments", 422, "text", {"uri": "http://127.0.0.1:1", "force": "yes"}),
    Case("POST", "/deployments", 422, "text", {"uri": "http://127.0.0.1:1", "use_http_11": None}),
    Case("POST", "/deployments", 422, "text", {"uri": "http://127.0.0.1:1", "additional_headers": {"a b": "c"}}),
    Case("POST", "/deployments", 400, "error", {"arn": "x"}),
    Case("POST", "/deployments", 500, "error", {"uri": "http://127.0.0.1:1"}),
    Case("POST", "/deployments", 400, "error", {"uri": "http://127.0.0.1:1?a=b"}, restate=500, why=FIELDS),
    Case("POST", "/deployments", 400, "error", {"uri": "http://u:p@127.0.0.1:1"}, restate=500, why=FIELDS),
    Case("POST", "/deployments", 422, "text", {"uri": "ftp://127.0.0.1:1"}, restate=500, why=FIELDS),
    Case("POST", "/deployments", 400, "error", {"uri": "http://127.0.0.1:1", "arn": "x"}, restate=500, why=FIELDS),
    Case("GET", "/deployments/{dp}", 200, "id uri protocol_type http_version created_at services"),
    Case("GET", "/deployments/dp_1", 400, "text"),
    Case("GET", f"/deployments/{NO_DEPLOYMENT}", 404, "error"),
    Case("PATCH", "/deployments/{dp}", 200, "id uri services", {}),
    Case("PATCH", "/deployments/{dp}", 422, "text", {"overwrite": 3}),
    Case("PATCH", "/deployments/{dp}", 415, "text", b"{}", None),
    Case("PATCH", "/deployments/dp_1", 400, "text", {}),
    Case("PATCH", f"/deployments/{NO_DEPLOYMENT}", 404, "error", {}),
    Case("PUT", "/deployments/{dp}", 405, "error", {"uri": "{uri}"}),
    Case("PUT", "/v3/deployments/{dp}", 405, "error", {"uri": "{uri}"}),
    Case("PUT", "/v2/deployments/{dp}", 200, "id services", {"uri": "{uri}", "dry_run": True}),
    Case("PUT", "/v2/deployments/dp_1", 400, "text", {}),
    Case("PUT", f"/v2/deployments/{NO_DEPLOYMENT}", 404, "error", {"uri": "{uri}"}),
    Case("DELETE", "/deployments/{dp}", 501, ""),
    Case("DELETE", "/deployments/{dp}?force=false", 501, ""),
    Case("DELETE", "/deployments/{dp}?force=yes", 400, "text"),
    Case("DELETE", "/deployments/dp_1?force=true", 400, "text"),
    Case("DELETE", f"/deployments/{NO_DEPLOYMENT}?force=true", 404, "error"),
]

_SERVICE = (
    "name ty handlers deployment_id revision public idempotency_retention journal_retention inactivity_timeout "
    "abort_timeout enable_lazy_state retry_policy"
)
SERVICES = [
    Case("GET", "/services", 200, "services"),
    Case("GET", "/services/Echo", 200, _SERVICE),
    Case("GET", "/services/Approval", 200, f"{_SERVICE} workflow_completion_retention"),
    Case("GET", "/services/Nobody", 404, "error"),
    Case("GET", "/services/a%2Fb", 404, "error"),
    Case("GET", "/services/", 404, ""),
    Case("POST", "/services/Echo", 405, "any"),
    Case("GET", "/services/Echo/handlers", 200, "handlers"),
    Case("GET", "/services/Nobody/handlers", 404, "error"),
    Case(
        "GET",
        "/services/Echo/handlers/echo",
        200,
        "name public input_description output_description retry_policy metadata",
    ),
    Case("GET", "/services/Echo/handlers/nothing-such", 404, "error"),
    Case("GET", "/services/Nobody/handlers/x", 404, "error"),
    Case("GET", "/services/Echo/openapi", 200, "openapi info paths components"),
    Case("GET", "/services/Nobody/openapi", 404, "error"),
    Case("PATCH", "/services/Echo", 200, _SERVICE, {}),
    Case("PATCH", "/services/Echo", 200, _SERVICE, {"journal_retention": "1d", "public": None}),
    Case("PATCH", "/services/Echo", 200, _SERVICE, {"inactivity_timeout": "PT1M"}),
    Case("PATCH", "/services/Echo", 422, "text", {"idempotency_retention": "soon"}),
    Case("PATCH", "/services/Echo", 422, "text", {"idempotency_retention": 3}),
    Case("PATCH", "/services/Echo", 422, "text", {"public": 3}),
    Case("PATCH", "/services/Echo", 400, "error", {"workflow_completion_retention": "1d"}),
    Case("PATCH", "/services/Echo", 415, "text", b"{}", None),
    Case("PATCH", "/services/Nobody", 404, "error", {}),
    Case("POST", "/services/Counter/state", 202, "", {"object_key": "{key}", "new_state": {"a": [49]}}),
    Case("POST", "/services/Counter/state", 202, "", {"object_key": "{key}", "new_state": {}, "version": "other"}),
    Case("POST", "/services/Nobody/state", 202, "", {"object_key": "{key}", "new_state": {}}),
    Case("POST", "/services/Nobody/state", 404, "error", {"object_key": "{key}", "new_state": {"a": [49]}}),
    Case("POST", "/services/Echo/state", 400, "error", {"object_key": "{key}", "new_state": {}}),
    Case("POST", "/services/Counter/state", 422, "text", {"object_key": "{key}", "new_state": {"a": [300]}}),
    Case("GET", "/services/Counter/state/{key}", 200, "state", restate=404, why=OURS),
    Case("GET", "/services/Nobody/state/{key}", 404, "error", restate=0, why=OURS),
    Case("GET", "/services/Echo/state/{key}", 400, "error", restate=0, why=OURS),
    Case("PATCH", "/services/Counter/state/{key}", 200, "", {"changes": {"a": "MQ=="}}, restate=404, why=OURS),
    Case("PATCH", "/services/Counter/state/{key}", 422, "text", {"changes": {"a": 1}}, restate=0, why=OURS),
]

_VERBS = ("cancel", "kill", "pause", "resume", "purge", "purge-journal", "restart-as-new")
_DONE = {
    "cancel": {"scheduled": 200, "inboxed": 200, "suspended": 202, "paused": 202, "completed": 409},
    "kill": {"scheduled": 200, "inboxed": 200, "suspended": 200, "paused": 200, "completed": 409},
    "purge": {"scheduled": 409, "inboxed": 409, "suspended": 409, "paused": 409, "completed": 200},
    "purge-journal": {"scheduled": 409, "inboxed": 409, "suspended": 409, "paused": 409, "completed": 200},
    "pause": {"scheduled": 409, "inboxed": 409, "paused": 200, "completed": 409},
    "resume": {"scheduled": 425, "inboxed": 425, "suspended": 200, "paused": 200, "completed": 409},
    "restart-as-new": {
        "scheduled": 425,
        "inboxed": 425,
        "suspended": 409,
        "paused": 409,
        "completed": 200,
        "completed, journal-less": 410,
        "killed workflow's": 422,
    },
}
INVOCATIONS = [
    *(Case("PATCH", f"/invocations/nonsense/{verb}", 400, "error") for verb in _VERBS),
    *(Case("PATCH", f"/v4/invocations/{NO_ID}/{verb}", 404, "error") for verb in _VERBS),
    *(Case("POST", f"/invocations/{NO_ID}/{verb}", 405, "any") for verb in _VERBS),
    *(
        Case(
            "PATCH",
            f"/invocations/{{id}}/{verb}",
            status,
            "error" if status >= 400 else "new_invocation_id" if verb == "restart-as-new" else "",
            given=given,
        )
        for verb, by_status in _DONE.items()
        for given, status in by_status.items()
    ),
    Case("PATCH", "/invocations/{id}/pause", 202, "", given="suspended", restate=200, why=PAUSED),
    Case("PATCH", "/invocations/{id}/restart-as-new?from=0", 200, "new_invocation_id", given="completed"),
    Case("PATCH", "/invocations/{id}/restart-as-new?deployment=keep", 200, "new_invocation_id", given="completed"),
    Case("PATCH", "/invocations/{id}/restart-as-new?deployment=Latest", 200, "new_invocation_id", given="completed"),
    Case("PATCH", "/invocations/{id}/restart-as-new?deployment={dp}", 200, "new_invocation_id", given="completed"),
    Case("PATCH", "/invocations/{id}/restart-as-new?from=x", 400, "text", given="completed"),
    Case("PATCH", "/invocations/{id}/restart-as-new?from=-1", 400, "text", given="completed"),
    Case("PATCH", "/invocations/{id}/restart-as-new?from=0&from=1", 400, "text", given="completed"),
    Case("PATCH", "/invocations/{id}/restart-as-new?from=99", 400, "error", given="completed"),
    Case("PATCH", "/invocations/{id}/restart-as-new?deployment=nope", 400, "error", given="completed"),
    Case("PATCH", f"/invocations/{{id}}/restart-as-new?deployment={NO_DEPLOYMENT}", 400, "error", given="completed"),
    Case("PATCH", "/invocations/{id}/resume?deployment=keep", 200, "", given="paused"),
    Case("PATCH", "/invocations/{id}/resume?deployment=nope", 400, "error", given="paused"),
    Case("PATCH", f"/invocations/{{id}}/resume?deployment={NO_DEPLOYMENT}", 400, "error", given="suspended"),
    Case("PATCH", f"/invocations/{NO_ID}/nothing", 404, ""),
    Case("DELETE", "/invocations/{id}", 202, "", given="completed"),
    Case("DELETE", "/invocations/{id}?mode=Kill", 202, "", given="suspended"),
    Case("DELETE", "/invocations/{id}?mode=purge", 202, "", given="completed"),
    Case("DELETE", f"/invocations/{NO_ID}?mode=cancel", 202, ""),
    Case("DELETE", f"/invocations/{NO_ID}?mode=zap", 400, "text"),
    Case("DELETE", "/invocations/nonsense", 400, "error"),
    Case("GET", "/invocations", 404, ""),
    Case("GET", "/invocations/{id}", 200, "id status journal attempts", given="suspended", restate=405, why=OURS),
    Case("GET", f"/invocations/{NO_ID}", 404, "error", restate=405, why=OURS),
    *(Case("POST", f"{BATCH}/{verb}", 200, "succeeded failed", {"invocation_ids": []}) for verb in _VERBS),
    *(Case("POST", f"/v4{BATCH}/{verb}", 200, "succeeded failed", {"invocation_ids": [NO_ID]}) for verb in _VERBS),
    Case("POST", f"{BATCH}/kill", 422, "text", {"invocation_ids": ["nonsense"]}),
    Case("POST", f"{BATCH}/kill", 422, "text", {}),
    Case("POST", f"{BATCH}/kill", 400, "error", {"invocation_ids": [NO_ID] * 1001}),
    Case("POST", f"{BATCH}/resume", 400, "error", {"invocation_ids": [NO_ID], "deployment": "nope"}),
    Case("POST", f"{BATCH}/zap", 404, "", {}),
    Case("GET", f"{BATCH}/kill", 405, "any"),
    Case("POST", f"{BATCH}/restart-as-new", 200, "succeeded failed", {"invocation_ids": ["{id}"]}, given="completed"),
]

_KAFKA = {"source": "kafka://c/t", "sink": "service://Echo/echo"}
FEATURES = [
    Case("GET", "/subscriptions", 200, "subscriptions"),
    Case("GET", "/subscriptions?source=a&sink=b", 200, "subscriptions"),
    Case("POST", "/subscriptions", 400, "error", _KAFKA),
    Case("POST", "/subscriptions", 400, "error", {**_KAFKA, "source": "http://c/t"}),
    Case("POST", "/subscriptions", 400, "error", {**_KAFKA, "source": "x"}),
    Case("POST", "/subscriptions", 400, "error", {**_KAFKA, "sink": "x"}),
    Case("POST", "/subscriptions", 400, "error", {**_KAFKA, "sink": "service://Nobody/echo"}),
    Case("PUT", "/subscriptions", 405, "any", {}),
    Case("GET", f"/subscriptions/{NO_SUBSCRIPTION}", 404, "error"),
    Case("GET", "/subscriptions/sub_1", 400, "text"),
    Case("DELETE", f"/subscriptions/{NO_SUBSCRIPTION}", 404, "error"),
    Case("DELETE", "/subscriptions/sub_1", 400, "text"),
    Case("PATCH", f"/subscriptions/{NO_SUBSCRIPTION}", 405, "any", {}),
    Case("GET", "/kafka-clusters", 200, "clusters"),
    Case("POST", "/kafka-clusters", 400, "error", {"name": "c", "properties": {}}),
    Case(
        "POST",
        "/kafka-clusters",
        400,
        "error",
        {"name": "contract", "properties": {"bootstrap.servers": "127.0.0.1:1"}},
        restate=0,
        why="this server does not read Kafka",
    ),
    Case("GET", "/kafka-clusters/x", 404, "error"),
    Case("GET", "/kafka-clusters/x?include_subscriptions=q", 400, "text"),
    Case("PATCH", "/kafka-clusters/x", 404, "error", {"properties": {"bootstrap.servers": "x"}}),
    Case("PATCH", "/kafka-clusters/x", 422, "text", {}),
    Case("DELETE", "/kafka-clusters/x", 404, "error"),
    Case("POST", "/kafka-clusters/x", 405, "any", {}),
    Case("PUT", "/limits/rules", 200, "", []),
    Case("PUT", "/limits/rules", 422, "text", {}),
    Case("PUT", "/limits/rules", 422, "text", [{"pattern": "a/b/c/d", "limits": {}}]),
    Case(
        "PUT",
        "/limits/rules",
        400,
        "error",
        [{"pattern": "contract", "limits": {"concurrency": 3}}],
        restate=200,
        why=EXPLAINED,
    ),
    Case("POST", "/limits/rules/bulk-delete", 200, "", []),
    Case("POST", "/limits/rules/bulk-delete", 200, "", [{"pattern": "nothing-such"}]),
    Case("POST", "/limits/rules/bulk-delete", 422, "text", {}),
    Case("GET", "/limits/rules", 405, "any"),
    Case("POST", "/vqueues/x/pause", 400, "error"),
    Case("POST", "/vqueues/x/resume", 400, "error"),
    Case("GET", "/vqueues/x/resume", 405, "any"),
    Case("POST", "/internal/services/Nobody/serdes/decode/x", 404, "error", b"1"),
    Case("POST", "/internal/services/Echo/serdes/decode/x", 500, "error", b"1"),
    Case("POST", "/internal/services/Echo/serdes/encode/x/y", 500, "error", b"1"),
    Case("POST", "/internal/services/Echo/serdes/decode/x?deployment=dp_1", 400, "text", b"1"),
    Case("POST", "/internal/services/Echo/serdes/decode/", 404, "", b"1"),
    Case("POST", "/internal/services/Echo/serdes/zap/x", 404, "", b"1"),
    Case("GET", "/internal/services/Echo/serdes/decode/x", 405, "any"),
    Case("POST", "/query", 200, "rows", {"query": "SELECT 1 AS a"}, headers=(("accept", "application/json"),)),
    Case("POST", "/query", 200, "any", {"query": "SELECT 1 AS a"}),
    Case("POST", "/query", 400, "message", {"query": "SELECT"}),
    Case("POST", "/query", 500, "message", {"query": "SELECT * FROM nothing_such"}),
    Case("GET", "/query", 405, "any"),
]

TABLE = [*GENERAL, *BODIES, *DEPLOYMENTS, *SERVICES, *INVOCATIONS, *FEATURES]
