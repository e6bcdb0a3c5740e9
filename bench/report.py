"""What a figure looks like: one JSON line when it is measured, one row of a table at the end."""

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from bench.peers.install import PYTHON_PEERS, RESTATE_SERVER

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Sample:
    """The values of several runs; the figure is their median. `details` are other numbers, units in their names."""

    runs: Sequence[float]
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return statistics.median(self.runs)


@dataclass(frozen=True)
class Failure:
    """Why there is no sample."""

    reason: str


@dataclass(frozen=True)
class Target:
    """The name of a figure and the number it is held to."""

    name: str
    unit: str
    better: Better
    bound: float


@dataclass(frozen=True)
class Figure:
    """A target with perdure's sample and its peers'. `scaled` says how much of the load was run, if not all of it."""

    target: Target
    perdure: Sample | Failure
    peers: Mapping[str, Sample | Failure] = field(default_factory=dict)
    scaled: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where nothing was measured."""
        if isinstance(self.perdure, Failure):
            return None
        ours, bound = self.perdure.value, self.target.bound
        return ours >= bound if self.target.better == "higher" else ours <= bound

    def ratio(self, peer: Sample) -> float | None:
        """How many times better than the peer perdure is, whichever way better points."""
        if isinstance(self.perdure, Failure):
            return None
        ours, theirs = self.perdure.value, peer.value
        return ours / theirs if self.target.better == "higher" else theirs / ours

    def to_dict(self) -> dict[str, object]:
        """The JSON line."""
        line: dict[str, object] = {"figure": self.target.name, "unit": self.target.unit, "better": self.target.better}
        line |= {"target": self.target.bound} | _measured(self.perdure) | {"met": self.met}
        if self.scaled:
            line["scaled"] = self.scaled
        peers: dict[str, object] = {}
        for name, peer in self.peers.items():
            ratio = None if isinstance(peer, Failure) else self.ratio(peer)
            peers[name] = _measured(peer) | ({} if ratio is None else {"ratio": round(ratio, 2)})
        return line | ({"peers": peers} if peers else {})


def _measured(sample: Sample | Failure) -> dict[str, object]:
    if isinstance(sample, Failure):
        return {"value": None, "reason": sample.reason}
    line: dict[str, object] = {"value": significant(sample.value), "runs": [significant(run) for run in sample.runs]}
    if sample.details:
        line["details"] = {name: significant(detail) for name, detail in sample.details.items()}
    return line


def significant(value: float) -> float:
    """Four significant digits: no benchmark here knows more."""
    return float(f"{value:.4g}")


def environment(directory: Path) -> dict[str, object]:
    """Where the figures were taken and how busy it was; `fsync_ms` is the floor under every durable step."""
    return {
        "cpus": os.cpu_count(),
        "load_average": significant(os.getloadavg()[0]),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "perdure": version("perdure"),
        "fsync_ms": significant(fsync_ms(directory)),
        "peers": [RESTATE_SERVER.rsplit("/", 1)[1], *PYTHON_PEERS],
    }


def fsync_ms(directory: Path) -> float:
    """Milliseconds of one 4 KiB write and fsync, the median of 50, in the directory that all measured data goes to."""
    times = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(50):
            began = time.perf_counter()
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


def print_line(figure: Figure) -> None:
    """One JSON line, at once: a long benchmark that is interrupted has not been for nothing."""
    print(json.dumps(figure.to_dict()), flush=True)


def print_table(figures: Sequence[Figure], where: Mapping[str, object]) -> None:
    """The table, and under it what was scaled down or could not be measured."""
    table = Table(caption=", ".join(f"{key} {value}" for key, value in where.items() if key != "peers"))
    for heading in ("figure", "unit"):
        table.add_column(heading)
    for heading in ("target", "perdure", "Restate", "DBOS"):
        table.add_column(heading, justify="right")
    notes: list[str] = []
    for figure in figures:
        target = figure.target
        bound = f"{'≥' if target.better == 'higher' else '≤'} {human(target.bound)}"
        table.add_row(
            target.name, target.unit, bound, _own_cell(figure), *(_cell(figure, peer) for peer in ("restate", "dbos"))
        )
        if figure.scaled:
            notes.append(f"{target.name}: {figure.scaled}")
        samples = {"perdure": figure.perdure, **figure.peers}
        notes += [f"{target.name}, {name}: {s.reason}" for name, s in samples.items() if isinstance(s, Failure)]
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _own_cell(figure: Figure) -> str:
    if isinstance(figure.perdure, Failure):
        return "[yellow]not measured[/yellow]"
    colour = "green" if figure.met else "red"
    return f"[{colour}]{human(figure.perdure.value)}[/{colour}]"


def _cell(figure: Figure, peer: str) -> str:
    sample = figure.peers.get(peer)
    if sample is None:
        return ""
    if isinstance(sample, Failure):
        return "[yellow]not measured[/yellow]"
    ratio = figure.ratio(sample)
    return human(sample.value) + ("" if ratio is None else f"  (×{ratio:.1f})")


def human(value: float) -> str:
    """Thousands separated, three significant digits below 1,000."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
