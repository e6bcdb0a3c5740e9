"""The rules of an attempt elsewhere: what is sent when, which answers are failures, how long silence may last."""

import asyncio
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.model import entries as e
from perdure.model.deployments import Deployment, HttpEndpoint, ProtocolMode
from perdure.model.ids import format_invocation_id
from perdure.model.invocation import Combinator, Target, Waiting
from perdure.model.services import HandlerInfo, HandlerKind, RetryPolicy
from perdure.protocol import wire_pb2 as wire
from perdure.protocol.control import AwaitingOn, End, Error, FromHandler, ProposeRun, Start, Suspension
from perdure.protocol.exchange import EngineEnd, HandlerEnd
from perdure.protocol.frames import encode_frame
from perdure.runtime.clock import VirtualClock
from perdure.transports import remote as remote_module
from perdure.transports.remote import Collector, Remote, retry_after_ms
from tests.transports.fake_connector import FakeConnector, FakeStream
from tests.transports.in_loop import in_loop

AT = 1_700_000_000_000
ID = bytes(range(24))
SIGNAL = e.Signal("go", e.Value(b"1"), AT)
OUTPUT = e.Output(e.Value(b"out"))
INACTIVITY_MS, ABORT_MS = 60_000, 600_000


class Rig:
    """One attempt; what it tells the engine is in `said`, the endpoint's end of the bytes in `handler`."""

    def __init__(
        self,
        *,
        version: int = 6,
        mode: ProtocolMode = ProtocolMode.BIDI_STREAM,
        key: str | None = None,
        limit: int = 1 << 20,
        headers: dict[str, str] | None = None,
        failures: int = 0,
        **options: Any,
    ) -> None:
        self.clock = VirtualClock(AT)
        self.connector = FakeConnector()
        kind = HandlerKind.PLAIN if key is None else HandlerKind.EXCLUSIVE
        self.target = Target("greeter", "greet", kind, key)
        timeouts = {"inactivity_timeout_ms": INACTIVITY_MS, "abort_timeout_ms": ABORT_MS}
        info = HandlerInfo("greeter", "greet", kind, **(timeouts | options))
        endpoint = HttpEndpoint("http://there:9080/base")
        deployment = Deployment("dp_1", endpoint, mode, 5, 7, AT, {}, headers or {})
        policy = RetryPolicy()
        start = Start(ID, self.target, (e.Input(b"in"), SIGNAL), {"n": b"1"}, 7, 2, failures, AT, {}, policy, 42)
        self.version = version
        self.said: list[FromHandler] = []
        self.remote = Remote(
            self.clock,
            {HttpEndpoint: lambda: self.connector},
            sign=lambda path, key: {"x-signed": f"{path} {key}"},
            limit=limit,
        )
        self.duplex = self.remote.open(deployment, version, info, start, self.said.append)
        self.handler = HandlerEnd(self.target, version, policy)

    def begin(self) -> FakeStream:
        self.duplex.begin()
        return self.stream

    def begun(self) -> FakeStream:
        """Begun, and accepted by the endpoint."""
        stream = self.begin()
        self.duplex.head(200, {"content-type": f"application/vnd.restate.invocation.v{self.version}"})
        return stream

    @property
    def stream(self) -> FakeStream:
        return self.connector.streams[0]

    def answer(self, *messages: FromHandler) -> None:
        self.duplex.data(b"".join(self.handler.encode(message) for message in messages))

    def received(self) -> list[Start | e.Notification]:
        """What the endpoint has got since it was last asked."""
        data = b"".join(self.stream.written)
        self.stream.written.clear()
        return list(self.handler.feed(data))

    def after(self, ms: int) -> None:
        """Time passes, timer by timer."""
        until = self.clock.now_ms() + ms
        while (due := self.clock.next_ms()) is not None and due <= until:
            self.clock.move_to(due)
            self.clock.run_due()
        self.clock.move_to(until)

    def failure(self) -> tuple[str | None, str]:
        """The one failure that was told, and nothing after it."""
        error = self.said[-1]
        assert isinstance(error, Error)
        assert [type(each) for each in self.said].count(Error) == 1
        assert self.stream.aborts >= 1 or self.duplex._stream is None
        assert self.clock.next_ms() is None, "no timer is left"
        return error.failure.restate_code, error.failure.message


# ---- the request


def test_an_attempt_is_a_post_with_the_journal_as_its_body() -> None:
    rig = Rig(headers={"authorization": "Bearer x"}, failures=3)
    stream = rig.begin()
    request = stream.request
    assert (request.method, request.path, request.bidirectional) == ("POST", "/invoke/greeter/greet", True)
    content_type = "application/vnd.restate.invocation.v6"
    assert stream.headers == {
        "content-type": content_type,
        "accept": content_type,
        "x-restate-invocation-id": format_invocation_id(ID),
        "authorization": "Bearer x",
        "x-signed": "/invoke/greeter/greet None",
    }
    (start,) = rig.received()
    assert isinstance(start, Start)
    assert (start.id, start.entries) == (ID, (e.Input(b"in"), e.Signal("go", e.Value(b"1"))))
    assert (start.state, start.random_seed) == ({"n": b"1"}, 7)
    assert (start.failures, start.since_progress_ms) == (3, 42)
    assert not stream.closed and rig.said == []


def test_the_key_goes_along_percent_encoded_and_signed_as_it_is() -> None:
    rig = Rig(key="a/b c ü%")
    headers = rig.begin().headers
    assert headers["x-restate-service-key"] == "a%2Fb%20c%20%C3%BC%25"
    assert headers["x-signed"] == "/invoke/greeter/greet a/b c ü%"
    (start,) = rig.received()
    assert isinstance(start, Start) and start.target.key == "a/b c ü%"


@pytest.mark.parametrize("options", [{"mode": ProtocolMode.REQUEST_RESPONSE}, {"inactivity_timeout_ms": 0}])
def test_a_request_without_a_conversation_is_closed_at_once(options: dict[str, Any]) -> None:
    rig = Rig(**options)
    stream = rig.begun()
    assert stream.closed and not stream.request.bidirectional and len(rig.received()) == 1
    rig.duplex.notify(SIGNAL)
    assert stream.written == []
    rig.answer(e.Run(1, "step"))
    rig.after(ABORT_MS - 1)
    assert rig.said == [e.Run(1, "step")]
    rig.after(1)
    assert rig.failure()[0] == "RT0001"


# ---- a whole attempt


def test_messages_go_both_ways_until_the_last_one() -> None:
    rig = Rig()
    stream = rig.begun()
    rig.received()
    rig.answer(e.Run(1, "step"), ProposeRun(1, e.Value(b"v")))
    rig.duplex.notify(e.Completion(e.RUN_COMPLETION, 1, e.Value(b"v")))
    assert rig.received() == [e.Completion(e.RUN_COMPLETION, 1, e.Value(b"v"))]
    rig.answer(OUTPUT, End())
    assert rig.said == [e.Run(1, "step"), ProposeRun(1, e.Value(b"v")), OUTPUT, End()]
    assert stream.closed and not stream.aborts, "the request ends first, then the response has to"
    rig.duplex.notify(SIGNAL)
    rig.duplex.end()
    assert not stream.written and rig.clock.next_ms() is None and len(rig.said) == 4


def test_results_of_steps_are_acknowledged_in_version_7() -> None:
    rig = Rig(version=7)
    rig.begun()
    rig.received()
    rig.answer(e.Run(1, "step"), ProposeRun(1, e.Value(b"v" * 100)))
    rig.duplex.notify(e.Completion(e.RUN_COMPLETION, 1, e.Value(b"v" * 100)))
    assert len(rig.stream.written[0]) < 20
    assert rig.received() == [e.Completion(e.RUN_COMPLETION, 1, e.Value(b"v" * 100))]


def test_a_suspension_says_how_much_was_seen() -> None:
    rig = Rig()
    rig.begun()
    rig.duplex.notify(SIGNAL)
    rig.answer(Suspension(Waiting((1,), (1,))))
    assert rig.said == [Suspension(Waiting((1,), (1,)), seen=2)]


def test_messages_may_come_byte_by_byte() -> None:
    rig = Rig()
    rig.begun()
    data = rig.handler.encode(e.Run(1, "step")) + rig.handler.encode(OUTPUT) + rig.handler.encode(End())
    for at in range(len(data)):
        rig.duplex.data(data[at : at + 1])
    assert rig.said == [e.Run(1, "step"), OUTPUT, End()]


def test_an_endpoint_that_does_not_end_its_response_is_hung_up_on() -> None:
    rig = Rig()
    stream = rig.begun()
    rig.answer(OUTPUT, End())
    rig.after(remote_module.DRAIN_MS - 1)
    assert not stream.aborts
    rig.after(1)
    assert stream.aborts and rig.clock.next_ms() is None and rig.said == [OUTPUT, End()]


@pytest.mark.parametrize("code", [570, 500])
def test_the_handlers_own_errors_have_codes(code: int) -> None:
    rig = Rig()
    rig.begun()
    data = wire.Error(code=code, message="no", next_retry_delay_ms=7).SerializeToString()
    rig.duplex.data(encode_frame(2, data))
    (error,) = rig.said
    assert isinstance(error, Error) and (error.delay_ms, error.failure.message) == (7, "no")
    assert error.failure.restate_code == ("RT0016" if code == 570 else "RT0007")


# ---- answers that are none


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (413, "RT0019"),
        (415, "RT0015"),
        (429, "RT0023"),
        (503, "RT0023"),
        (502, "RT0010"),
        (504, "RT0010"),
        (201, "RT0012"),
        (302, "RT0012"),
        (401, "RT0012"),
        (404, "RT0012"),
        (500, "RT0012"),
        (0, "RT0012"),
    ],
)
def test_a_status_that_is_not_200(status: int, code: str) -> None:
    rig = Rig()
    rig.begin()
    rig.duplex.head(status, {"content-type": "text/plain"})
    found, message = rig.failure()
    assert found == code
    assert (
        message == f"[{code}] http://there:9080/base/invoke/greeter/greet: the endpoint answered with status {status}"
    )
    error = rig.said[0]
    assert isinstance(error, Error) and error.delay_ms is None and error.behavior == "retry"
    rig.duplex.data(b"not found")
    rig.duplex.end()
    assert len(rig.said) == 1


@pytest.mark.parametrize(
    ("status", "text", "delay_ms"),
    [
        (429, "3", 3000),
        (503, " 120 ", 120_000),
        (503, "Tue, 14 Nov 2023 22:13:30 GMT", 10_000),
        (503, "Tue, 14 Nov 2023 22:13:10 GMT", 0),
        (429, "soon", None),
        (429, None, None),
        (502, "3", None),
    ],
)
def test_an_endpoint_that_is_busy_says_until_when(status: int, text: str | None, delay_ms: int | None) -> None:
    rig = Rig()
    rig.begin()
    rig.duplex.head(status, {} if text is None else {"retry-after": text})
    (error,) = rig.said
    assert isinstance(error, Error) and error.delay_ms == delay_ms


@given(st.text() | st.integers().map(str) | st.datetimes().map(format_datetime))
def test_any_retry_after_can_be_read(text: str) -> None:
    delay_ms = retry_after_ms(text, AT)
    assert delay_ms is None or 0 <= delay_ms < 1 << 50


@pytest.mark.parametrize("found", [None, "text/html", "application/vnd.restate.invocation.v5"])
def test_another_content_type(found: str | None) -> None:
    rig = Rig()
    rig.begin()
    rig.duplex.head(200, {} if found is None else {"content-type": found})
    code, message = rig.failure()
    assert code == "RT0012" and f"content type {found or 'none'}" in message


def test_what_the_endpoint_is_made_with_is_remembered() -> None:
    rig = Rig()
    rig.begin()
    rig.duplex.head(404, {"x-restate-server": "sdk/1"})
    assert rig.duplex.sdk == "sdk/1"


def test_a_message_over_the_limit() -> None:
    rig = Rig(limit=1000)
    rig.begun()
    rig.answer(e.Run(1, "step"))
    rig.answer(ProposeRun(1, e.Value(b"x" * 2000)))
    code, message = rig.failure()
    assert code == "RT0003" and "the limit is 1000" in message and rig.said[0] == e.Run(1, "step")


DEEP = wire.Future(completions=[1])
for _ in range(90):
    DEEP = wire.Future(nested=[DEEP])

MALFORMED = {
    "an unknown type": encode_frame(0x0009, b""),
    "a message of the engine's": encode_frame(0, b""),
    "an acknowledgement": encode_frame(7, b""),
    "a hint that this version does not know": encode_frame(6, b""),
    "a command that is no protobuf": encode_frame(0x0411, b"\xff\xff"),
    "an error that is no protobuf": encode_frame(2, b"\xff\xff"),
    "a suspension that is no protobuf": encode_frame(1, b"\xff\xff"),
    "an unknown command": encode_frame(0x0500, b""),
    "a custom entry": encode_frame(0xFC01, b""),
    "a proposal of nothing": encode_frame(5, b""),
}


def test_what_is_nested_too_deep_pauses() -> None:
    rig = Rig(version=7)
    rig.begun()
    rig.duplex.data(encode_frame(1, wire.Suspension(awaiting=DEEP).SerializeToString()))
    (error,) = rig.said
    assert isinstance(error, Error) and error.behavior == "pause" and error.failure.restate_code == "RT0025"


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_no_handler_may_say(data: bytes) -> None:
    rig = Rig()
    stream = rig.begun()
    rig.duplex.data(data)
    assert rig.failure()[0] == "RT0012"
    rig.duplex.data(data)
    rig.duplex.notify(SIGNAL)
    rig.duplex.close_input()
    assert len(rig.said) == 1 and stream.aborts


@given(st.lists(st.binary(max_size=40)), st.sampled_from([5, 6, 7]))
def test_bytes_that_are_anything(chunks: list[bytes], version: int) -> None:
    rig = Rig(version=version, limit=100)
    rig.begun()
    for chunk in chunks:
        rig.duplex.data(chunk)
    rig.duplex.end()
    assert type(rig.said[-1]) in (Error, End, Suspension) and rig.clock.next_ms() is None


@given(st.lists(st.tuples(st.sampled_from(list(range(9)) + list(range(0x400, 0x41A))), st.binary(max_size=30))))
def test_frames_that_are_anything(frames: list[tuple[int, bytes]]) -> None:
    rig = Rig(version=7)
    rig.begun()
    rig.duplex.data(b"".join(encode_frame(type_, payload) for type_, payload in frames))
    rig.duplex.end()
    assert type(rig.said[-1]) in (Error, End, Suspension) and rig.clock.next_ms() is None


def test_messages_after_the_last_one_count_for_nothing() -> None:
    rig = Rig()
    stream = rig.begun()
    rig.answer(OUTPUT, End(), e.Run(1, "late"))
    rig.answer(e.Run(2, "later"))
    assert rig.said == [OUTPUT, End()] and stream.closed and not stream.aborts
    rig.after(remote_module.DRAIN_MS)
    assert stream.aborts and rig.clock.next_ms() is None


def test_a_response_that_ends_without_a_last_message() -> None:
    for piece in (b"", encode_frame(2, b"abc")[:9]):
        rig = Rig()
        rig.begun()
        rig.duplex.data(piece)
        rig.duplex.end()
        code, message = rig.failure()
        assert code == "RT0010" and "ended before the last message" in message


def test_a_connection_that_breaks() -> None:
    rig = Rig()
    rig.begin()
    rig.duplex.broken("nobody listens")
    assert rig.failure() == ("RT0010", "[RT0010] http://there:9080/base/invoke/greeter/greet: nobody listens")
    rig.duplex.notify(SIGNAL)
    rig.duplex.close_input()
    rig.duplex.abort()


def test_a_connection_that_breaks_after_the_last_message_is_nothing() -> None:
    rig = Rig()
    rig.begun()
    rig.answer(OUTPUT, End())
    rig.duplex.broken("reset")
    assert rig.said == [OUTPUT, End()] and rig.clock.next_ms() is None


# ---- silence


def test_silence_closes_the_request_and_then_ends_the_attempt() -> None:
    rig = Rig()
    stream = rig.begun()
    rig.after(INACTIVITY_MS - 1)
    assert not stream.closed and rig.said == [AwaitingOn(Waiting())]
    rig.after(1)
    assert stream.closed
    rig.after(ABORT_MS - 1)
    assert not stream.aborts
    rig.after(1)
    code, message = rig.failure()
    assert code == "RT0001" and f"{ABORT_MS} ms, the abort timeout" in message


def test_every_message_of_either_side_begins_silence_anew() -> None:
    rig = Rig()
    stream = rig.begun()
    for _ in range(3):
        rig.after(INACTIVITY_MS - 10)
        rig.duplex.notify(SIGNAL)
        rig.after(INACTIVITY_MS - 10)
        rig.answer(e.Run(1, "step"))
    assert not stream.closed
    rig.after(INACTIVITY_MS)
    assert stream.closed
    for _ in range(3):
        rig.after(ABORT_MS - 10)
        rig.answer(e.Run(2, "step"))
    assert rig.said[-1] == e.Run(2, "step")
    rig.after(ABORT_MS)
    assert rig.failure()[0] == "RT0001"


def test_a_request_that_others_close_has_no_longer_than_the_abort_timeout() -> None:
    rig = Rig(inactivity_timeout_ms=3_600_000, abort_timeout_ms=5_000)
    stream = rig.begun()
    rig.after(10_000)  # the way waits for the hour to pass
    rig.duplex.close_input()
    assert stream.closed
    rig.after(5_000)
    assert rig.failure()[0] == "RT0001"


def test_a_quiet_handler_is_told_of_once() -> None:
    rig = Rig()
    rig.begun()
    rig.after(remote_module.QUIET_MS)
    assert rig.said == [AwaitingOn(Waiting())]
    rig.after(10 * remote_module.QUIET_MS)
    assert len(rig.said) == 1
    rig.duplex.notify(SIGNAL)
    rig.after(remote_module.QUIET_MS)
    assert len(rig.said) == 2


def test_a_handler_with_a_step_running_is_not_quiet() -> None:
    rig = Rig()
    stream = rig.begun()
    rig.answer(e.Run(1, "step"), e.Run(2, "step"))
    rig.after(10_000)
    assert len(rig.said) == 2 and not rig.duplex.drain()
    rig.answer(ProposeRun(1, e.Value(b"")))
    rig.after(10_000)
    assert len(rig.said) == 3 and not rig.duplex.drain()
    rig.answer(ProposeRun(2, e.Failure(500, "no")))
    assert rig.duplex.drain()
    rig.after(10_000)
    assert rig.said[4:] == [AwaitingOn(Waiting())] and not stream.closed


def test_hints_are_passed_on_while_no_step_runs() -> None:
    waiting = Waiting((3,), (1,), (), (), Combinator.FIRST_COMPLETED)
    rig = Rig(version=7)
    rig.begun()
    rig.answer(AwaitingOn(waiting), AwaitingOn(Waiting()), e.Run(1, "step"), AwaitingOn(waiting))
    rig.answer(ProposeRun(1, e.Value(b"")), AwaitingOn(waiting))
    assert [message for message in rig.said if isinstance(message, AwaitingOn)] == [AwaitingOn(waiting)] * 2


# ---- the engine hangs up


def test_hanging_up_says_nothing_and_may_be_done_twice() -> None:
    rig = Rig()
    stream = rig.begun()
    rig.duplex.abort()
    rig.duplex.abort()
    rig.answer(OUTPUT, End())
    rig.duplex.head(500, {})
    rig.duplex.broken("reset")
    rig.duplex.end()
    rig.duplex.notify(SIGNAL)
    assert stream.aborts and rig.said == [] and rig.clock.next_ms() is None and rig.duplex.drain()


def test_hanging_up_before_it_began() -> None:
    rig = Rig()
    rig.duplex.notify(SIGNAL)
    rig.duplex.close_input()
    rig.duplex.abort()
    assert rig.connector.streams == [] and rig.clock.next_ms() is None


def test_whoever_hears_a_message_may_hang_up_on_it() -> None:
    rig = Rig()
    rig.begun()

    def hear(message: FromHandler) -> None:
        rig.said.append(message)
        rig.duplex.abort()

    rig.duplex._receive = hear
    rig.answer(e.Run(1, "one"), e.Run(2, "two"), OUTPUT, End())
    assert rig.said == [e.Run(1, "one")] and rig.clock.next_ms() is None


def test_nothing_is_sent_once_the_request_is_closed() -> None:
    rig = Rig()
    stream = rig.begun()
    rig.received()
    rig.duplex.close_input()
    rig.duplex.close_input()
    rig.duplex.notify(SIGNAL)
    assert stream.closed and stream.written == []


def test_an_endpoint_that_does_not_read_is_given_up() -> None:
    rig = Rig()
    stream = rig.begun()
    stream.unsent = remote_module.SLOW_READER_BYTES
    rig.duplex.notify(SIGNAL)
    assert rig.said == []
    stream.unsent += 1
    rig.duplex.notify(SIGNAL)
    code, message = rig.failure()
    assert code == "RT0010" and "has not read" in message


def test_congestion_is_the_remotes() -> None:
    rig = Rig()
    rig.begun()
    assert not rig.duplex.congested
    rig.remote.congested = lambda: True
    assert rig.duplex.congested


# ---- a connector for each kind, and whole answers


@in_loop
async def test_connectors_are_made_when_they_are_needed() -> None:
    made: list[FakeConnector] = []

    def make() -> FakeConnector:
        made.append(FakeConnector())
        return made[-1]

    remote = Remote(VirtualClock(AT), {HttpEndpoint: make})
    await remote.close()
    assert made == []
    endpoint = HttpEndpoint("http://there")
    assert remote.connector(endpoint) is remote.connector(HttpEndpoint("http://elsewhere")) is made[0]
    await remote.close()
    assert made[0].closed and len(made) == 1


@in_loop
async def test_a_collector_waits_for_a_whole_answer() -> None:
    collector = Collector("http://there/x", limit=10)
    collector.head(200, {"a": "b"})
    collector.data(b"12345")
    with pytest.raises(ConnectionError, match=r"http://there/x: no answer within 0\.01 s"):
        await collector.answer(0.01)
    collector.broken("late")
    collector = Collector("http://there/x", limit=10)
    collector.head(200, {"a": "b"})
    collector.data(b"12345")
    collector.end()
    collector.broken("after the end")
    assert await collector.answer(1) == (200, {"a": "b"}, b"12345", "2")
    collector = Collector("http://there/x", limit=10)
    collector.data(b"12345678901")
    collector.data(b"more")
    collector.end()
    with pytest.raises(ConnectionError, match="more than 10 bytes"):
        await collector.answer(1)


def test_opening_bytes_are_those_of_the_exchange() -> None:
    rig = Rig()
    stream = rig.begin()
    end = EngineEnd(rig.duplex._end.start, 6)
    assert stream.written == [end.opening()]
    assert msgspec.structs.asdict(end.start)["entries"][0] == e.Input(b"in")
    assert asyncio.iscoroutinefunction(rig.remote.close)
