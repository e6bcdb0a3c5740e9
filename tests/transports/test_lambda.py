"""AWS Lambda functions, called over a stand-in of Lambda's and STS' APIs; the function is an app of perdure's."""

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote

import pytest
import zstandard

from perdure import App, Context, Service
from perdure.assembly import Reach, assemble
from perdure.model.actions import Answer as Result
from perdure.model.deployments import LambdaEndpoint
from perdure.model.entries import Value
from perdure.runtime.deployments import DeploymentError, Deployments, Registration
from perdure.storage.memory import MemoryStorage
from perdure.transports import lambda_
from perdure.transports.lambda_ import LambdaConnector
from perdure.transports.remote import Request
from tests.transports.h2_server import Heard, post
from tests.transports.in_loop import in_loop, until

ARN = "arn:aws:lambda:eu-central-1:123456789012:function:greeter:7"
ROLE = "arn:aws:iam::123456789012:role/caller"
GREET = Request("GET", "/discover", [("accept", "application/vnd.restate.endpointmanifest.v4+json")])

greeter = Service("Greeter")


@greeter.handler()
async def greet(ctx: Context, name: str) -> str:
    return f"hello {await ctx.run('name', lambda: name)}"


APP = App(greeter, protocol="request-response")


async def asgi_answer(app: App, payload: dict[str, Any]) -> dict[str, Any]:
    """What a function makes of an event: one request to an app."""
    body = base64.b64decode(payload["body"])
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": payload["httpMethod"],
        "path": payload["path"],
        "headers": [(name.encode(), value.encode()) for name, value in payload["headers"].items()],
    }
    await app(scope, receive, send)
    whole = b"".join(message.get("body", b"") for message in sent[1:])
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return {
        "statusCode": sent[0]["status"],
        "headers": headers,
        "body": base64.b64encode(whole).decode(),
        "isBase64Encoded": True,
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cloud: ClassVar["Cloud"]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        cloud = self.cloud
        cloud.credentials.append(self.headers["authorization"].partition("Credential=")[2].partition("/")[0])
        if self.path == "/":
            self._reply(200, cloud.assume(parse_qs(body.decode())), {"content-type": "text/xml"})
            return
        start, name, end = self.path.split("/functions/")[0], *self.path.split("/functions/")[1].rsplit("/", 1)
        assert (start, unquote(name), end) == ("/2015-03-31", ARN, "invocations"), self.path
        payload = json.loads(body)
        cloud.payloads.append(payload)
        self._reply(*cloud.invoke(payload))

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Cloud:
    """`answer` is what the function answers instead of the app, if anything; or a status of the API."""

    def __init__(self) -> None:
        self.payloads: list[dict[str, Any]] = []
        self.credentials: list[str] = []
        self.roles: list[str] = []
        self.lifetime_s = 3600
        self.gate = threading.Event()  # functions answer once it is set
        self.gate.set()
        self.answer: Any = None
        self.status = 200
        self.headers: dict[str, str] = {}
        handler = type("Bound", (Handler,), {"cloud": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def invoke(self, payload: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        self.gate.wait(10)
        if self.answer is not None:
            body = self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()
            return self.status, body, self.headers
        return 200, json.dumps(asyncio.run(asgi_answer(APP, payload))).encode(), {}

    def assume(self, form: dict[str, list[str]]) -> bytes:
        import datetime

        self.roles.append(form["RoleArn"][0])
        expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.lifetime_s)
        return (
            '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>'
            f"<AccessKeyId>ASSUMED{len(self.roles)}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
            f"<SessionToken>t</SessionToken><Expiration>{expires:%Y-%m-%dT%H:%M:%SZ}</Expiration>"
            "</Credentials></AssumeRoleResult></AssumeRoleResponse>"
        ).encode()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    made = Cloud()
    for name, value in {
        "AWS_ENDPOINT_URL_LAMBDA": made.url,
        "AWS_ENDPOINT_URL_STS": made.url,
        "AWS_ACCESS_KEY_ID": "OWN",
        "AWS_SECRET_ACCESS_KEY": "own",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }.items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()


def reply(body: bytes = b"", **more: Any) -> dict[str, Any]:
    return {"statusCode": 200, "body": base64.b64encode(body).decode(), "isBase64Encoded": True, **more}


async def fetch(endpoint: LambdaEndpoint = LambdaEndpoint(ARN)) -> Any:  # noqa: B008  # it is frozen
    connector = LambdaConnector()
    try:
        return await connector.fetch(endpoint, GREET)
    finally:
        await connector.close()


@in_loop
async def test_a_function_is_registered_and_runs_invocations(cloud: Cloud) -> None:
    node = assemble([], [MemoryStorage()], reach=Reach())
    await node.start()
    deployment, fresh = await Deployments(node).register(Registration(LambdaEndpoint(ARN)))
    assert fresh and deployment.endpoint == LambdaEndpoint(ARN) and list(deployment.revisions) == ["Greeter"]
    found = await node.call(node.registry.target("Greeter", "greet", None), b'"ada"')
    assert isinstance(found, Result) and found.result == Value(b'"hello ada"')
    first, *attempts = cloud.payloads
    assert (first["httpMethod"], first["path"], first["body"]) == ("GET", "/discover", "")
    assert {each["path"] for each in attempts} == {"/invoke/Greeter/greet"} and attempts[0]["isBase64Encoded"]
    assert attempts[0]["headers"]["content-type"] == "application/vnd.restate.invocation.v6"
    assert set(cloud.credentials) == {"OWN"}
    await node.stop(0)


@in_loop
async def test_an_answer_may_be_text_and_without_headers(cloud: Cloud) -> None:
    cloud.answer = {"statusCode": 404, "body": "not here", "headers": None}
    assert await fetch() == (404, {}, b"not here", "2")
    cloud.answer = {"headers": {"X-One": "1"}}
    assert await fetch() == (200, {"x-one": "1"}, b"", "2")


BAD: list[tuple[Any, int, dict[str, str], str]] = [
    ({"errorMessage": "boom"}, 200, {"x-amz-function-error": "Unhandled"}, "the function failed: .*boom"),
    (b"[]", 200, {}, "not that of an endpoint"),
    (b"null", 200, {}, "not that of an endpoint"),
    (b"{", 200, {}, "not that of an endpoint"),
    ({"body": "!", "isBase64Encoded": True}, 200, {}, "not that of an endpoint"),
    (reply(b"no zstd", headers={"content-encoding": "zstd"}), 200, {}, "not that of an endpoint"),
    ({"message": "no"}, 403, {"x-amzn-errortype": "AccessDeniedException"}, "AccessDenied"),
    ({"message": "no"}, 500, {"x-amzn-errortype": "ServiceException"}, "ServiceException"),
]


@pytest.mark.parametrize(("answer", "status", "headers", "problem"), BAD)
@in_loop
async def test_calls_that_fail(cloud: Cloud, answer: Any, status: int, headers: dict[str, str], problem: str) -> None:
    cloud.answer, cloud.status, cloud.headers = answer, status, headers
    with pytest.raises(ConnectionError, match=problem):
        await fetch()
    assert len(cloud.payloads) == 1, "the partition repeats what fails, not boto"
    connector, heard = LambdaConnector(), Heard()
    connector.open(LambdaEndpoint(ARN), post(), heard).close()
    assert ARN in await heard.over() and heard.calls == ["broken"]
    await connector.close()


@in_loop
async def test_a_throttled_call_is_a_busy_endpoint(cloud: Cloud) -> None:
    cloud.answer, cloud.status = {"message": "Rate Exceeded", "Reason": "ConcurrentInvocationLimitExceeded"}, 429
    cloud.headers = {"x-amzn-errortype": "TooManyRequestsException", "retry-after": "3"}
    assert await fetch() == (429, {"retry-after": "3"}, b"", "2")


@in_loop
async def test_large_bodies_are_compressed_where_that_is_understood(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lambda_, "COMPRESS_BYTES", 1000)
    packed = zstandard.ZstdCompressor().compress(b"answer" * 1000)
    cloud.answer = reply(packed, headers={"Content-Encoding": "zstd"})
    connector = LambdaConnector()
    for compression, body in (("zstd", b"x" * 1000), ("zstd", b"x" * 999), (None, b"x" * 1000)):
        heard = Heard()
        stream = connector.open(LambdaEndpoint(ARN, None, compression), post(), heard)
        stream.write(body[:500])
        stream.write(body[500:])
        stream.close()
        assert await heard.over() == "end" and heard.body == b"answer" * 1000
        payload = cloud.payloads[-1]
        sent, headers = base64.b64decode(payload["body"]), payload["headers"]
        assert headers.get("accept-encoding") == compression
        if headers.get("content-encoding") == "zstd":
            sent = zstandard.ZstdDecompressor().decompress(sent)
        assert sent == body and ("content-encoding" in headers) == (compression is not None and len(body) == 1000)
    await connector.close()


@in_loop
async def test_a_role_is_assumed_and_again_before_it_expires(cloud: Cloud) -> None:
    cloud.answer = reply()
    connector = LambdaConnector()
    endpoint = LambdaEndpoint(ARN, ROLE)
    for _ in range(2):
        await connector.fetch(endpoint, GREET)
    assert cloud.roles == [ROLE] and cloud.credentials == ["OWN", "ASSUMED1", "ASSUMED1"]
    await connector.close()
    cloud.lifetime_s = 60
    connector = LambdaConnector()
    for _ in range(2):
        await connector.fetch(endpoint, GREET)
    assert cloud.roles == [ROLE] * 3 and cloud.credentials[-1] == "ASSUMED3"
    await connector.close()


@in_loop
async def test_calls_that_nobody_waits_for(cloud: Cloud) -> None:
    cloud.answer = reply(b"x")
    cloud.gate.clear()
    connector, given_up, left = LambdaConnector(), Heard(), Heard()
    stream = connector.open(LambdaEndpoint(ARN), post(), given_up)
    stream.abort()
    stream.close()
    stream = connector.open(LambdaEndpoint(ARN), post(), left)
    stream.close()
    await until(lambda: cloud.payloads)
    stream.abort()
    cloud.gate.set()
    await until(lambda: not connector._tasks._running)
    assert len(cloud.payloads) == 1 and given_up.calls == [] and left.calls == []
    await connector.close()


@in_loop
async def test_a_function_that_can_not_be_called_can_not_be_registered(cloud: Cloud) -> None:
    cloud.answer, cloud.status = {"message": "Function not found"}, 404
    cloud.headers = {"x-amzn-errortype": "ResourceNotFoundException"}
    node = assemble([], [MemoryStorage()], reach=Reach())
    await node.start()
    with pytest.raises(DeploymentError, match="ResourceNotFoundException") as caught:
        await Deployments(node).register(Registration(LambdaEndpoint(ARN)))
    assert caught.value.restate_code == "META0003"
    await node.stop(0)
