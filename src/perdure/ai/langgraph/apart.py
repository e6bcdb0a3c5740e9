"""What a node does to the graph besides returning something, when it is a step: kept with its result, done on replay.

A node writes to the custom stream, takes the answers to its interrupts, is interrupted, or hands over to the parent
graph. In a step it does all this to a config of its own. Afterwards, live and on replay, the same is done to the real
one.
"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn

import msgspec
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.errors import GraphInterrupt, ParentCommand

from perdure.ai.langchain.messages import pack, unpack
from perdure.errors import NonDurableOperation
from perdure.sdk.serde import Serde

__all__ = ["OUTCOME", "Apart", "Outcome", "replay"]

_RUNTIME = "__pregel_runtime"
_CALL = "__pregel_call"
_SEND = "__pregel_send"
_SCRATCHPAD = "__pregel_scratchpad"


@dataclass
class Outcome:
    """What came of a node: its result, or what interrupted it; and what it did to the graph."""

    result: Any = None
    interrupts: list[Any] | None = None
    command: Any = None
    """For the parent graph."""
    stream: list[Any] = field(default_factory=list)
    """What it wrote to the custom stream."""
    sent: list[Any] = field(default_factory=list)
    """What it wrote to channels itself: the answers that it took."""
    answered: bool = False
    """Whether it took the answer that was given to the graph, `Command(resume=...)`."""


class Apart:
    """A config for the step, without the callbacks, which are the handler's; made anew for each try."""

    def __init__(self, config: RunnableConfig | None) -> None:
        self.outcome = outcome = Outcome()
        configurable = dict((config or {}).get("configurable", {}))
        runtime, scratchpad = configurable.get(_RUNTIME), configurable.get(_SCRATCHPAD)
        if runtime is not None:
            configurable[_RUNTIME] = runtime.override(stream_writer=outcome.stream.append)
        if scratchpad is not None:
            resume = list(scratchpad.resume)
            self._null_resume = scratchpad.get_null_resume
            configurable[_SCRATCHPAD] = replace(
                scratchpad, interrupt_counter=itertools.count().__next__, get_null_resume=self._answer, resume=resume
            )
        configurable[_SEND] = self._send
        configurable[_CALL] = _refuse_task
        self.config: RunnableConfig = {**(config or {}), "callbacks": [], "configurable": configurable}

    def _answer(self, consume: bool = False) -> Any:
        if self.outcome.answered:
            return None
        value = self._null_resume(False)
        self.outcome.answered = consume and value is not None
        return value

    def _send(self, writes: Any) -> None:
        self.outcome.sent += [(channel, list(value) if isinstance(value, list) else value) for channel, value in writes]

    @contextlib.contextmanager
    def catching(self) -> Iterator[None]:
        """Where the node runs: an interrupt is an outcome."""
        token = var_child_runnable_config.set(self.config)  # what `interrupt` and `get_stream_writer` look at
        try:
            yield
        except GraphInterrupt as interrupt:
            self.outcome.interrupts = list(interrupt.args[0])
        except ParentCommand as command:
            self.outcome.command = command.args[0]
        finally:
            var_child_runnable_config.reset(token)


def replay(config: RunnableConfig | None, outcome: Outcome) -> Any:
    """Do to the graph what the node did; its result, or what it raised."""
    configurable: Any = (config or {}).get("configurable", {})
    if outcome.answered:
        configurable[_SCRATCHPAD].get_null_resume(True)
    if outcome.sent:
        configurable[_SEND](outcome.sent)
    for each in outcome.stream:
        configurable[_RUNTIME].stream_writer(each)
    if outcome.interrupts is not None:
        raise GraphInterrupt(outcome.interrupts)
    if outcome.command is not None:
        raise ParentCommand(outcome.command)
    return outcome.result


def _refuse_task(*args: Any, **kwargs: Any) -> NoReturn:
    raise NonDurableOperation("a task that is called from within a node or a task that is a step (not in_handler)")


class _OutcomeSerde:
    """As JSON what that can say exactly, else as LangGraph packs it."""

    content_type: Final = "application/json"

    def serialize(self, outcome: Outcome) -> bytes:
        plain = _is_plain(outcome.result)
        document: dict[str, Any] = {"result": outcome.result} if plain else {"packed": pack(outcome.result)}
        for name in ("interrupts", "command", "stream", "sent"):
            value = getattr(outcome, name)
            if value is not None and value != []:
                document[name] = pack(value)
        return msgspec.json.encode({**document, "answered": True} if outcome.answered else document)

    def deserialize(self, data: bytes) -> Outcome:
        document = msgspec.json.decode(data)
        result = unpack(document["packed"]) if "packed" in document else document["result"]
        outcome = Outcome(result, answered=document.get("answered", False))
        for name in ("interrupts", "command", "stream", "sent"):
            if name in document:
                setattr(outcome, name, unpack(document[name]))
        return outcome

    def schema(self) -> dict[str, Any] | None:
        return None


OUTCOME: Final[Serde[Outcome]] = _OutcomeSerde()


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(type(key) is str and _is_plain(each) for key, each in value.items())
    if type(value) is list:
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, bool, float) or (type(value) is int and abs(value) < 1 << 63)
