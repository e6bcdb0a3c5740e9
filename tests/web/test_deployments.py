"""The admin port's routes of deployments and services, over a node and endpoints that a test speaks for."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from perdure import App, Context, Service
from perdure.model.ids import IN_PROCESS
from perdure.runtime import deployments as module
from perdure.transports.remote import NO_HTTP2, Answer
from perdure.web.admin import Admin
from tests.runtime.elsewhere import World, answer, at, manifest, running, service
from tests.transports.in_loop import in_loop
from tests.web.fakes import Reply, Web

ONE, TWO = "http://one:9080", "http://two:9080"
ARN = "arn:aws:lambda:eu-central-1:123456789012:function:greeter:7"
JSON = ("content-type", "application/json")


def says(*services: dict[str, Any], **options: Any) -> list[Answer | Exception]:
    return [answer(json.dumps(manifest(*services, **options)).encode())]


class Client:
    """Asks the admin port; every answer that is no success has the shape of an error."""

    def __init__(self, admin: Admin, world: World) -> None:
        self._web = Web(admin)
        self.world = world

    async def __call__(self, method: str, path: str, body: Any = None, *headers: tuple[str, str]) -> Reply:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = await self._web(method, path, data, *(headers or ((JSON,) if body is not None else ())))
        assert reply is not None
        if reply.status >= 400 and reply.body and reply.headers["content-type"] == "application/json":
            assert set(reply.json) == {"message", "restate_code", "source", "accepted", "retryable"}, reply
        elif reply.status >= 400 and reply.body:
            assert reply.status in (400, 415, 422) and reply.headers["content-type"] == "text/plain; charset=utf-8"
        return reply

    async def register(self, path: str = "/deployments", **body: Any) -> Reply:
        return await self("POST", path, {"uri": ONE, **body})


@asynccontextmanager
async def admin(*apps: App) -> AsyncIterator[Client]:
    world = World()
    world.answers[ONE] = says(service("Greeter", "SERVICE", "greet", "leave"), service("Flow", "WORKFLOW", "later"))
    world.answers[TWO] = says(service("Greeter"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RETRY_SECONDS", 0.001)
        async with running(world, None, *apps) as node:
            yield Client(Admin(node, version="1.2.3"), world)


def error(reply: Reply) -> tuple[int, str | None]:
    return reply.status, reply.json["restate_code"]


# ---- deployments


@in_loop
async def test_registration_answers_as_restate_server_does() -> None:
    async with admin() as ask:
        reply = await ask.register(additional_headers={"X-Token": "t", "X-Team": "blue"}, metadata={"git": "abc"})
        created = reply.json
        id = created["id"]
        assert reply.status == 201 and reply.headers["location"] == f"deployments/{id}"
        assert set(created) == {"id", "services", "min_protocol_version", "max_protocol_version", "sdk_version"}
        assert (created["min_protocol_version"], created["max_protocol_version"]) == (5, 7)
        assert created["sdk_version"] == "test-sdk/1"
        assert [(each["name"], each["ty"], each["revision"]) for each in created["services"]] == [
            ("Greeter", "Service", 1),
            ("Flow", "Workflow", 1),
        ]
        greeter = created["services"][0]
        assert greeter["deployment_id"] == id and greeter["public"] is True
        assert [each["name"] for each in greeter["handlers"]] == ["greet", "leave"]
        shown = await ask("GET", f"/deployments/{id}")
        assert shown.status == 200
        assert {name: shown.json[name] for name in shown.json if name not in ("services", "created_at")} == {
            "id": id,
            "uri": f"{ONE}/",
            "protocol_type": "BidiStream",
            "http_version": "HTTP/2.0",
            "additional_headers": {"x-token": "***", "x-team": "blue"},  # what may be a secret is not shown
            "metadata": {"git": "abc"},
            "min_protocol_version": 5,
            "max_protocol_version": 7,
            "sdk_version": "test-sdk/1",
        }
        assert shown.json["services"] == created["services"]
        (listed,) = (await ask("GET", "/deployments")).json["deployments"]
        assert listed == shown.json | {
            "services": [{"name": "Greeter", "revision": 1}, {"name": "Flow", "revision": 1}]
        }


@pytest.mark.parametrize("prefix", ["", "/v3", "/v4"])
@in_loop
async def test_a_known_address_is_left_alone_unless_forced(prefix: str) -> None:
    async with admin() as ask:
        first = (await ask.register()).json["id"]
        again = await ask.register(f"{prefix}/deployments")
        assert (again.status, again.json["id"], again.json["services"][0]["revision"]) == (200, first, 1)
        forced = await ask.register(f"{prefix}/deployments", force=True)
        assert (forced.status, forced.json["id"], forced.json["services"][0]["revision"]) == (200, first, 2)


@in_loop
async def test_v2_forces_by_default_and_refuses_a_known_address_else() -> None:
    async with admin() as ask:
        first = await ask.register("/v2/deployments")
        assert first.status == 201
        again = await ask.register("/v2/deployments")
        assert (again.status, again.json["id"], again.json["services"][0]["revision"]) == (201, first.json["id"], 2)
        refused = await ask.register("/v2/deployments", force=False)
        assert error(refused) == (409, "META0004")
        replaced = await ask("PUT", f"/v2/deployments/{first.json['id']}", {"uri": TWO})
        assert (replaced.status, replaced.json["uri"]) == (200, f"{TWO}/")
        assert [each["name"] for each in replaced.json["services"]] == ["Greeter"]
        assert (await ask("PUT", f"/deployments/{first.json['id']}", {"uri": TWO})).status == 405


@in_loop
async def test_a_dry_run_tells_and_stores_nothing() -> None:
    async with admin() as ask:
        dry = await ask.register(dry_run=True)
        assert dry.status == 201 and dry.json["services"][0]["name"] == "Greeter"
        assert (await ask("GET", "/deployments")).json == {"deployments": []}
        assert (await ask("GET", f"/deployments/{dry.json['id']}")).status == 404


@in_loop
async def test_functions_have_their_own_fields() -> None:
    async with admin() as ask:
        mode = {"mode": "REQUEST_RESPONSE", "lambdaCompression": "zstd"}
        ask.world.answers[ARN] = says(service("Greeter"), **mode)
        role = "arn:aws:iam::1:role/r"
        reply = await ask("POST", "/deployments", {"arn": ARN, "assume_role_arn": role})
        shown = (await ask("GET", f"/deployments/{reply.json['id']}")).json
        assert (shown["arn"], shown["assume_role_arn"], shown["compression"]) == (ARN, role, "Zstd")
        assert not {"uri", "protocol_type", "http_version", "additional_headers"} & set(shown)


BAD_BODIES: list[tuple[Any, int]] = [
    (b"{", 400),
    (b"\xff", 400),
    ([], 422),
    ({}, 422),
    ({"uri": 5}, 422),
    ({"uri": ONE, "force": "yes"}, 422),
    ({"uri": ONE, "additional_headers": {"a": 1}}, 422),
    ({"uri": "one:9080"}, 400),
    ({"uri": "/path"}, 400),
    ({"uri": ""}, 422),
    ({"uri": "no uri"}, 422),
    ({"uri": "ftp://one"}, 422),
    ({"uri": "http://"}, 422),
    ({"uri": "http://one:port"}, 422),
    ({"uri": "http://one:99999"}, 422),
    ({"uri": "http://one/a b"}, 422),
    ({"uri": "http://one/\nx: y"}, 422),
    ({"uri": "http://one/\u00e9"}, 422),
    ({"uri": "http://one?x=1"}, 400),
    ({"uri": "http://user:pass@one"}, 400),
    ({"uri": ONE, "arn": ARN}, 400),
    ({"arn": ARN.removesuffix(":7")}, 400),
    ({"arn": ARN.replace(":function:", ":layer:")}, 400),
    ({"arn": "nothing"}, 400),
    ({"uri": ONE, "additional_headers": {"a b": "c"}}, 422),
    ({"uri": ONE, "additional_headers": {"a": "b\r\nc: d"}}, 422),
    ({"uri": ONE, "additional_headers": {"": "b"}}, 422),
]


@pytest.mark.parametrize(("body", "status"), BAD_BODIES)
@in_loop
async def test_bodies_that_are_refused(body: Any, status: int) -> None:
    async with admin() as ask:
        assert (await ask("POST", "/deployments", body)).status == status
        assert ask.world.asked == []


@in_loop
async def test_other_content_types_are_refused() -> None:
    async with admin() as ask:
        for headers in ((("content-type", "text/plain"),), (("x", "y"),)):
            assert (await ask("POST", "/deployments", b'{"uri": "http://one"}', *headers)).status == 415
        id = (await ask.register()).json["id"]
        for method, path in (
            ("PATCH", f"/deployments/{id}"),
            ("PATCH", "/services/Greeter"),
            ("PUT", f"/v2/deployments/{id}"),
        ):
            assert (await ask(method, path, b"{}", ("content-type", "text/plain"))).status == 415


DISCOVERY: list[tuple[list[Answer | Exception], tuple[int, str]]] = [
    ([ConnectionError("refused")], (500, "META0003")),
    ([Answer(404, {}, b"")], (500, "META0003")),
    ([ConnectionError(f"{NO_HTTP2}: b'HTTP/1.1'")], (500, "META0014")),
    ([Answer(200, {}, b"")], (500, "META0013")),
    (says(service("Greeter"), oldest=1, newest=2), (500, "META0012")),
    (says(service("restate")), (400, "META0005")),
    (says(service("Greeter", "WORKFLOW")), (409, "META0006")),
]


@pytest.mark.parametrize(("answers", "expected"), DISCOVERY)
@in_loop
async def test_discovery_that_fails(answers: list[Answer | Exception], expected: tuple[int, str]) -> None:
    async with admin() as ask:
        await ask.register()
        ask.world.answers[TWO] = answers
        assert error(await ask.register(uri=TWO)) == expected


@in_loop
async def test_a_path_and_a_slash_belong_to_the_address() -> None:
    async with admin() as ask:
        ask.world.answers[f"{ONE}/a/b"] = says(service("Deep"))
        first = await ask.register(uri=f"{ONE}/a/b/")
        again = await ask.register(uri=f"{ONE}/a/b")
        assert (first.status, again.status) == (201, 200) and first.json["id"] == again.json["id"]
        assert (await ask.register(uri=f"{ONE}/")).json["id"] != first.json["id"]


@in_loop
async def test_http_11_is_asked_for() -> None:
    async with admin() as ask:
        (found,) = says(service("Old"), mode="REQUEST_RESPONSE")
        assert isinstance(found, Answer)
        ask.world.answers[TWO] = [found._replace(http_version="1.1")]
        id = (await ask.register(uri=TWO, use_http_11=True)).json["id"]
        shown = (await ask("GET", f"/deployments/{id}")).json
        assert (shown["http_version"], shown["protocol_type"]) == ("HTTP/1.1", "RequestResponse")


@in_loop
async def test_changes() -> None:
    async with admin() as ask:
        id = (await ask.register()).json["id"]
        path = f"/deployments/{id}"
        same = await ask("PATCH", path, {})
        assert same.status == 200 and same.json == (await ask("GET", path)).json
        dry = await ask("PATCH", path, {"uri": TWO, "dry_run": True})
        assert dry.json["uri"] == f"{TWO}/" and (await ask("GET", path)).json == same.json
        moved = (await ask("PATCH", path, {"uri": TWO, "additional_headers": {"A": "b"}})).json
        assert (moved["uri"], moved["additional_headers"]) == (f"{TWO}/", {"a": "b"})
        assert [each["name"] for each in moved["services"]] == ["Greeter", "Flow"]
        written = (await ask("PATCH", path, {"overwrite": True})).json
        assert [each["name"] for each in written["services"]] == ["Greeter"]
        ask.world.answers[ONE] = says(service("Greeter"), newest=6)
        assert error(await ask("PATCH", path, {"uri": ONE})) == (400, "META0016")
        assert (await ask("PATCH", f"/deployments/dp_1{'1' * 22}", {"uri": ONE})).status == 404
        assert (await ask("PATCH", "/deployments/dp_1short", {"uri": ONE})).status == 400
        assert (await ask("PATCH", path, {"uri": "x"})).status == 400


@in_loop
async def test_a_secret_that_is_given_as_it_is_shown_stays() -> None:
    async with admin() as ask:
        id = (await ask.register(additional_headers={"Authorization": "Bearer s", "a": "b"})).json["id"]
        path = f"/deployments/{id}"
        shown = (await ask("GET", path)).json["additional_headers"]
        assert shown == {"authorization": "***", "a": "b"}
        changed = await ask("PATCH", path, {"additional_headers": {**shown, "a": "c"}})
        assert changed.json["additional_headers"] == {"authorization": "***", "a": "c"}
        sent = dict(ask.world.asked[-1][1].headers)
        assert (sent["authorization"], sent["a"]) == ("Bearer s", "c"), "the endpoint is given what was stored"
        for answer in (
            await ask("PATCH", path, {"additional_headers": {"x-api-key": "***"}}),
            await ask.register(additional_headers={"Authorization": "***"}, force=True),
        ):
            assert answer.status == 400 and "which is not known; give it" in answer.json["message"]
        starred = await ask("PATCH", path, {"additional_headers": {"a": "***"}})
        assert starred.json["additional_headers"] == {"a": "***"}, "what is no secret is what it is"


@in_loop
async def test_removal_has_to_be_forced() -> None:
    async with admin() as ask:
        id = (await ask.register()).json["id"]
        for query in ("?force=", "?force=yes", "?force=true&force=true"):
            assert (await ask("DELETE", f"/deployments/{id}{query}")).status == 400
        for query in ("", "?force=false"):
            reply = await ask("DELETE", f"/deployments/{id}{query}")
            assert (reply.status, reply.body) == (501, b"")
        assert (await ask("DELETE", f"/deployments/{id}?force=true")).status == 202
        assert (await ask("DELETE", f"/deployments/{id}?force=true")).status == 404
        assert (await ask("GET", f"/deployments/{id}")).status == 404
        assert (await ask("GET", "/services")).json == {"services": []}
        assert (await ask("POST", f"/deployments/{id}", {})).status == 405


# ---- services


@in_loop
async def test_services_are_shown_with_what_they_leave_unsaid() -> None:
    async with admin() as ask:
        id = (await ask.register()).json["id"]
        greeter, flow = (await ask("GET", "/services")).json["services"]
        assert (await ask("GET", "/services/Greeter")).json == greeter
        wanted = {
            "name": "Greeter",
            "ty": "Service",
            "deployment_id": id,
            "revision": 1,
            "public": True,
            "idempotency_retention": "1d",
            "journal_retention": "1d",
            "inactivity_timeout": "1m",
            "abort_timeout": "10m",
            "enable_lazy_state": False,
            "retry_policy": {
                "initial_interval": "500ms",
                "exponentiation_factor": 2.0,
                "max_attempts": 70,
                "max_interval": "1m",
                "on_max_attempts": "Pause",
            },
        }
        assert {name: greeter[name] for name in greeter if name != "handlers"} == wanted
        assert flow["ty"] == "Workflow" and "workflow_completion_retention" not in greeter
        handlers = (await ask("GET", "/services/Greeter/handlers")).json["handlers"]
        assert handlers == greeter["handlers"] and "ty" not in handlers[0]
        assert (await ask("GET", "/services/Greeter/handlers/leave")).json == handlers[1]
        assert (await ask("GET", "/services/Flow/handlers/later")).json["ty"] == "Shared"
        for path in ("/services/Nobody", "/services/Nobody/handlers", "/services/Greeter/handlers/none"):
            assert (await ask("GET", path)).status == 404


@in_loop
async def test_options_are_changed_until_the_next_discovery() -> None:
    async with admin() as ask:
        await ask.register()
        changes = {"public": False, "inactivity_timeout": "5s", "abort_timeout": "1m 30s", "journal_retention": "2d"}
        changed = (await ask("PATCH", "/services/Greeter", changes)).json
        assert {name: changed[name] for name in changes} == changes and changed["revision"] == 1
        assert not any(each["public"] for each in changed["handlers"])
        assert (await ask("PATCH", "/services/Greeter", {})).json == changed
        assert (await ask("GET", "/services/Greeter")).json == changed
        await ask.register(force=True)
        assert (await ask("GET", "/services/Greeter")).json["inactivity_timeout"] == "1m"


@in_loop
async def test_changes_of_options_that_are_refused() -> None:
    async with admin() as ask:
        await ask.register()
        for body in ({"workflow_completion_retention": "1d"}, b"{"):
            assert (await ask("PATCH", "/services/Greeter", body)).status == 400
        assert (await ask("PATCH", "/services/Greeter", {"inactivity_timeout": "soon"})).status == 422
        assert (await ask("PATCH", "/services/Greeter", {"public": "no"})).status == 422
        assert (await ask("PATCH", "/services/Nobody", {})).status == 404


greeter = Service("Here")


@greeter.handler()
async def greet(ctx: Context) -> None:
    return None


@in_loop
async def test_what_this_process_serves_is_shown_and_not_changed() -> None:
    async with admin(App(greeter)) as ask:
        await ask.register()
        shown = (await ask("GET", "/services/Here")).json
        assert (shown["deployment_id"], shown["revision"]) == (IN_PROCESS, 1)
        assert (await ask("PATCH", "/services/Here", {"public": False})).status == 400
        assert (await ask("DELETE", f"/deployments/{IN_PROCESS}?force=true")).status == 404
        assert (await ask("PATCH", f"/deployments/{IN_PROCESS}", {"uri": str(at(TWO).address)})).status == 404
