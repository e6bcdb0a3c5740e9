"""What an invocation's model calls have used: told to the handler, and held to a budget.

    with usage_session("chat-ada"), budget(usd=0.50):
        answer = await agent.run(question)
    spent = usage_so_far()

Each model call's record keeps its tokens, what they cost by the prices of that moment (`perdure.prices`), and the
session, for SQL to add up (`sys_usage`). Here only recorded numbers are counted, in the order in which the handler was
told of them: a replay counts the same.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from perdure.ai.records import Usage
from perdure.errors import TerminalError
from perdure.prices import current
from perdure.sdk.context import current_context

__all__ = [
    "BudgetExceeded",
    "Spent",
    "before_model_call",
    "budget",
    "priced",
    "spend",
    "told_by",
    "usage_session",
    "usage_so_far",
]


class Spent(msgspec.Struct):
    """Sums over model calls; tokens as in `Usage`."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    """US dollars, of the calls whose model has a price."""
    unpriced: int = 0
    """How many of the calls have no known cost: their model has no price, or their tokens were not told."""
    uncounted: int = 0
    """How many of them had tokens that the provider did not tell."""

    @property
    def tokens(self) -> int:
        """Those of requests and of answers."""
        return self.input_tokens + self.output_tokens

    def add(self, usage: Usage) -> None:
        """Count one more call."""
        self.calls += 1
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.cost += usage.cost or 0.0
        self.unpriced += usage.cost is None
        self.uncounted += not usage.told


class BudgetExceeded(TerminalError):
    """A model was about to be asked, and the budget is used up (402). Uncaught it ends the invocation."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 402)


class _Budget:
    def __init__(self, usd: float | None, tokens: int | None) -> None:
        self.usd = usd
        self.tokens = tokens
        self.spent = Spent()

    def check(self) -> None:
        spent = self.spent
        if self.tokens is not None and spent.tokens >= self.tokens:
            raise BudgetExceeded(f"{spent.tokens:,} tokens are used, and the budget is {self.tokens:,}")
        if spent.uncounted:
            raise BudgetExceeded(f"the provider did not tell the tokens of {spent.uncounted} model calls")
        if self.usd is None:
            return
        if spent.unpriced:
            raise BudgetExceeded(
                f"{spent.unpriced} model calls have no known cost, so a budget in dollars can't hold them: "
                "add the model's price (PERDURE_PRICES), or set the budget in tokens"
            )
        if spent.cost >= self.usd:
            raise BudgetExceeded(f"${spent.cost:.4f} is spent, and the budget is ${self.usd:.4f}")


_BUDGETS: contextvars.ContextVar[tuple[_Budget, ...]] = contextvars.ContextVar("perdure_budgets", default=())
_SESSION: contextvars.ContextVar[str] = contextvars.ContextVar("perdure_usage_session", default="")
_TOTALS: "WeakKeyDictionary[Any, Spent]" = WeakKeyDictionary()  # by the context of a handler's run


def usage_so_far() -> Spent:
    """What the model calls of this invocation have used, as far as the handler was told. Zeros outside of handlers."""
    try:
        total = _TOTALS.get(current_context())
    except LookupError:
        total = None
    return Spent() if total is None else msgspec.structs.replace(total)


@contextlib.contextmanager
def budget(*, usd: float | None = None, tokens: int | None = None) -> Iterator[Spent]:
    """Ask no model any more when so many US dollars or tokens are used by the model calls in this block.

    Raises `BudgetExceeded` at the call that would be the next, in whatever task or agent; calls that run by then are
    not cut off, so the budget may be passed by what was asked at once. Gives what was spent in the block. Budgets
    nest. After a call that can't be counted, because its tokens were not told or (with `usd`) its model has no price,
    no model is asked any more.
    """
    for name, value in (("usd", usd), ("tokens", tokens)):
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be more than 0: {value!r}")
    made = _Budget(usd, tokens)
    token = _BUDGETS.set((*_BUDGETS.get(), made))
    try:
        yield made.spent
    finally:
        _BUDGETS.reset(token)


@contextlib.contextmanager
def usage_session(id: str) -> Iterator[None]:
    """Have the model calls in this block recorded as of this session, a chat or a user; without it `sys_usage` names
    the key of the object whose handler it was."""
    token = _SESSION.set(id)
    try:
        yield
    finally:
        _SESSION.reset(token)


# ---- for `perdure.ai.base`


def before_model_call() -> None:
    """Raise `BudgetExceeded` if a budget is used up; and in a handler `Invalid` if there are prices that can't be read:
    found only with the answer, that would throw away what was paid for, once for every retry."""
    for each in _BUDGETS.get():
        each.check()
    with contextlib.suppress(LookupError):
        current_context()
        current()


def told_by(read: Callable[[Any], Usage | None] | None, provider: str, model: str) -> Callable[[Any], Usage]:
    """Reads the tokens of a model's answer; one that does not tell them was a call all the same."""

    def usage(value: Any) -> Usage:
        found = None if read is None else read(value)
        return Usage(provider, model) if found is None else found

    return usage


def priced(usage: Usage, attempt: int) -> Usage:
    """With its cost at the prices of this moment, its session, and which try of the step it was."""
    prices = current()
    price = prices.of(usage.model) if usage.told else None
    cost = None
    if price is not None:
        tokens = usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.cache_write_tokens
        cost = round(price.cost(*tokens), 10)
    return msgspec.structs.replace(
        usage,
        cost=cost,
        prices="" if price is None else prices.version,
        session=_SESSION.get(),
        attempt=attempt,
    )


def spend(usage: Usage) -> None:
    """The handler was told of a model call's result."""
    for each in _BUDGETS.get():
        each.spent.add(usage)
    with contextlib.suppress(LookupError):
        _TOTALS.setdefault(current_context(), Spent()).add(usage)
