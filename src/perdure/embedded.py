"""`Engine`: the whole engine in this process, without a port."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import msgspec

from perdure.assembly import LAG_SECONDS, LocalNode, assemble
from perdure.errors import Invalid, NotFound, StorageError, TerminalError, Unavailable
from perdure.model.actions import AlreadyInvoked, Answer, Refused
from perdure.model.entries import Failure, Signal, Value
from perdure.model.ids import InvocationId, format_invocation_id, parse_invocation_id
from perdure.model.services import HandlerKind, ServiceKind
from perdure.model.streams import Cursor, EndEvent, RegeneratedEvent
from perdure.protocol.approvals import Answer as ApprovalAnswer
from perdure.protocol.approvals import Approval, shown
from perdure.protocol.sessions import SESSIONS
from perdure.runtime import approvals
from perdure.runtime.builtin import call_builtin
from perdure.runtime.node import Node
from perdure.runtime.streams import Batch
from perdure.sdk import inbox
from perdure.sdk import operations as op
from perdure.sdk.app import App
from perdure.sdk.caller import Caller, in_seconds
from perdure.sdk.operations import Operation, Receipt, refusal
from perdure.sdk.reading import Events, ReadStream, Told
from perdure.storage.memory import MemoryStorage
from perdure.web.invocations import description_to_json

if TYPE_CHECKING:
    from perdure.sdk.otel import ReplaySafeTracerProvider
    from perdure.storage.base import Storage

__all__ = ["Engine", "open_stores"]

R = TypeVar("R")


class Engine(Caller):
    """Runs the handlers of `app` (or of several apps) in this process, durably; has the methods of `Client`.

    ::

        async with Engine(app, path="agent.db") as engine:
            report = await engine.call(research, topic)

    `path` is the file that everything is stored in, made if it is not there; None keeps everything in memory, for
    as long as the engine runs. With several `partitions`, which use more than one fsync at a time, or if it is a
    directory, `path` is a data directory as `perdure serve` has. What an earlier process began and did not finish
    goes on when the engine starts.

    `timeout` is for each operation that names none of its own (None waits for ever). Leaving the `async with` block
    gives running handlers `grace` seconds to come to rest; what is cut off goes on at the next start.

    With a `tracer_provider` (`perdure.ReplaySafeTracerProvider`) spans are made of what happens: docs/telemetry.md.
    """

    def __init__(
        self,
        app: App | Sequence[App],
        path: str | os.PathLike[str] | None = None,
        *,
        partitions: int | None = None,
        attempt_limit: int = 1000,
        timeout: float | timedelta | None = None,
        grace: float | timedelta = 10.0,
        tracer_provider: "ReplaySafeTracerProvider | None" = None,
    ) -> None:
        self._apps = [app] if isinstance(app, App) else list(app)
        for each in self._apps:
            if not isinstance(each, App):
                raise TypeError(f"Engine takes an App, or several; put services into one: App(...), not {each!r}")
        if partitions is not None and partitions < 1:
            raise Invalid(f"partitions must be at least 1, not {partitions}")
        self._path = path
        self._partitions = partitions
        self._attempt_limit = attempt_limit
        self._timeout = in_seconds(timeout)
        self._grace = in_seconds(grace) or 0.0
        self._tracer_provider = tracer_provider
        self._node: LocalNode | None = None
        self._backend = _Stopped()

    @property
    def node(self) -> Node:
        """The engine's inside, for tests and tools. Raises `Unavailable` while it does not run."""
        if self._node is None:
            raise Unavailable(_NOT_RUNNING)
        return self._node

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Opens the store and goes on with what is unfinished. `async with` does it. Raises `StorageError`."""
        if self._node is not None:
            raise Invalid("the engine runs already")
        stores = open_stores(self._path, self._partitions)
        try:
            node = assemble(
                self._apps,
                stores,
                attempt_limit=self._attempt_limit,
                lag_threshold=LAG_SECONDS,
                tracer_provider=self._tracer_provider,
            )
        except BaseException:
            for store in stores:
                store.close()
            raise
        try:
            await node.start()
        except BaseException:
            node.close()
            raise
        self._node = node
        self._backend = _NodeBackend(node)

    async def stop(self) -> None:
        """Lets handlers come to rest, stores what they said, closes the store. `async with` does it."""
        node, self._node = self._node, None
        if node is not None:
            self._backend = _Stopped()
            await node.stop(self._grace)


_NOT_RUNNING: Final = "the engine does not run: use it within `async with Engine(...) as engine:`"


class _Stopped:
    """Stands in for a node that is not there."""

    async def execute(self, operation: Operation[R], timeout: float | None) -> R:
        raise Unavailable(_NOT_RUNNING)

    async def events(self, operation: ReadStream) -> Events:
        raise Unavailable(_NOT_RUNNING)
        yield  # which makes it a generator


class _NodeBackend:
    """Carries operations out on a node of this process and event loop."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def execute(self, operation: Operation[R], timeout: float | None) -> R:
        carry_out = _CARRY_OUT[operation.__class__]
        if timeout is None:
            return cast(R, await carry_out(self._node, operation))
        async with asyncio.timeout(timeout):
            return cast(R, await carry_out(self._node, operation))

    async def events(self, operation: ReadStream) -> Events:
        cursor = None if operation.last_event_id is None else Cursor.parse(operation.last_event_id)
        id = stream_owner(self._node, operation)
        async with await self._node.streams.read(id, operation.name, start=operation.start, cursor=cursor) as reader:
            if reader.at_end:
                return
            while True:
                batch = await reader.next()
                for told in told_of(batch):
                    yield told
                if batch.cursor.ended:
                    return


def stream_owner(node: Node, operation: ReadStream) -> InvocationId:
    """Whose stream it is. Raises `Invalid` and `NotFound`."""
    if operation.id:
        return parse_invocation_id(operation.id)
    return _workflow_id(node, operation.service, operation.key)


def told_of(batch: Batch) -> list[Told]:
    """A batch's events, each with its id."""
    told: list[Told] = []
    for event in batch.events:
        if isinstance(event, EndEvent):
            cursor = batch.cursor
        elif isinstance(event, RegeneratedEvent):
            cursor = batch.cursor._replace(position=event.position - 1, ended=False)
        else:
            cursor = batch.cursor._replace(position=event.position, ended=False)
        told.append((event, str(cursor)))
    return told


async def _invoke(node: Node, call: op.Invoke) -> bytes:
    target = node.registry.target(call.service, call.handler, call.key)
    outcome = await node.call(target, call.body, headers=call.headers, idempotency_key=call.idempotency_key)
    if outcome.__class__ is AlreadyInvoked:
        raise TerminalError("the workflow was started before, and a workflow runs once", 409)
    return _value(cast(Answer, outcome))


async def _send(node: Node, send: op.Send) -> Receipt:
    call = send.call
    target = node.registry.target(call.service, call.handler, call.key)
    accepted = await node.send(
        target, call.body, headers=call.headers, idempotency_key=call.idempotency_key, delay_ms=send.delay_ms
    )
    return Receipt(format_invocation_id(accepted.id), accepted.fresh)


async def _attach(node: Node, attach: op.Attach) -> bytes:
    return _value(await node.attach(parse_invocation_id(attach.id)))


async def _output(node: Node, output: op.Output) -> bytes:
    return _value(await node.output(parse_invocation_id(output.id)))


async def _workflow_result(node: Node, wanted: op.WorkflowResult) -> bytes:
    id = _workflow_id(node, wanted.service, wanted.key)
    return _value(await (node.attach(id) if wanted.wait else node.output(id)))


def _workflow_id(node: Node, name: str, key: str) -> InvocationId:
    service = node.registry.service(name)
    if service is None:
        raise NotFound(f"service {name!r} not found")
    if service.kind is not ServiceKind.WORKFLOW:
        raise Invalid(f"{name} is no workflow but a {service.kind.value}")
    main = next(each for each in service.handlers.values() if each.kind is HandlerKind.WORKFLOW)
    return node.invocation_id(node.registry.target(service.name, main.name, key), None)


async def _signal(node: Node, send: op.SendSignal) -> None:
    await node.signal(parse_invocation_id(send.id), Signal(send.name, Value(send.body)))


async def _complete_awakeable(node: Node, complete: op.CompleteAwakeable) -> None:
    await node.complete_awakeable(complete.id, complete.result)


async def _control(node: Node, control: op.Control) -> str | None:
    id = parse_invocation_id(control.id)
    match control.verb:
        case "restart-as-new":
            done = await node.restart(id, control.keep)
        case "purge-journal":
            done = await node.purge(id, journal_only=True)
        case "cancel" | "kill" | "pause" | "resume" | "purge":
            done = await getattr(node, control.verb)(id)
        case _:
            raise AssertionError(control.verb)
    if isinstance(done, Refused):
        raise refusal(done.status, done.message)
    return None if done.new_id is None else format_invocation_id(done.new_id)


async def _describe(node: Node, describe: op.Describe) -> dict[str, Any]:
    outcome = await node.describe(parse_invocation_id(describe.id))
    if isinstance(outcome, Refused):
        raise refusal(outcome.status, outcome.message)
    return cast(dict[str, Any], msgspec.to_builtins(description_to_json(outcome)))


async def _read_state(node: Node, read: op.ReadState) -> dict[str, bytes]:
    _check_object(node, read.service)
    return await node.state(read.service, read.key)


async def _change_state(node: Node, change: op.ChangeState) -> None:
    _check_object(node, change.service)
    await node.change_state(change.service, change.key, change.changes, change.replace)


async def _list_approvals(node: Node, wanted: inbox.ListApprovals) -> list[inbox.ApprovalDescription]:
    found = await approvals.list_approvals(node, approvals.Wanted(*msgspec.structs.astuple(wanted)))
    return [_described_approval(each) for each in found]


async def _get_approval(node: Node, wanted: inbox.GetApproval) -> inbox.ApprovalDescription:
    return _described_approval(await approvals.find(node, wanted.id))


async def _answer_approval(node: Node, said: inbox.AnswerApproval) -> inbox.ApprovalDescription:
    value = msgspec.json.decode(said.value) if said.value else msgspec.UNSET
    answer = ApprovalAnswer(approved=said.approved, value=value, comment=said.comment, by=said.by)
    return _described_approval(await approvals.answer(node, said.id, answer, said.token))


async def _ask_session(node: Node, ask: inbox.AskSession) -> bytes:
    return await call_builtin(node, SESSIONS, ask.verb, ask.id, ask.body, ask.token)


def _described_approval(approval: Approval) -> inbox.ApprovalDescription:
    return msgspec.convert(shown(approval), inbox.ApprovalDescription)


def _check_object(node: Node, name: str) -> None:
    service = node.registry.service(name)
    if service is None:
        raise NotFound(f"service {name!r} not found")
    if not service.keyed:
        raise Invalid(f"{name} is a service: only virtual objects and workflows have state")


def _value(outcome: Answer | Refused) -> bytes:
    if isinstance(outcome, Refused):
        raise refusal(outcome.status, outcome.message)
    result = outcome.result
    if result.__class__ is Value:
        return result.content
    assert isinstance(result, Failure)
    raise TerminalError(result.message, result.code, dict(result.metadata))


_CARRY_OUT: Final[dict[type[Any], Callable[[Node, Any], Awaitable[Any]]]] = {
    op.Invoke: _invoke,
    op.Send: _send,
    op.Attach: _attach,
    op.Output: _output,
    op.WorkflowResult: _workflow_result,
    op.SendSignal: _signal,
    op.CompleteAwakeable: _complete_awakeable,
    op.Control: _control,
    op.Describe: _describe,
    op.ReadState: _read_state,
    op.ChangeState: _change_state,
    inbox.ListApprovals: _list_approvals,
    inbox.GetApproval: _get_approval,
    inbox.AnswerApproval: _answer_approval,
    inbox.AskSession: _ask_session,
}


# ---- stores


class _Layout(msgspec.Struct, frozen=True):
    """`layout.json` of a data directory. Which partition has a key depends on their number, so that never changes."""

    partitions: int
    version: int = 1


def open_stores(path: str | os.PathLike[str] | None, partitions: int | None = None) -> "list[Storage]":
    """One store per partition: in memory (None), in the file `path`, or in a data directory.

    A directory is meant by one that exists, or by more than one partition. Without `partitions` a directory has what
    it was made with, a new one has one. Raises `StorageError`, also if another process has them open.
    """
    if path is None:
        return [MemoryStorage() for _ in range(partitions or 1)]
    where = Path(path)
    if where.is_dir() or (partitions or 1) > 1:
        return open_data_dir(where, partitions)
    return _open([where])


def open_data_dir(where: Path, partitions: int | None) -> "list[Storage]":
    """The stores of a data directory, made if it is not there."""
    try:
        where.mkdir(0o700, parents=True, exist_ok=True)  # what is in it is nobody else's business
        count = _layout(where, partitions)
    except OSError as error:
        raise StorageError(f"data directory {where} cannot be used: {error.strerror or error}") from error
    return _open([where / f"partition-{index}.db" for index in range(count)])


def _layout(where: Path, partitions: int | None) -> int:
    file = where / "layout.json"
    try:
        layout = msgspec.json.decode(file.read_bytes(), type=_Layout)
    except FileNotFoundError:
        layout = _Layout(partitions or 1)
        fresh = where / f"layout.json.{os.getpid()}"
        fresh.write_bytes(msgspec.json.encode(layout))
        with fresh.open("rb+") as written:
            os.fsync(written.fileno())
        fresh.replace(file)
    except msgspec.MsgspecError as error:
        raise StorageError(f"{file} cannot be read: {error}") from error
    if layout.version != 1:
        raise StorageError(f"data directory {where} was made by a later version of perdure")
    if partitions is not None and partitions != layout.partitions:
        raise StorageError(
            f"data directory {where} has {layout.partitions} partitions, not {partitions}: "
            "their number is chosen when the directory is made; leave it out, or take another directory"
        )
    return layout.partitions


def _open(paths: list[Path]) -> "list[Storage]":
    from perdure.storage.sqlite import SqliteStorage

    stores: list[Storage] = []
    try:
        for path in paths:
            stores.append(SqliteStorage(path))  # noqa: PERF401 - those that are open must be closed if one fails
    except BaseException:
        for store in stores:
            store.close()
        raise
    return stores
