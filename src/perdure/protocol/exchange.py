"""Both ends of one attempt as bytes, sans IO: `EngineEnd` keeps the journal, `HandlerEnd` runs the code.

A transport moves the bytes and knows nothing of them. The rules of the stream are kept here: one `Start`, then exactly
the entries it announced, one last message, nothing after it; and the acks of version 7, which stand where the result
of a step would.
"""

from collections.abc import Iterator

from perdure.errors import RemoteProtocolError
from perdure.model import entries as e
from perdure.model.ids import format_invocation_id, random_seed
from perdure.model.invocation import Target
from perdure.model.services import RetryPolicy
from perdure.protocol import control, versions
from perdure.protocol import wire_control as w
from perdure.protocol import wire_pb2 as wire
from perdure.protocol.frames import FRAME_LIMIT, Frame, FrameReader, encode_frame
from perdure.protocol.messages import decode_entry, encode_entry

__all__ = ["EngineEnd", "HandlerEnd"]

_COMMANDS = range(0x0400, 0x8000)


class EngineEnd:
    """The end that keeps the journal. `opening` is sent first; then each notification; `feed` reads the answers."""

    __slots__ = ("_acked", "_reader", "_version", "ended", "running", "seen", "start")

    def __init__(self, start: control.Start, version: int, limit: int = FRAME_LIMIT) -> None:
        self.start = start
        self.ended = False
        self.seen = 0  # notifications sent: when a handler suspends it has seen them all
        self.running: set[int] = set()  # steps of which nobody has proposed a result
        self._version = version
        self._reader = FrameReader(limit)
        self._acked: set[int] = set()  # steps whose results this very stream proposed, and wants acknowledged only

    def opening(self) -> bytes:
        """`Start` and the journal."""
        start = self.start
        state = start.state
        message = wire.Start(
            id=start.id,
            debug_id=format_invocation_id(start.id),
            known_entries=len(start.entries),
            state=[wire.StateEntry(key=key.encode(), value=value) for key, value in (state or {}).items()],
            partial_state=state is None,
            key=start.target.key or "",
            retry_count=start.failures,
            retry_duration_ms=start.since_progress_ms,
        )
        if self._version >= versions.RANDOM_SEED:
            message.random_seed = start.random_seed
        pieces = [encode_frame(w.START, message.SerializeToString())]
        for entry in start.entries:
            if isinstance(entry, e.Completion | e.Signal):
                self.seen += 1
            pieces.append(encode_frame(*encode_entry(entry)))
        return b"".join(pieces)

    def notify(self, notification: e.Notification) -> bytes:
        """The next notification of the journal; of a step whose result came from this stream, its ack."""
        self.seen += 1
        if isinstance(notification, e.Completion) and notification.completion_id in self._acked:
            self._acked.discard(notification.completion_id)
            ack = wire.ProposeRunCompletionAck(completion_id=notification.completion_id)
            return encode_frame(w.PROPOSE_RUN_ACK, ack.SerializeToString())
        return encode_frame(*encode_entry(notification))

    def feed(self, data: bytes, at: int) -> Iterator[control.FromHandler]:
        """What the handler said. Raises `RemoteProtocolError` where it breaks the protocol."""
        for frame in self._reader.feed(data):
            if self.ended:
                raise RemoteProtocolError(f"a message of type {frame.type:#06x} after the last one")
            yield self._message(frame, at)

    def close(self) -> None:
        """The handler's side has ended. Raises `RemoteProtocolError` if its last message had not come."""
        if not self.ended:
            raise RemoteProtocolError("the response ended before the last message", 500)

    def _message(self, frame: Frame, at: int) -> control.FromHandler:
        kind = frame.type
        if kind in _COMMANDS:
            entry = decode_entry(kind, frame.payload)
            if isinstance(entry, e.Run):
                self.running.add(entry.completion_id)
            return entry  # type: ignore[return-value]  # the range holds commands only
        if kind == w.PROPOSE_RUN:
            proposal = w.decode_proposal(frame.payload)
            self.running.discard(proposal.completion_id)
            if frame.ack and self._version >= versions.ACKS:
                self._acked.add(proposal.completion_id)
            return proposal
        if kind == w.AWAITING_ON and self._version >= versions.AWAIT_TREES:
            return w.decode_awaiting_on(frame.payload)
        self.ended = True
        if kind == w.END:
            return control.End()
        if kind == w.SUSPENSION:
            return w.decode_suspension(frame.payload, self.seen)
        if kind == w.ERROR:
            return w.decode_error(frame.payload, at)
        raise RemoteProtocolError(f"message type {kind:#06x} is none that a handler may send")


class HandlerEnd:
    """The end that runs the code. `feed` gives `Start` once, then notifications; `encode` is what goes back.

    `target` says which handler this is: the wire does not. Times are not on the wire either: `started_at` and the time
    of every notification are 0. Nor are the failed tries of steps: `failures` is all that is known of them.
    """

    __slots__ = ("_entries", "_known", "_proposed", "_reader", "_start", "_target", "_version", "policy", "started")

    def __init__(self, target: Target, version: int, policy: RetryPolicy, limit: int = FRAME_LIMIT) -> None:
        self._target = target
        self._version = version
        self._reader = FrameReader(limit)
        self._start: wire.Start | None = None
        self._known = 0
        self._entries: list[e.Entry] = []
        self._proposed: dict[int, e.Value | e.Failure] = {}
        self.policy = policy
        self.started = False

    def feed(self, data: bytes) -> Iterator[control.Start | e.Notification]:
        """What the engine said. Raises `RemoteProtocolError` where it breaks the protocol."""
        for frame in self._reader.feed(data):
            if self._start is None:
                self._begin(frame)
            elif not self.started:
                self._entries.append(decode_entry(frame.type, frame.payload))
            else:
                yield self._notification(frame)
                continue
            if self._start is not None and len(self._entries) == self._known:
                self.started = True
                yield self._whole_start(self._start)

    def close(self) -> None:
        """The engine's side has ended. Raises `RemoteProtocolError` if that was in the middle of the journal."""
        if not self.started:
            known = f"{len(self._entries)} of {self._known} entries" if self._start is not None else "Start"
            raise RemoteProtocolError(f"the request ended before the journal was whole: after {known}")
        if self._reader.pending:
            raise RemoteProtocolError("the request ended in the middle of a message")

    def _begin(self, frame: Frame) -> None:
        if frame.type != w.START:
            raise RemoteProtocolError(f"the first message is of type {frame.type:#06x}, not Start")
        self._start = start = w.parse(wire.Start, frame.payload)
        if start.known_entries < 1:
            raise RemoteProtocolError("Start announces no entries; the input is one", 500)
        if len(start.id) != 24:
            raise RemoteProtocolError(f"the invocation's id has {len(start.id)} bytes, not 24", 500)
        self._known = start.known_entries

    def _whole_start(self, start: wire.Start) -> control.Start:
        if not isinstance(self._entries[0], e.Input):
            raise RemoteProtocolError("the journal does not begin with the input")
        target = self._target
        if start.key:
            target = Target(target.service, target.handler, target.kind, start.key)
        try:
            state = None if start.partial_state else {each.key.decode(): each.value for each in start.state}
        except UnicodeDecodeError:
            raise RemoteProtocolError("a key of the state is not UTF-8") from None
        return control.Start(
            start.id,
            target,
            tuple(self._entries),
            state,
            start.random_seed if self._version >= versions.RANDOM_SEED else random_seed(start.id),
            start.retry_count + 1,
            start.retry_count,
            0,
            {},
            self.policy,
            start.retry_duration_ms,
        )

    def _notification(self, frame: Frame) -> e.Notification:
        if frame.type == w.PROPOSE_RUN_ACK and self._version >= versions.ACKS:
            completion_id = w.parse(wire.ProposeRunCompletionAck, frame.payload).completion_id
            result = self._proposed.pop(completion_id, None)
            if result is None:
                raise RemoteProtocolError(f"an ack of step {completion_id}, whose result was not proposed")
            return e.Completion(e.RUN_COMPLETION, completion_id, result)
        entry = decode_entry(frame.type, frame.payload)
        if not isinstance(entry, e.Completion | e.Signal):
            raise RemoteProtocolError(f"{type(entry).__name__} after the journal: only notifications may follow")
        return entry

    def encode(self, message: control.Said) -> bytes:
        """A message's frame; empty for what has no place in this version."""
        assert not isinstance(message, control.ToStreams), "the SDK refuses streams before it gets here"
        ack = False
        if isinstance(message, control.ProposeRun) and self._version >= versions.ACKS:
            self._proposed[message.completion_id] = message.result
            ack = True
        if isinstance(message, control.StepFailed):
            return b""
        if isinstance(
            message, control.ProposeRun | control.AwaitingOn | control.Suspension | control.Error | control.End
        ):
            encoded = w.encode_control(message, self._version)
            return b"" if encoded is None else encode_frame(*encoded, ack=ack)
        return encode_frame(*encode_entry(message))
