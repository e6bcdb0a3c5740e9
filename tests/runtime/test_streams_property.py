"""Whatever happens, whoever applies the events of a stream ends with what is stored.

A program is drawn: what the handler writes, which steps run beside each other, how often each fails and what it writes
in each try. It runs under a plan of crashes, while readers come, read a little, lose their connection and come back.
"""

import asyncio
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure import App, Context, RetryPolicy, Service
from perdure.errors import Unavailable
from perdure.model.ids import InvocationId, parse_invocation_id
from perdure.model.streams import Cursor, EndEvent, RegeneratedEvent
from perdure.testing.harness import TestEngine

NAMES = ("a", "b")
SOON = RetryPolicy(initial_interval=0.01, factor=1.0, max_attempts=None)


class Try(NamedTuple):
    """One try of a step: what it writes where, with a pause before each write; whether it then fails."""

    writes: tuple[tuple[str, bool], ...]
    fails: bool


class StepPlan(NamedTuple):
    tries: tuple[Try, ...]
    plain: bool


Phase = tuple[tuple[str, ...], tuple[StepPlan, ...], bool]  # the handler's writes, steps side by side, a sleep

WRITES = st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), max_size=4).map(tuple)
STEPS = st.builds(
    lambda failing, last, plain: StepPlan((*(Try(writes, True) for writes in failing), Try(last, False)), plain),
    st.lists(WRITES, max_size=2),
    WRITES,
    st.booleans(),
)
PHASES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(NAMES), max_size=2).map(tuple), st.lists(STEPS, max_size=3).map(tuple), st.booleans()
    ),
    min_size=1,
    max_size=3,
)
CRASHES = st.lists(st.integers(1, 8), max_size=4)
READERS = st.lists(st.tuples(st.sampled_from(NAMES), st.lists(st.integers(0, 5), max_size=5)), min_size=1, max_size=4)


def app_of(phases: list[Phase], tries: dict[str, int]) -> App:
    service = Service("Program")

    @service.handler()
    async def run(ctx: Context) -> dict[str, list[str]]:
        """Returns what its streams ought to hold, as sets: steps side by side have no order."""
        streams = {name: ctx.stream(name) for name in NAMES}
        expected: dict[str, list[str]] = {name: [] for name in NAMES}
        for number, (own, steps, sleeps) in enumerate(phases):
            for index, name in enumerate(own):
                streams[name].write(f"{number}:{index} ")
                expected[name].append(f"{number}:{index} ")
            results = await asyncio.gather(
                *(ctx.run(f"{number}.{index}", *work(f"{number}.{index}", step, streams), retry=SOON)
                  for index, step in enumerate(steps))
            )  # fmt: skip
            for written in results:
                for name, text in written:
                    expected[name].append(text)
            if sleeps:
                await ctx.sleep(5)
        return expected

    def work(label: str, step: StepPlan, streams: Any) -> Any:
        def begin() -> tuple[int, Try]:
            number = tries[label] = tries.get(label, 0) + 1  # of all tries, also in attempts that crashed
            return number, step.tries[min(number, len(step.tries)) - 1]

        async def run_async() -> list[list[str]]:
            number, plan = begin()
            written = []
            for index, (name, pauses) in enumerate(plan.writes):
                if pauses:
                    await asyncio.sleep(0)
                written.append([name, f"{label}/{number}/{index} "])
                streams[name].write(written[-1][1])
            if plan.fails:
                raise RuntimeError("as planned")
            return written

        def run_plain() -> list[list[str]]:
            number, plan = begin()
            written = [[name, f"{label}/{number}/{index} "] for index, (name, _) in enumerate(plan.writes)]
            for name, text in written:
                streams[name].write(text)
            if plan.fails:
                raise RuntimeError("as planned")
            return written

        return [run_plain if step.plain else run_async]

    return App(service)


class Client:
    """Applies events; leaves after so many of them, as often as planned, and comes back."""

    def __init__(self, engine: TestEngine, id: InvocationId, name: str, leaves: list[int]) -> None:
        self.engine = engine
        self.id = id
        self.name = name
        self.leaves = list(leaves)
        self.text: dict[int, bytes] = {}
        self.cursor: Cursor | None = None
        self.ended = False

    async def read(self) -> None:
        while not self.ended:
            try:
                await self.engine._risen.wait()
                life = self.engine._living()
                if life.dying:
                    raise Unavailable("dying")
                async with await life.node.streams.read(self.id, self.name, cursor=self.cursor) as reader:
                    left = self.leaves.pop(0) if self.leaves else None
                    while not self.ended and left != 0:
                        batch = await reader.next()
                        for event in batch.events:
                            self.apply(event, batch.cursor)
                            if left is not None:
                                left -= 1
                                if left == 0:
                                    break
            except Unavailable:
                await asyncio.sleep(0)
            except Exception as error:
                if type(error).__name__ != "_Crashed":
                    raise
                await asyncio.sleep(0)

    def apply(self, event: Any, cursor: Cursor) -> None:
        if isinstance(event, EndEvent):
            self.ended = True
            assert event.failure is None
        elif isinstance(event, RegeneratedEvent):
            self.text = {position: text for position, text in self.text.items() if position < event.position}
            self.cursor = cursor._replace(position=event.position - 1, ended=False)
        else:
            assert all(event.position > position for position in self.text), "chunks come in the order of positions"
            self.text[event.position] = event.chunk
            self.cursor = Cursor.parse(str(cursor._replace(position=event.position, ended=False)))


async def check(phases: list[Phase], crashes: list[int], readers: list[Any], replay: bool, partitions: int) -> None:
    tries: dict[str, int] = {}
    async with TestEngine(app_of(phases, tries), replay=replay, partitions=partitions, timeout=None) as engine:
        plan = list(crashes)

        def crash_next() -> None:
            if plan:
                engine.crash_at_commit(plan.pop(0), lost=bool(len(plan) % 2))

        sent = await engine.send("Program/run", key=None)
        id = parse_invocation_id(sent.id)
        clients = [Client(engine, id, name, leaves) for name, leaves in readers]
        reading = [asyncio.ensure_future(client.read()) for client in clients]
        crash_next()
        seen = 0
        result = asyncio.ensure_future(sent.attach())
        while not result.done():
            await asyncio.sleep(0)
            if engine.crashes > seen:
                seen = engine.crashes
                crash_next()
        expected = await result
        await asyncio.gather(*reading)
        for name in NAMES:
            late = Client(engine, id, name, [])
            await late.read()
            assert sorted(late.text.values()) == sorted(f'"{text}"'.encode() for text in expected[name])
            for client in clients:
                if client.name == name:
                    assert client.text == late.text
        streams = engine.node.streams
        assert (streams.size, streams.readers, streams._logs, streams._outlets) == (0, 0, {}, {})


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(PHASES, CRASHES, READERS, st.booleans(), st.sampled_from([1, 2]))
def test_every_reader_ends_with_what_is_stored(
    phases: list[Phase], crashes: list[int], readers: list[Any], replay: bool, partitions: int
) -> None:
    asyncio.run(asyncio.wait_for(check(phases, crashes, readers, replay, partitions), 20))


@pytest.mark.parametrize("text", ["", "x", "1.2.3-4", "1.2.3.4-", "1.2.3.4-x", "1.2.3.4.5-6", "a.2.3.4-5"])
def test_what_is_no_cursor(text: str) -> None:
    from perdure.errors import Invalid

    with pytest.raises(Invalid, match="no id of an event"):
        Cursor.parse(text)


@given(st.builds(Cursor, *[st.integers(0, 2**53)] * 4, st.integers(-1, 2**53), st.booleans()))
def test_a_cursor_is_read_as_it_was_written(cursor: Cursor) -> None:
    assert Cursor.parse(str(cursor)) == cursor
