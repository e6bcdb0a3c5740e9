"""A node: its partitions, and everything that may be asked of them.

All time, chance and fresh ids enter here. Every method that changes something returns when the change is on
disk; whoever stops waiting for an answer takes nothing back.
"""

import asyncio
import itertools
import os
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from perdure.core.journal import resolve_target
from perdure.errors import Conflict, Invalid, NotFound, Overloaded, Unavailable
from perdure.model import actions as a
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model import ids
from perdure.model.deployments import Deployment
from perdure.model.ids import InvocationId
from perdure.model.invocation import Invocation, Target, Waiter
from perdure.model.keys import ENTROPY_BYTES, ApiKey, Role, make_key
from perdure.model.services import HandlerKind
from perdure.model.tracing import Trace
from perdure.protocol.attempt import check_storable
from perdure.protocol.versions import USUAL
from perdure.runtime.clock import Clock, SystemClock, TimerHandle
from perdure.runtime.courier import Courier
from perdure.runtime.invoker import REMOTE_LIMIT, Invoker
from perdure.runtime.keys import Keyring
from perdure.runtime.loop import PartitionLoop
from perdure.runtime.perform import PERFORMERS
from perdure.runtime.registry import Registry, retention_of
from perdure.runtime.streams import Streams
from perdure.storage.base import Storage
from perdure.telemetry.metrics import Metrics
from perdure.transports.base import Transport
from perdure.transports.remote import Remote

if TYPE_CHECKING:  # it needs OpenTelemetry, and is there only where tracing is on
    from perdure.telemetry.tracing import Tracing

__all__ = ["Node"]

CONGESTED = 8_192  # commands waiting for a batch, above which endpoints elsewhere are not read on
QUEUE_LIMIT = 50_000  # commands waiting for a batch, above which a partition takes no new work from outside


def _entropy(bits: int) -> int:
    return int.from_bytes(os.urandom((bits + 7) // 8), "big") >> (-bits % 8)


class Node:
    """Made and used within one running event loop. `storages` holds one store per partition, in order."""

    def __init__(
        self,
        registry: Registry,
        storages: Sequence[Storage],
        transport: Transport,
        *,
        clock: Clock | None = None,
        attempt_limit: int = 1000,
        remote: Remote | None = None,
        remote_attempt_limit: int = REMOTE_LIMIT,
        newest_version: int = USUAL,
        entropy: Callable[[int], int] = _entropy,
        chance: Callable[[], float] = random.random,
        failed: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.registry = registry
        self.keyring = Keyring()
        self.ready = False
        self.failure: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self.clock: Clock = clock or SystemClock(self._loop)
        self.chance = chance
        self._entropy = entropy
        self._when_failed = failed
        self.started_at = self.clock.now_ms()
        self.remote = remote
        self.metrics = Metrics()
        self.tracing: Tracing | None = None
        self.streams = Streams(self._read_stream, lambda: entropy(40))
        self.invoker = Invoker(
            self,
            registry,
            transport,
            attempt_limit,
            remote,
            remote_attempt_limit,
            newest_version,
            self.metrics,
            self.streams,
        )
        self.courier = Courier(self.clock, self.submit)
        count = len(storages)
        self.partitions = [
            PartitionLoop(index, count, storage, self._perform, self._partition_failed, self._completed)
            for index, storage in enumerate(storages)
        ]
        self._tokens = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._attached: dict[bytes, list[asyncio.Future[Any]]] = {}
        self._timers: list[tuple[int, TimerHandle] | None] = [None] * count

    def trace(self, tracing: "Tracing") -> None:
        """Have spans made of what happens from now on. To be called before `start`."""
        self.tracing = self.invoker.tracing = tracing

    # Life

    async def start(self) -> None:
        """Recover what the last process left, then take work."""
        first, *others = self.partitions
        first.submit(c.Recover(self.clock.now_ms()))
        await first.quiet()  # it knows the deployments, without which no attempt of the others finds its handler
        for partition in others:
            partition.submit(c.Recover(self.clock.now_ms()))
        for partition in others:
            await partition.quiet()
        if self.failure is not None:
            raise Unavailable(f"recovery failed: {self.failure}")
        self.ready = True

    async def stop(self, grace: float = 10.0) -> None:
        """Take no more work, let handlers come to rest for `grace` seconds, store what they said, let go."""
        self.ready = False
        deadline = self._loop.time() + grace
        while not self.invoker.drain() and self.failure is None and self._loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # a stop looks a few times, and needs no event of its own
        self.invoker.abort_all()
        for partition in self.partitions:
            await partition.quiet()
        if self.remote is not None:
            await self.remote.close()
        self.close()
        self._give_up(Unavailable("the engine has stopped; what was accepted goes on when it starts again"))

    def close(self) -> None:
        """Let go of everything at once, as a crash would; nothing stored is lost."""
        self.ready = False
        self.streams.close()
        self.invoker.abort_all()
        for timer in self._timers:
            if timer is not None:
                timer[1].cancel()
        self.courier.close()
        for partition in self.partitions:
            partition.close()

    def _partition_failed(self, error: BaseException) -> None:
        self.ready = False
        self.failure = error
        self._give_up(Unavailable(f"the engine has stopped: {error}"))
        self.streams.hang_up(Unavailable(f"the engine has stopped: {error}"))
        if self._when_failed is not None:
            self._when_failed(error)

    def _give_up(self, error: Exception) -> None:
        waiting = [*self._asked.values(), *itertools.chain.from_iterable(self._attached.values())]
        self._asked.clear()
        self._attached.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(error)

    def _completed(self, invocations: list[Invocation]) -> None:
        self.metrics.completed(invocations)
        if self.tracing is not None:
            self.tracing.completed(invocations)

    # What partitions ask for

    def _perform(self, partition: int, action: a.Action) -> None:
        PERFORMERS[type(action)](self, partition, action)

    def submit(self, partition: int, command: c.PartitionCommand) -> None:
        self.partitions[partition].submit(command)

    def submitter(self, partition: int) -> Callable[[c.PartitionCommand], None]:
        """`submit` for one partition: a step goes through it twice."""
        return self.partitions[partition].submit

    def set_timer(self, partition: int, at: int) -> None:
        """Send the partition a `Tick` at `at`, unless it gets one earlier anyway."""
        known = self._timers[partition]
        if known is not None:
            if known[0] <= at:
                return
            known[1].cancel()
        self._timers[partition] = (at, self.clock.call_at(at, lambda: self._tick(partition)))

    def _tick(self, partition: int) -> None:
        self._timers[partition] = None
        self.submit(partition, c.Tick(self.clock.now_ms()))

    def reply(self, token: int, outcome: a.Outcome) -> None:
        future = self._asked.pop(token, None)
        if future is not None and not future.done():
            future.set_result(outcome)

    def finished(self, action: a.Finished) -> None:
        self.streams.finished(action.id, action.result)
        futures = self._attached.pop(action.id, None)
        if futures:
            answer = a.Answer(action.id, action.result, action.expires_at)
            for future in futures:
                if not future.done():
                    future.set_result(answer)

    def address(self, entry: e.Call | e.OneWayCall, caller: bytes, at: int, trace: Trace | None = None) -> c.Invoke:
        """The invocation that a handler's call makes; `trace` is the caller's. Raises `Invalid` if it can make none."""
        try:
            target = self.registry.target(entry.service, entry.handler, entry.key or None)
        except NotFound as error:
            raise Invalid(error.message) from None
        self._check(target, entry.idempotency_key)
        waiter = None
        execute_at = None
        if isinstance(entry, e.Call):
            waiter = Waiter(caller, entry.completion_id, e.CALL_COMPLETION)
        elif entry.invoke_time > at:
            execute_at = entry.invoke_time
        command = self._invoke(
            target, e.Input(entry.parameter, entry.headers), at, entry.idempotency_key, execute_at, caller, waiter
        )
        if self.tracing is not None and trace is not None:
            command = replace(command, trace=self.tracing.called(command.id, target, at, trace, entry))
        return command

    def _invoke(
        self,
        target: Target,
        entry: e.Input,
        at: int,
        idempotency_key: str | None,
        execute_at: int | None,
        caller: bytes | None = None,
        waiter: Waiter | None = None,
        token: int | None = None,
        wait: bool = False,
    ) -> c.Invoke:
        info = self.registry.handler(target.service, target.handler)
        assert info is not None
        id, trace = self._new_id(target, idempotency_key, at), None
        if self.tracing is not None and caller is None:
            trace = self.tracing.accepted(id, target, at, entry.headers)
        return c.Invoke(
            at,
            id,
            target,
            entry,
            retention_of(info, idempotency_key),
            execute_at,
            idempotency_key,
            caller,
            waiter,
            token,
            wait,
            trace,
        )

    # Ids

    def _check(self, target: Target, idempotency_key: str | None) -> None:
        check_storable("key", target.key)
        check_storable("idempotency key", idempotency_key)
        keyed = target.kind is not HandlerKind.PLAIN
        if keyed and not target.key:
            raise Invalid(f"{target.service}/{target.handler}: the key is missing")
        if not keyed and target.key is not None:
            raise Invalid(f"{target.service} is a service and has no keys, but one was given: {target.key!r}")
        if idempotency_key is not None:
            if not idempotency_key:
                raise Invalid("the idempotency key must not be empty")
            if target.kind is HandlerKind.WORKFLOW:
                raise Invalid("a workflow's main takes no idempotency key: its id is one")

    def _new_id(self, target: Target, idempotency_key: str | None, at: int) -> InvocationId:
        if idempotency_key is not None or target.kind is HandlerKind.WORKFLOW:
            return self.invocation_id(target, idempotency_key)
        if target.key is not None:
            return ids.invocation_id(ids.partition_key_of(target.key), ids.ulid(at, self._entropy(80)))
        chance = self._entropy(144)
        return ids.invocation_id((chance >> 80).to_bytes(8, "big"), ids.ulid(at, chance))

    def invocation_id(self, target: Target, idempotency_key: str | None) -> InvocationId:
        """The id that a target and its idempotency key determine. Raises `Invalid` if they determine none."""
        if target.kind is HandlerKind.WORKFLOW:
            return resolve_target(e.WorkflowTarget(target.service, target.key or ""))
        if not idempotency_key:
            raise Invalid(f"{target}: without an idempotency key there is no id to be found again")
        return resolve_target(e.IdempotentTarget(target.service, target.key, target.handler, idempotency_key))

    def _partition_of(self, invocation: bytes) -> PartitionLoop:
        if len(self.partitions) == 1:
            return self.partitions[0]
        return self.partitions[ids.partition_of(invocation, len(self.partitions))]

    # Questions and orders

    def _open(self, partition: PartitionLoop) -> None:
        if not self.ready:
            raise Unavailable("the engine is not ready; nothing was accepted, try again")
        if partition.queued > QUEUE_LIMIT:
            raise Overloaded("too much work is waiting; nothing was accepted, try again later")

    async def _ask(self, invocation: bytes, command: Callable[[int], c.PartitionCommand]) -> Any:
        """Put a question to the partition that owns an invocation and wait for the answer."""
        partition = self._partition_of(invocation)
        self._open(partition)
        token = next(self._tokens)
        future = self._asked[token] = self._loop.create_future()
        partition.submit(command(token))
        try:
            return await future
        finally:
            self._asked.pop(token, None)

    async def call(
        self,
        target: Target,
        body: bytes,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        idempotency_key: str | None = None,
        on_accepted: Callable[[InvocationId], None] | None = None,
    ) -> a.Answer | a.AlreadyInvoked:
        """Invoke a handler and wait for its result. Whoever stops waiting does not stop the invocation.

        `expires_at` is None on a result that this call waited for: only a result that was kept says until when it is.
        """
        self._check(target, idempotency_key)
        check_storable("headers", headers)
        at = self.clock.now_ms()
        token = next(self._tokens)
        command = self._invoke(target, e.Input(body, headers), at, idempotency_key, None, token=token, wait=True)
        partition = self._partition_of(command.id)
        self._open(partition)
        identity = InvocationId(command.id)
        if on_accepted is not None:
            on_accepted(identity)
        future = self._asked[token] = self._loop.create_future()
        self._attached.setdefault(identity, []).append(future)
        partition.submit(command)
        try:
            outcome: a.Answer | a.AlreadyInvoked = await future
            first_hand = token in self._asked  # nobody replied to the call, so this is the result it waited for
            return replace(outcome, expires_at=None) if first_hand and isinstance(outcome, a.Answer) else outcome
        finally:
            self._detach(token, identity, future)

    def _detach(self, token: int, identity: bytes, future: "asyncio.Future[Any]") -> None:
        self._asked.pop(token, None)
        futures = self._attached.get(identity)
        if futures is not None:
            if future in futures:
                futures.remove(future)
            if not futures:
                del self._attached[identity]

    async def send(
        self,
        target: Target,
        body: bytes,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        idempotency_key: str | None = None,
        delay_ms: int | None = None,
    ) -> a.Accepted:
        """Invoke a handler, maybe later; returns when the invocation is on disk."""
        self._check(target, idempotency_key)
        check_storable("headers", headers)
        if delay_ms is not None:
            check_storable("delay_ms", max(delay_ms, 0))
        at = self.clock.now_ms()
        execute_at = at + delay_ms if delay_ms else None
        token = next(self._tokens)
        command = self._invoke(target, e.Input(body, headers), at, idempotency_key, execute_at, token=token)
        partition = self._partition_of(command.id)
        self._open(partition)
        future = self._asked[token] = self._loop.create_future()
        partition.submit(command)
        try:
            return await future  # type: ignore[no-any-return]
        finally:
            self._asked.pop(token, None)

    async def attach(self, id: InvocationId) -> a.Answer | a.Refused:
        """Wait for a result; `Refused` (404) if there is no such invocation."""
        partition = self._partition_of(id)
        self._open(partition)
        token = next(self._tokens)
        future = self._asked[token] = self._loop.create_future()
        self._attached.setdefault(id, []).append(future)
        partition.submit(c.Attach(self.clock.now_ms(), id, True, token))
        try:
            return await future  # type: ignore[no-any-return]
        finally:
            self._detach(token, id, future)

    async def output(self, id: InvocationId) -> a.Answer | a.Refused:
        """The result if there is one; `Refused` 404 or 470 (not completed) otherwise."""
        return await self._ask(id, lambda token: c.Attach(self.clock.now_ms(), id, False, token))  # type: ignore[no-any-return]

    async def _read_stream(self, id: bytes, name: str) -> a.StreamAnswer | a.Refused:
        return await self._ask(id, lambda token: c.ReadStream(self.clock.now_ms(), id, name, token))  # type: ignore[no-any-return]

    async def signal(self, id: InvocationId, signal: e.Signal) -> None:
        """Send a signal; one that nobody can receive any more is nothing."""
        check_storable("signal", signal)
        await self._ask(id, lambda token: c.SendSignalTo(self.clock.now_ms(), id, signal, token))

    async def complete_awakeable(self, awakeable_id: str, result: e.Value | e.Failure) -> None:
        """Complete an awakeable. Raises `Invalid` for an id that is none; the first completion counts."""
        id, number = ids.parse_awakeable_id(awakeable_id)
        await self.signal(id, e.Signal(number, result))

    async def cancel(self, id: InvocationId) -> a.Done | a.Refused:
        return await self._ask(id, lambda token: c.Cancel(self.clock.now_ms(), id, token))  # type: ignore[no-any-return]

    async def kill(self, id: InvocationId) -> a.Done | a.Refused:
        return await self._ask(id, lambda token: c.Kill(self.clock.now_ms(), id, token))  # type: ignore[no-any-return]

    async def pause(self, id: InvocationId) -> a.Done | a.Refused:
        return await self._ask(id, lambda token: c.Pause(self.clock.now_ms(), id, token))  # type: ignore[no-any-return]

    async def resume(self, id: InvocationId, deployment: str | None = None) -> a.Done | a.Refused:
        """Run it on, on the deployment it is pinned to (None), on another, or on its service's latest ("")."""
        return await self._ask(  # type: ignore[no-any-return]
            id, lambda token: c.Resume(self.clock.now_ms(), id, token, deployment)
        )

    async def purge(self, id: InvocationId, journal_only: bool = False) -> a.Done | a.Refused:
        return await self._ask(  # type: ignore[no-any-return]
            id, lambda token: c.Purge(self.clock.now_ms(), id, journal_only, token)
        )

    async def restart(self, id: InvocationId, keep: int = 1, deployment: str | None = "") -> a.Done | a.Refused:
        """Run a completed invocation again as a new one that keeps the first `keep` entries of its journal.

        On its service's latest deployment (""), on that of the old one (None), or on the one that is named.
        """
        at = self.clock.now_ms()
        new_id = ids.invocation_id(id[:8], ids.ulid(at, self._entropy(80)))  # beside the old one: same partition
        trace = None
        if self.tracing is not None:
            trace = self.tracing.accepted(new_id, Target("", "", HandlerKind.PLAIN), at, ())
        return await self._ask(  # type: ignore[no-any-return]
            id, lambda token: c.Restart(at, id, new_id, keep, token, deployment, trace)
        )

    async def describe(self, id: InvocationId) -> a.Description | a.Refused:
        answer: a.Description | a.Refused = await self._ask(
            id, lambda token: c.Describe(self.clock.now_ms(), id, token)
        )
        if isinstance(answer, a.Description):
            return replace(answer, waiting=self.invoker.waiting_for(id))
        return answer

    async def put_deployment(self, deployment: Deployment) -> None:
        """Store a deployment, new or changed; from then on new invocations of its services go there."""
        await self._ask_first(lambda token: c.PutDeployment(self.clock.now_ms(), deployment, token))

    async def remove_deployment(self, id: str) -> None:
        await self._ask_first(lambda token: c.RemoveDeployment(self.clock.now_ms(), id, token))

    async def create_key(self, name: str, role: Role, lasts_ms: int | None = None) -> tuple[ApiKey, str]:
        """A new API key, stored and good from now on, and its text, which is told here only.

        Raises `Invalid`, and `Conflict` if there are too many.
        """
        at = self.clock.now_ms()
        entropy = self._entropy(8 * ENTROPY_BYTES).to_bytes(ENTROPY_BYTES, "big")
        key, text = make_key(entropy, name, role, at, None if lasts_ms is None else at + lasts_ms)
        outcome = await self._ask_first(lambda token: c.CreateKey(at, key, token))
        if isinstance(outcome, a.Refused):
            raise Conflict(outcome.message)
        return key, text

    async def revoke_key(self, id: str) -> a.Done | a.Refused:
        """An API key opens nothing from now on; `Refused` (404) if there is none of that id."""
        return await self._ask_first(  # type: ignore[no-any-return]
            lambda token: c.RevokeKey(self.clock.now_ms(), id, token)
        )

    async def _ask_first(self, command: Callable[[int], c.PartitionCommand]) -> Any:
        """Partition 0 owns what belongs to no invocation."""
        return await self._ask(bytes(24), command)

    def deployment_id(self) -> str:
        """A fresh one."""
        return ids.deployment_id(ids.ulid(self.clock.now_ms(), self._entropy(80)))

    @property
    def congested(self) -> bool:
        """Whether more was said to the partitions than they have stored."""
        return any(partition.queued > CONGESTED for partition in self.partitions)

    async def state(self, service: str, key: str) -> dict[str, bytes]:
        """An object's whole state."""
        check_storable("key", key)
        owner = ids.partition_key_of(key) + bytes(16)
        answer = await self._ask(owner, lambda token: c.ReadState(self.clock.now_ms(), service, key, token))
        return dict(answer.values)

    async def change_state(
        self,
        service: str,
        key: str,
        changes: dict[str, bytes | None],
        replace: bool = False,
        version: str | None = None,
    ) -> a.Done:
        """Set (bytes) or clear (None) keys of an object's state, in turn with its exclusive invocations.

        The change is dropped if the state's `state_version` is not `version` when its turn comes.
        """
        check_storable("key", (service, key, *changes))
        owner = ids.partition_key_of(key) + bytes(16)
        return await self._ask(  # type: ignore[no-any-return]
            owner, lambda token: c.ChangeState(self.clock.now_ms(), service, key, changes, replace, token, version)
        )
