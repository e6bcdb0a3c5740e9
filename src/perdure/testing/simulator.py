"""The simulator: from a seed, a whole life of a node, its clients and its mishaps, and a verdict.

    python -m perdure.testing.simulator --seed 7 --trace
    python -m perdure.testing.simulator --seeds 2000 --jobs 2

Core, protocol machine, handler loop, partition loop, invoker and node are the real ones. Clock, event loop, disk,
network and transport are `simulated`; `workload` says what is asked, `settings` how bad the day is. Checkers outside
of all that (`oracle`, `witness`, `invariants`) claim one property each.

A run has three parts. While it is *active* clients ask and things break. Then nothing breaks any more, the world does
what handlers wait for, and every invocation that was accepted has to come to its end. At last the node is stopped,
started again, and left alone until nothing is to be kept any longer: then nothing may be left.
"""

import argparse
import asyncio
import contextlib
import hashlib
import logging
import multiprocessing
import random
import sys
import traceback
import zlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from perdure.core import delivery, lifecycle
from perdure.core import partition as core
from perdure.core.tables import JOURNAL, STATE, Tables
from perdure.errors import Overloaded, StorageError, Unavailable
from perdure.model import actions as a
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.deployments import HttpEndpoint, ProtocolMode
from perdure.model.ids import InvocationId, parse_awakeable_id, parse_invocation_id
from perdure.model.invocation import Completed, Paused
from perdure.protocol.control import Said
from perdure.protocol.versions import USUAL
from perdure.runtime import loop, node
from perdure.runtime.node import Node
from perdure.runtime.registry import Registry
from perdure.sdk.serving import serve
from perdure.storage.base import Batch
from perdure.storage.memory import MemoryStorage
from perdure.testing.oracle import Ledger
from perdure.testing.programs import APP, perform_before
from perdure.testing.settings import Settings
from perdure.testing.simulated import (
    Crash,
    SimulatedClock,
    SimulatedDuplex,
    SimulatedHost,
    SimulatedLoop,
    SimulatedNode,
    SimulatedStorage,
    SimulatedTransport,
    Timeline,
    Verdict,
    Wall,
)
from perdure.testing.wire import HandlerConnector, WrappedRemote, deployment_of
from perdure.testing.witness import Witness
from perdure.testing.workload import Author, Request, Requests
from perdure.transports.inprocess import InProcess

__all__ = ["Report", "Simulation", "main", "run_seeds", "simulate"]

ROUNDS = 24
"""How often the world does what handlers wait for before what is left counts as stuck."""
CALLBACKS = 400_000
"""More in one run is a loop without end."""


@dataclass
class Report:
    """What came of a seed."""

    seed: int
    failures: list[str] = field(default_factory=list)
    digest: str = ""
    happened: dict[str, int] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)

    @property
    def repeat(self) -> str:
        return f"python -m perdure.testing.simulator --seed {self.seed} --trace"


def brief(value: Any) -> str:
    """A value in a line of the trace: enough to tell two apart, and nothing that differs from machine to machine."""
    if isinstance(value, msgspec.Struct):
        return type(value).__name__
    if isinstance(value, bytes):
        return value.hex()[-10:]
    if isinstance(value, tuple | dict):
        return f"{len(value)}*"
    return str(value)


def describe(value: msgspec.Struct) -> str:
    """A command or an action in a line of the trace; the time of a command is the line's."""
    hidden = () if isinstance(value, a.SetTimer) else ("at",)
    fields = " ".join(f"{name}={brief(getattr(value, name))}" for name in value.__struct_fields__ if name not in hidden)
    return f"{type(value).__name__} {fields}"


class Life:
    """One process: from its start until it is stopped or dies."""

    def __init__(self, loop: SimulatedLoop, storages: Sequence[SimulatedStorage], node: SimulatedNode) -> None:
        self.loop = loop
        self.storages = storages
        self.node = node
        self.duplexes: dict[int, SimulatedDuplex] = {}


class Simulation:
    """One seed's run; is `simulated.Fate` to the parts of the world."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.settings = Settings.draw(seed)
        self.report = Report(seed)
        self._luck = random.Random(f"{seed}/faults")
        self._chance = random.Random(f"{seed}/engine")
        self.timeline = Timeline()
        self.wall = Wall(self.timeline)
        self.ledger = Ledger(self.settings.partitions, self.complain)
        self.witness = Witness(
            self.ledger, self.complain, lazy=self.settings.eager_state < 1000, elsewhere=bool(self.settings.wire)
        )
        author = Author(random.Random(f"{seed}/programs"), self.settings.longest_program)
        self._requests = Requests(random.Random(f"{seed}/requests"), author, self.witness)
        self._disks = [MemoryStorage() for _ in range(self.settings.partitions)]
        self._life: Life | None = None
        self._open: dict[int, Request] = {}
        self._asked = 0
        self._later = 0  # requests that wait for a process to ask
        self._duplexes = 0
        self._callbacks = 0
        self._armed: str | None = None  # where the process dies next
        self._patience = 0  # after how many actions or callbacks
        self._starting = False  # the next process dies soon after its start
        self._disk_error = False  # the next commit fails
        self._failing = False  # one has failed, and the process does not know
        self._broken = False  # it knows, and has to end
        self._calm = False
        handlers = [handler for service in APP.services.values() for handler in service.handlers.values()]
        self._handlers = {(handler.service, handler.name): handler for handler in handlers}
        services = [service.info for service in APP.services.values()]
        self._registry = Registry(() if self.settings.wire else services)
        if self.settings.wire:
            mode = ProtocolMode.REQUEST_RESPONSE if self.settings.one_exchange else ProtocolMode.BIDI_STREAM
            self._registry.deploy(deployment_of(services, mode))

    # What is written down

    def complain(self, text: str) -> None:
        self.trace(f"FAILURE {text}")
        self.report.failures.append(text)

    def trace(self, line: str) -> None:
        self.report.trace.append(f"{self.timeline.now_us} {line}")

    def count(self, what: str) -> None:
        self.witness.count(what)

    # The run

    def run(self) -> Report:
        """Live it, and say how it went."""
        with _quiet(), _watched(self._apply, self.settings):
            perform_before(self.witness)
            outer = asyncio._get_running_loop()
            try:
                self._live()
            except Exception:  # a checker met what it had taken to be impossible
                self.complain(traceback.format_exc())
            finally:
                self._die("the end")
                asyncio._set_running_loop(outer)
                perform_before(None)
        report = self.report
        report.happened = self.witness.happened
        report.digest = hashlib.blake2b("\n".join(report.trace).encode(), digest_size=16).hexdigest()
        return report

    def _live(self) -> None:
        self.trace(f"seed {self.seed} {self.settings}")
        self._boot()
        self._plan()
        self._play(self.settings.active_us)
        self._settle()
        if not self.report.failures:
            self.witness.end()
            self.ledger.end()
        if not self.report.failures:
            self._outlive()

    def _plan(self) -> None:
        settings, luck = self.settings, self._luck
        faults: list[Callable[[], None]] = [self._arm] * settings.crashes
        faults += [self._break_disk] * settings.disk_errors
        faults += [self._hang_up] * settings.hang_ups
        faults += [self._bounce] * settings.bounces
        faults += [self._jump] * settings.clock_jumps
        faults += [self._stop] * settings.stops
        for fault in faults:
            self.timeline.at(luck.randrange(settings.active_us), fault)
        bursts = [luck.randrange(settings.active_us) for _ in range(settings.bursts)]
        for _ in range(settings.requests):
            at_us = luck.choice(bursts) if bursts else luck.randrange(settings.active_us)
            self.timeline.at(at_us, self._request)

    def _play(self, until_us: int) -> None:
        """Let things happen until then, or until nothing does."""
        timeline, failures = self.timeline, self.report.failures
        while not failures:
            life = self._life
            try:
                if life is not None and not life.loop.idle:
                    self._callbacks += 1
                    if self._callbacks > CALLBACKS:
                        self.complain("the event loop never comes to rest")
                    life.loop.run_one()
                    if self._armed == "running":
                        self._countdown()
                    if self._broken:
                        self._die("the disk failed")
                else:
                    next_us = timeline.next_us()
                    if next_us is None or next_us > until_us:
                        timeline.now_us = max(timeline.now_us, until_us)
                        return
                    timeline.advance()
            except Crash as crash:
                self._die(str(crash))

    def _settle(self) -> None:
        """Nothing breaks any more. Do what handlers wait for, until every invocation has come to its end."""
        self._calm = True
        self._armed = None
        self._starting = self._disk_error = False
        node.QUEUE_LIMIT = 50_000  # nobody is turned away any more
        self.trace("CALM")
        for number in range(ROUNDS):
            if self.report.failures:
                return
            if self._life is None:
                self._boot()
            self._play(self.timeline.now_us + int(1_000_000 * 1.35**number))
            if self._settled():
                return
            self._nudge()
        for known in self.ledger.live():
            self.complain(f"stuck: {self.ledger.story(known)}")
        for request in self._open.values():
            self.complain(f"a client waits for ever: {request.kind} {request.uid}")

    def _settled(self) -> bool:
        return not (self.ledger.live() or self._open or self._later or self.ledger.undelivered())

    def _outlive(self) -> None:
        """Stop, start, and wait until nothing is to be kept: then nothing may be left."""
        self._stop()
        self._play(self.timeline.now_us + 60_000_000)
        if self._life is None:
            self._boot()
        self._play(self.timeline.now_us + 3 * 24 * 3600 * 1_000_000)
        for index, disk in enumerate(self._disks):
            rows = disk.snapshot()
            if rows != self.ledger.tables[index]:
                self.complain(f"the disk of partition {index} is not what was written to it")
            for name, table in rows.items():
                left = [key for key in table if name != "state" or key[0] == "Flow"] if name != "meta" else []
                if left:
                    self.complain(f"left behind in {name} of partition {index}: {left[:5]}")

    # The process

    def _boot(self) -> None:
        assert self._life is None
        settings = self.settings
        loop = SimulatedLoop(self.timeline, self.complain)  # type: ignore[abstract]  # what is missing nobody uses
        asyncio._set_running_loop(loop)
        clock = SimulatedClock(loop, self.wall)
        host = SimulatedHost(loop, clock, self._chance.random, settings.replay_always)
        storages = [SimulatedStorage(self.timeline, self, index, disk) for index, disk in enumerate(self._disks)]
        node = SimulatedNode(
            self._registry,
            storages,
            SimulatedTransport(self.timeline, self, InProcess(serve(self._handlers, host))),
            timeline=self.timeline,
            loop=loop,
            fate=self,
            clock=clock,
            attempt_limit=settings.attempt_limit,
            remote=self._remote(loop, clock, host) if settings.wire else None,
            newest_version=settings.wire or USUAL,
            entropy=self._chance.getrandbits,
            chance=self._chance.random,
            failed=self._failed,
        )
        self._life = Life(loop, storages, node)
        self.witness.alive = True
        self.trace("BOOT")
        self.count("boot")
        self._spawn(loop, self._start(node))
        if self._starting:
            self._starting = False
            self._armed, self._patience = "running", self._luck.randint(1, 40)
            self.count("crash starting")

    def _remote(self, loop: SimulatedLoop, clock: SimulatedClock, host: SimulatedHost) -> WrappedRemote:
        """The way to the handlers where they are served elsewhere."""
        infos = {name: handler.info for name, handler in self._handlers.items()}
        connector = HandlerConnector(loop, serve(self._handlers, host), infos)
        remote = WrappedRemote(clock, {HttpEndpoint: lambda: connector})
        remote.wrap = lambda opener, start, receive: SimulatedDuplex(self.timeline, self, opener, start, receive)
        return remote

    async def _start(self, node: Node) -> None:
        with contextlib.suppress(Unavailable):  # a partition failed; `failed` was told
            await node.start()
            self.trace("READY")

    def _spawn(self, loop: SimulatedLoop, work: Coroutine[Any, Any, None]) -> None:
        """Have something of the outside world happen on a process's loop; it must not fail."""

        def done(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.complain("".join(traceback.format_exception(error)))

        loop.create_task(work).add_done_callback(done)

    def _die(self, why: str) -> None:
        """The process is gone, and all that was in it."""
        life = self._life
        if life is None:
            return
        self.trace(f"DEAD {why}")
        self._life = None
        self._armed = None
        self._failing = self._broken = False
        self.witness.crashed()
        self.ledger.crashed()
        life.loop.dead = True
        for storage in life.storages:
            storage.close()
        for duplex in list(life.duplexes.values()):
            duplex.abort()
        life.loop.abandon()
        asyncio._set_running_loop(None)
        requests, self._open = self._open, {}
        for request in requests.values():
            if request.again and self._luck.random() < 0.7:
                self._ask(request)
        if why != "the end":
            self.timeline.after(0 if self._calm else self._luck.choice((0, 10_000, 800_000)), self._boot_again)

    def _boot_again(self) -> None:
        if self._life is None:
            self._boot()

    def _failed(self, error: BaseException) -> None:
        """A partition stopped."""
        if isinstance(error, StorageError) and self._failing:
            self._broken = True
            return
        self.complain(f"a partition stopped: {type(error).__name__}: {error}")

    # Requests

    def _request(self) -> None:
        self._ask(self._requests.draw())

    def _ask_later(self, request: Request) -> None:
        self._later -= 1
        self._ask(request)

    def _ask(self, request: Request) -> None:
        life = self._life
        if life is None or not life.node.ready:
            self._later += 1
            self.timeline.after(self._luck.randrange(10_000, 300_000), lambda: self._ask_later(request))
            return
        self._asked += 1
        number = self._asked
        self.trace(f"ask {number}: {request.kind} {request.uid}")
        self._open[number] = request
        self._spawn(life.loop, self._answer(number, request, life.node))

    async def _answer(self, number: int, request: Request, node: Node) -> None:
        try:
            answer = await request.ask(node)
        except (Unavailable, Overloaded) as error:
            answer = error
            self.count(f"refused: {type(error).__name__}")
        del self._open[number]
        good = not isinstance(answer, a.Refused | Exception)
        if good:
            self.count(f"asked {request.kind}")
        self.trace(f"answer {number}: {type(answer).__name__}")

    def _nudge(self) -> None:
        """The world does what handlers wait for."""
        life = self._life
        if life is None or not life.node.ready:
            return
        node = life.node
        live = {known.text: known for known in self.ledger.live()}
        flows = {known.target.key: None for known in live.values() if known.target.key in self.witness.flows}
        done = e.Value(b'"nudge"')
        for text, known in live.items():
            row = self.ledger.row(known)
            if row is not None and isinstance(row.status, Paused):
                self._nudged(f"resume {text}", partial(node.resume, InvocationId(known.id)))
        for text, name in self.witness.expected:
            if text in live:
                self._nudged(f"signal {text}", partial(node.signal, parse_invocation_id(text), e.Signal(name, done)))
        for awakeable in self.witness.awakeables:
            known_id = parse_awakeable_id(awakeable)[0]
            if known_id in self.ledger.known and self.ledger.known[known_id].status is not Completed:
                self._nudged(f"awakeable {awakeable}", partial(node.complete_awakeable, awakeable, done))
        for flow in flows:
            self._asked += 1
            ops = [["promise", f"n{self._asked}.{name}", name, "resolve"] for name in ("p0", "p1")]
            program = {"uid": f"n{self._asked}", "ops": ops}
            self._nudged(f"promises {flow}", partial(self._requests.invoke, node, "Flow/look", flow, program, 0))

    def _nudged(self, what: str, ask: Callable[[], Any]) -> None:
        assert self._life is not None
        self._spawn(self._life.loop, self._answer_nudge(what, ask))

    async def _answer_nudge(self, what: str, ask: Callable[[], Any]) -> None:
        with contextlib.suppress(Unavailable, Overloaded):
            await ask()
            self.trace(f"nudged {what}")

    # Faults

    def _arm(self) -> None:
        """The process is about to die."""
        if self._armed is None:
            self._armed = self._luck.choice(self.settings.crash_kinds)
            self._patience = self._luck.randint(1, 12 if self._armed == "acting" else 60)
            self.trace(f"ARMED {self._armed} {self._patience}")
            if self._armed == "starting":
                self._armed = None
                self._starting = True
                raise Crash("now")
            self._strike("now")

    def _strike(self, where: str) -> None:
        if self._armed == where and (self._life is not None or where == "now"):
            self.count(f"crash {where}")
            raise Crash(where)

    def _countdown(self) -> None:
        self._patience -= 1
        if self._patience <= 0:
            self._strike("running")

    def _break_disk(self) -> None:
        self._disk_error = True

    def _hang_up(self) -> None:
        life = self._life
        if life is not None and life.duplexes:
            duplex = self._luck.choice(list(life.duplexes.values()))
            self.trace(f"HANG UP {duplex.start.target}")
            self.count("hang up")
            duplex.hang_up(self.wall.now_ms())

    def _bounce(self) -> None:
        """Somebody pauses what runs, and resumes it at once: the old attempt is there while the next begins."""
        life = self._life
        if life is not None and life.node.ready and life.duplexes:
            id = InvocationId(self._luck.choice(list(life.duplexes.values())).start.id)
            self.count("bounce")
            self._nudged(f"pause {id.hex()}", partial(life.node.pause, id))
            self._nudged(f"resume {id.hex()}", partial(life.node.resume, id))

    def _jump(self) -> None:
        delta_ms = self._luck.choice((-90_000, -3_000, -20, 20, 3_000, 90_000))
        self.trace(f"CLOCK {delta_ms}")
        self.count("clock forward" if delta_ms > 0 else "clock back")
        self.wall.jump(delta_ms)

    def _stop(self) -> None:
        life = self._life
        if life is not None and life.node.ready:
            self._spawn(life.loop, self._stopped(life))

    async def _stopped(self, life: Life) -> None:
        self.trace("STOPPING")
        await life.node.stop(grace=1.0)
        self.count("stop")
        self.timeline.after(0, lambda: self._gone(life))

    def _gone(self, life: Life) -> None:
        if self._life is life:
            raise Crash("stopped")

    # Fate

    def _apply(self, apply: Callable[[Tables, c.PartitionCommand], list[a.Action]]) -> Any:
        def watched(tables: Tables, command: c.PartitionCommand) -> list[a.Action]:
            self.trace(f"{tables.index} {describe(command)}")
            return apply(self.ledger.watch(tables, command), command)

        return watched

    def commit(self, partition: int, batch: Batch) -> Verdict:
        self.ledger.handed_over(partition)
        self.trace(f"{partition} commit {batch.rows()} {_crc(batch):08x}")
        self._strike("before commit")
        luck, longest = self._luck, self.settings.commit_us
        if self._calm:
            return Verdict(luck.randrange(400), luck.randrange(100))
        if self._disk_error:
            self._disk_error = False
            self._failing = True
            self.trace("DISK ERROR")
            stored = luck.random() < 0.5
            self.count("disk error")
            return Verdict(luck.randrange(2_000), luck.randrange(2_000), stored=stored, error=StorageError("no space"))
        if luck.random() < 0.03:
            longest = 20 * longest + 100_000
            self.count("slow commit")
        return Verdict(luck.randrange(longest + 1), luck.choice((0, luck.randrange(longest + 1))))

    def stored(self, partition: int) -> None:
        self.trace(f"{partition} stored")
        self.ledger.stored(partition)
        self._strike("stored")

    def acknowledged(self, partition: int) -> None:
        self._strike("acknowledged")

    def performing(self, partition: int, action: a.Action) -> None:
        self.trace(f"{partition} do {describe(action)}")
        if self._armed == "acting":
            self._patience -= 1
            if self._patience <= 0:
                self._strike("acting")

    def deliveries(self, destination: int, message: c.Deliver | c.Delivered) -> Sequence[int]:
        settings, luck = self.settings, self._luck
        if self._calm:
            return (0,)
        if luck.random() < settings.lost:
            self.count("lost")
            return ()
        copies = [0]
        if luck.random() < settings.repeated:
            self.count("repeated")
            copies.append(luck.randrange(1, 50_000))
        if luck.random() < settings.delayed:
            self.count("delayed")
            copies[0] = luck.randrange(1, 300_000)
        return copies

    def latency_us(self) -> int:
        return self._luck.randrange(self.settings.latency_us) if self.settings.latency_us else 0

    def opened(self, duplex: SimulatedDuplex) -> None:
        assert self._life is not None
        self._duplexes += 1
        self._life.duplexes[self._duplexes] = duplex
        start = duplex.start
        self.trace(f"attempt {start.attempt} of {start.target} with {len(start.entries)} entries")

    def said(self, duplex: SimulatedDuplex, message: Said) -> None:
        life = self._life
        if life is not None and duplex.gone:
            life.duplexes = {number: each for number, each in life.duplexes.items() if not each.gone}


def _crc(batch: Batch) -> int:
    crc = 0
    for table, groups in batch.groups.items():
        whole = table is JOURNAL or table is STATE
        for group in groups.values():
            for key, value in group.rows.items():
                crc = zlib.crc32(repr((table.name, key, value if whole else value is None)).encode(), crc)
    return crc


@contextlib.contextmanager
def _watched(wrap: Callable[[Any], Any], settings: Settings) -> Iterator[None]:
    """The partition loop applies commands through `wrap` meanwhile, and the engine's limits are the seed's."""
    changes: tuple[tuple[Any, str, Any], ...] = (
        (core, "apply", wrap(core.apply)),
        (lifecycle, "EAGER_STATE_LIMIT", settings.eager_state),
        (delivery, "TIMERS_PER_TICK", settings.timers_per_tick),
        (loop, "BATCH_LIMIT", settings.batch_limit),
        (node, "QUEUE_LIMIT", settings.queue_limit),
    )
    before = [getattr(module, name) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(changes, before, strict=True):
            setattr(module, name, value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The engine's log says what is done to it; here that is the point."""
    log = logging.getLogger("perdure")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def simulate(seed: int) -> Report:
    """Run one seed."""
    return Simulation(seed).run()


def _report(report: Report, show_trace: bool) -> str:
    lines = [*report.trace] if show_trace else []
    if report.failures:
        lines.append(f"seed {report.seed} FAILED; repeat it: {report.repeat}")
        lines += [f"    {failure}" for failure in report.failures]
    elif show_trace:
        lines.append(f"seed {report.seed} passed, trace {report.digest}")
    return "".join(f"{line}\n" for line in lines)


def _simulate_briefly(seed: int) -> Report:
    report = simulate(seed)
    report.trace = []
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run seeds; 0 if all of them passed."""
    parser = argparse.ArgumentParser(prog="python -m perdure.testing.simulator", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="run this one")
    parser.add_argument("--trace", action="store_true", help="print everything that happened")
    parser.add_argument("--seeds", type=int, help="run so many, from --start on")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes to run them in")
    options = parser.parse_args(arguments)
    if options.seeds is None:
        report = simulate(options.seed)
        sys.stdout.write(_report(report, options.trace))
        return 1 if report.failures else 0
    failed = 0
    seeds = range(options.start, options.start + options.seeds)
    for report in run_seeds(seeds, options.jobs):
        sys.stdout.write(_report(report, False))
        failed += bool(report.failures)
    sys.stdout.write(f"{len(seeds)} seeds, {failed} failed\n")
    return 1 if failed else 0


def run_seeds(seeds: range, jobs: int = 1) -> Iterator[Report]:
    """Run seeds in so many processes; the reports come in their order, without traces."""
    if jobs <= 1:
        yield from map(_simulate_briefly, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(_simulate_briefly, seeds, chunksize=8)


if __name__ == "__main__":
    sys.exit(main())
