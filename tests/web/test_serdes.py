"""Payloads are converted by the endpoint that serves them, if its SDK can."""

from typing import Any

from perdure import App, Context, Service
from perdure.transports.asgi import AsgiApp
from tests.transports.in_loop import in_loop
from tests.web.test_deployments import ONE, TWO, admin

here = Service("Here")


@here.handler()
async def greet(ctx: Context) -> None: ...


def converter(asked: list[tuple[str, bytes, dict[bytes, bytes]]], status: int = 200) -> AsgiApp:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        asked.append((scope["path"], body, dict(scope["headers"])))
        headers = [(b"content-type", b"text/x-shown")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"shown: " + body})

    return app


@in_loop
async def test_the_endpoint_converts() -> None:
    async with admin() as ask:
        asked: list[tuple[str, bytes, dict[bytes, bytes]]] = []
        ask.world.apps[ONE] = converter(asked)
        id = (await ask.register(additional_headers={"x-token": "t"})).json["id"]
        path = "/internal/services/Greeter/serdes"
        for verb, query in (("decode", ""), ("encode", f"?deployment={id}")):
            reply = await ask("POST", f"{path}/{verb}/a%20b/c{query}", b"\x00\x01", ("content-type", "text/plain"))
            assert (reply.status, reply.body) == (200, b"shown: \x00\x01")
            assert reply.headers["content-type"] == "text/x-shown"
        assert [each[0] for each in asked] == ["/serdes/Greeter/decode/a%20b/c", "/serdes/Greeter/encode/a%20b/c"]
        assert asked[0][2][b"x-token"] == b"t" and asked[0][2][b"x-restate-serdes-protocol"] == b"v1"


@in_loop
async def test_what_cannot_be_converted() -> None:
    async with admin(App(here)) as ask:
        ask.world.apps[ONE] = converter([], 404)
        first = (await ask.register()).json["id"]
        ask.world.answers[TWO] = [ConnectionError("refused")]
        path = "/internal/services/{}/serdes/decode/x"
        reply = await ask("POST", path.format("Greeter"), b"1")
        assert reply.status == 500 and "404" in reply.json["message"]
        assert (await ask("POST", path.format("Here"), b"1")).status == 500
        assert (await ask("POST", path.format("Nobody"), b"1")).status == 404
        assert (await ask("POST", path.format("Here") + f"?deployment={first}", b"1")).status == 400
        assert (await ask("POST", path.format("Greeter") + "?deployment=dp_1", b"1")).status == 400
        assert (await ask("POST", path.format("Greeter")[:-1], b"1")).status == 404
        ask.world.apps.clear()
        assert (await ask("POST", path.format("Greeter"), b"1")).status == 500
