"""An App as an ASGI application: paths, headers, negotiation, identity, lifespan, and what it says to nonsense."""

import asyncio
import json
import struct
from collections.abc import Coroutine
from typing import Any

import pytest

from perdure import App, Context, Service, VirtualObject
from perdure.model import entries as e
from perdure.model.ids import random_seed
from perdure.model.invocation import Target
from perdure.model.services import HandlerKind, RetryPolicy
from perdure.protocol import control, versions
from perdure.protocol.exchange import EngineEnd
from perdure.protocol.frames import FrameReader, encode_frame
from perdure.protocol.identity import public_key_of, public_key_text, sign
from perdure.protocol.wire_control import ERROR, decode_error
from tests.sdk.endpoint_engine import ID, Exchange, SmallEngine, ask

echo = Service("Echo", description="says it back")
SECRET = bytes(range(32))


@echo.handler()
async def say(ctx: Context, value: str) -> str:
    return value


@echo.handler()
async def invoke(ctx: Context) -> None:
    return None


@echo.handler()
async def discover(ctx: Context) -> str:
    return "found"


@echo.handler()
async def forever(ctx: Context) -> None:
    await ctx.awakeable()


app = App(echo)
V6 = {"content-type": versions.content_type(6)}
ALL = ", ".join(versions.MANIFEST_TYPES.values())


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(main)


def get(path: str, headers: dict[str, str] | None = None, http_version: str = "2", of: App = app) -> Any:
    return run(ask(of, "GET", path, headers or {}, http_version))


def post(path: str, headers: dict[str, str] | None = None, of: App = app) -> Any:
    return run(ask(of, "POST", path, headers or {}))


def manifest(answer: Any) -> Any:
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def test_every_answer_says_what_it_was_made_with() -> None:
    for answer in (get("/discover"), get("/nothing"), get("/health"), post("/invoke/No/body")):
        assert answer.headers["x-restate-server"].startswith("perdure-sdk-python/")


def test_discovery_answers_with_the_newest_version_that_is_asked_for() -> None:
    for version in versions.MANIFEST_TYPES:
        accept = ", ".join(versions.MANIFEST_TYPES[each] for each in range(1, version + 1))
        assert get("/discover", {"accept": accept}).headers["content-type"] == versions.MANIFEST_TYPES[version]


def test_discovery_is_found_behind_any_prefix() -> None:
    for path in ("/discover", "/a/discover", "/a/invoke/discover"):
        found = manifest(get(path, {"accept": ALL}))
        assert [service["name"] for service in found["services"]] == ["Echo"]
        assert (found["minProtocolVersion"], found["maxProtocolVersion"]) == (5, 7)


def test_discovery_of_a_version_that_is_not_spoken_is_refused() -> None:
    answer = get("/discover", {"accept": "application/vnd.restate.endpointmanifest.v9+json"})
    assert answer.status == 415


@pytest.mark.parametrize("accept", [{}, {"accept": "*/*"}])
def test_a_browser_sees_the_newest_manifest(accept: dict[str, str]) -> None:
    assert get("/discover", accept).headers["content-type"] == versions.MANIFEST_TYPES[4]


@pytest.mark.parametrize(
    ("protocol", "http_version", "mode"),
    [
        (None, "1.1", "REQUEST_RESPONSE"),
        (None, "2", "BIDI_STREAM"),
        ("bidi", "1.1", "BIDI_STREAM"),
        ("request-response", "2", "REQUEST_RESPONSE"),
    ],
)
def test_the_mode_follows_from_the_version_of_http_unless_it_is_given(
    protocol: Any, http_version: str, mode: str
) -> None:
    of = App(echo, protocol=protocol)
    assert manifest(get("/discover", {"accept": ALL}, http_version, of))["protocolMode"] == mode


def test_a_mode_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="protocol"):
        App(echo, protocol="both")  # type: ignore[arg-type]


def test_what_a_remote_server_would_not_do_is_an_error_at_discovery() -> None:
    limited = VirtualObject("Limited", concurrency=3)
    answer = get("/discover", {"accept": ALL}, of=App(limited))
    assert answer.status == 500
    assert b"concurrency=3" in answer.body


def test_an_option_newer_than_the_manifest_is_an_error_at_discovery() -> None:
    private = Service("Private", private=True)
    private.handler()(_handler())
    of = App(private)
    assert get("/discover", {"accept": versions.MANIFEST_TYPES[2]}, of=of).status == 500
    assert get("/discover", {"accept": versions.MANIFEST_TYPES[3]}, of=of).status == 200


def _handler() -> Any:
    async def handler(ctx: Context) -> None:
        return None

    return handler


def test_health() -> None:
    answer = get("/prefix/health")
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}')


@pytest.mark.parametrize(
    "path", ["/", "/invoke", "/invoke/Echo", "/invoke/Echo/nobody", "/invoke/Nobody/say", "/invoke/Echo/say/", "/x/y/z"]
)
def test_what_is_not_there_is_not_found(path: str) -> None:
    assert post(path, V6).status == 404


def test_an_invocation_is_a_post() -> None:
    assert get("/invoke/Echo/say", V6).status == 405
    assert get("/invoke/Echo/discover", V6).status == 405


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        *(versions.content_type(version) for version in (1, 4, 8)),
        versions.content_type(6) + ";",
    ],
)
def test_a_version_that_is_not_spoken_is_refused(content_type: str | None) -> None:
    assert post("/invoke/Echo/say", {} if content_type is None else {"content-type": content_type}).status == 415


@pytest.mark.parametrize("version", [5, 6, 7])
def test_the_answer_has_the_content_type_of_the_request(version: int) -> None:
    async def main() -> None:
        exchange = Exchange(app, "POST", "/invoke/Echo/say", {"content-type": versions.content_type(version)})
        while not exchange.status:  # noqa: ASYNC110  # the head comes before anything is read
            await asyncio.sleep(0)
        assert (exchange.status, exchange.headers["content-type"]) == (200, versions.content_type(version))
        exchange.disconnect()
        await exchange.task

    run(main())


@pytest.mark.parametrize("handler", ["invoke", "discover"])
def test_handlers_may_be_called_like_the_paths(handler: str) -> None:
    engine = run(SmallEngine(app, f"Echo/{handler}").run())
    assert isinstance(engine.result, e.Value)


# Identity


def signed_app() -> App:
    return App(echo, identity_keys=[public_key_text(public_key_of(SECRET))])


def now() -> float:
    import time

    return time.time()


def test_with_keys_only_who_holds_one_is_answered() -> None:
    of = signed_app()
    good = sign(SECRET, "/discover", now())
    assert get("/mounted/discover", {"accept": ALL, **good}, of=of).status == 200
    assert get("/mounted/discover", {"accept": ALL}, of=of).status == 401
    assert get("/discover", {"accept": ALL, **sign(bytes(32), "/discover", now())}, of=of).status == 401
    assert get("/discover", {"accept": ALL, **sign(SECRET, "/invoke/Echo/say", now())}, of=of).status == 401
    assert get("/discover", {"accept": ALL, **sign(SECRET, "/discover", now() - 300)}, of=of).status == 401
    assert post("/invoke/Echo/say", V6, of=of).status == 401
    assert post("/invoke/Nobody/nothing", V6, of=of).status == 401  # nor is anybody told what is there
    assert get("/health", of=of).status == 200


def test_a_key_that_is_none_is_found_when_the_app_is_made() -> None:
    with pytest.raises(Exception, match="public key"):
        App(echo, identity_keys=["secret"])
    with pytest.raises(TypeError, match="list"):
        App(echo, identity_keys="publickeyv1_x")


# Lifespan


def test_lifespan() -> None:
    async def main() -> list[str]:
        events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        sent: list[str] = []

        async def receive() -> Any:
            return next(events)

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await App(echo)({"type": "lifespan"}, receive, send)
        return sent

    assert run(main()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_websockets_are_refused() -> None:
    with pytest.raises(RuntimeError, match="websocket"):
        run(App(echo)({"type": "websocket"}, None, None))  # type: ignore[arg-type]


# Nonsense on the wire: an error message, never silence


def opening(body: bytes = b'"hi"', version: int = 6, entries: tuple[e.Entry, ...] = ()) -> bytes:
    target = Target("Echo", "say", HandlerKind.PLAIN)
    start = control.Start(ID, target, (e.Input(body), *entries), None, random_seed(ID), 1, 0, 0, {}, RetryPolicy())
    return EngineEnd(start, version).opening()


def error_of(data: bytes, handler: str = "say", version: int = 6, close: bool = True) -> control.Error:
    """What the endpoint says at the end; it must be an error."""

    async def main() -> bytes:
        headers = {"content-type": versions.content_type(version)}
        exchange = Exchange(app, "POST", f"/invoke/Echo/{handler}", headers)
        exchange.write(data)
        if close:
            exchange.close()
            return await exchange.whole()
        body = await exchange.read() or b""
        exchange.close()
        assert await exchange.read() is None
        return body

    *_, last = FrameReader().feed(run(main()))
    assert last.type == ERROR
    return decode_error(last.payload, 0)


GARBAGE = {
    "nothing at all": b"",
    "half a header": opening()[:5],
    "half of Start": opening()[:20],
    "no entries": opening()[: 8 + struct.unpack(">HHI", opening()[:8])[2]],
    "half an entry": opening()[:-1],
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_request_that_ends_too_early_is_an_error(data: bytes) -> None:
    assert error_of(data).failure.code == 571


BROKEN = {
    "not Start first": encode_frame(0x0401, b""),
    "an unknown message": opening() + encode_frame(0x7777, b""),
    "two starts": opening() + encode_frame(0x0000, b""),
    "a command after the journal": opening() + encode_frame(0x0411, b"\x58\x01"),
    "an ack in version 6": opening() + encode_frame(0x0007, b"\x08\x01"),
    "a notification without a result": opening() + encode_frame(0x800C, b"\x08\x01"),
    "no protobuf": opening() + encode_frame(0x800C, b"\xff\xff\xff"),
}


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_a_request_that_breaks_the_protocol_is_an_error(data: bytes, close: bool) -> None:
    assert error_of(data, "forever", close=close).failure.code == 571


def test_an_ack_of_a_step_that_was_not_proposed_is_an_error() -> None:
    data = opening(version=7) + encode_frame(0x0007, b"\x08\x05")
    assert error_of(data, "forever", version=7, close=False).failure.code == 571


def test_a_message_that_is_announced_too_large_is_an_error_at_once() -> None:
    assert error_of(struct.pack(">HHI", 0, 0, 1 << 31), close=False).failure.code == 413


def test_a_start_without_entries_is_an_error() -> None:
    assert error_of(encode_frame(0, b"\x0a\x18" + ID)).failure.code == 500


def test_code_that_no_longer_fits_its_journal_is_a_mismatch() -> None:
    error = error_of(opening(entries=(e.Run(1, "step"),)))
    assert error.failure.code == 570
    assert error.failure.command_index == 1
