"""What models cost: a table with a version, which its users can replace.

The packaged table (`prices.toml`) has list prices as known at its version's date. `PERDURE_PRICES`, or the setting
`prices` of `perdure serve`, names a TOML file of the same form whose models are added to it, or replace those of the
same name; with `only = true` nothing of the packaged table is left. A model that no table knows has no cost: never 0.
"""

import os
import re
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final

import msgspec

from perdure.errors import Invalid

__all__ = ["Price", "Prices", "current", "load", "use"]

_MILLION: Final = 1_000_000
_SUFFIX: Final = re.compile(r"(-\d{4}-\d{2}-\d{2}|[-@]\d{8}|-\d{3}|-latest|-preview(-\d{2}-\d{4})?|-v\d+(:\d+)?)$")
"""What may follow a model's name: a date, a version, `latest`, `preview`."""

Dollars = Annotated[float, msgspec.Meta(ge=0)]


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars per million tokens."""

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None
    """Of input that was read from the provider's cache; None: as `input`."""
    cache_write: Dollars | None = None
    """Of input that was written to the provider's cache; None: as `input`."""

    def cost(self, input: int, output: int, cached: int = 0, written: int = 0) -> float:
        """US dollars. `cached` and `written` are parts of `input`."""
        plain = max(0, input - cached - written) * self.input
        read = cached * (self.input if self.cached_input is None else self.cached_input)
        stored = written * (self.input if self.cache_write is None else self.cache_write)
        return (plain + read + stored + output * self.output) / _MILLION


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of prices: `version` says which, `models` has a price for a name, or for the beginning of one."""

    version: str
    models: dict[str, Price] = {}
    only: bool = False
    """Of a file: whether it replaces the packaged table, or is added to it."""

    def of(self, model: str) -> Price | None:
        """The price of a model as its provider calls it; None if it is not known.

        `openai/gpt-4o` is `gpt-4o`, so is `gpt-4o-2024-08-06` unless it has a price of its own; `gpt-4o-audio` is not.
        """
        name = model.rpartition("/")[2].lower()
        while name not in self.models:
            shorter = _SUFFIX.sub("", name)
            if shorter == name:
                return None
            name = shorter
        return self.models[name]


def load(path: str | os.PathLike[str]) -> Prices:
    """Prices from a file. Raises `Invalid` if it can't be read, or says something else."""
    try:
        found = msgspec.toml.decode(Path(path).read_bytes(), type=Prices)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Invalid(f"prices {os.fspath(path)!r}: {error}") from None
    models = {name.lower(): price for name, price in found.models.items()}
    packaged = _packaged()
    if not found.only:
        models = {**packaged.models, **models}
        found = msgspec.structs.replace(found, version=f"{packaged.version}+{found.version}")
    return msgspec.structs.replace(found, models=models)


@lru_cache(maxsize=1)
def _packaged() -> Prices:
    return msgspec.toml.decode(files("perdure").joinpath("prices.toml").read_bytes(), type=Prices)


_current: Prices | None = None


def current() -> Prices:
    """The prices of this process: those that `use` was given, else of `PERDURE_PRICES`, else the packaged ones."""
    global _current
    if _current is None:
        path = os.environ.get("PERDURE_PRICES")
        _current = load(path) if path else _packaged()
    return _current


def use(prices: Prices | None) -> None:
    """Have `current()` give these; None: as at the start."""
    global _current
    _current = prices
