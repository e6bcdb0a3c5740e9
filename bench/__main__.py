"""`python -m bench`: one JSON line per figure as it is measured, a table at the end.

Exit status 1 when a figure of perdure's could not be measured at all; a missed target is shown, not punished: targets
are for a small idle machine, and this one may be neither.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from bench import figures, longterm, remote, sql, streams
from bench.figures import Settings
from bench.report import Failure, Figure, environment, print_line, print_table
from bench.windows import Plan
from bench.workload import CONCURRENCY

GROUPS: dict[str, Callable[[Settings], Iterator[Figure]]] = {
    "steps": figures.steps,
    "alone": figures.alone,
    "noop": figures.noop,
    "objects": figures.objects,
    "suspended": longterm.suspended,
    "rows": longterm.rows,
    "startup": longterm.startup,
    "sql": sql.sql,
    "remote": remote.remote,
    "streams": streams.streams,
}
FULL = Plan(CONCURRENCY, warmup_s=3.0, window_s=3.0, windows=5)
QUICK = Plan(CONCURRENCY, warmup_s=1.0, window_s=1.0, windows=3)
QUICK_ROWS = 20_000
QUICK_SUSPENDED = 5_000
QUICK_WOKEN = 200


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="perdure's figures, beside DBOS and restate-server"
    )
    parser.add_argument(
        "--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="NAME", help=" ".join(GROUPS)
    )
    parser.add_argument("--quick", action="store_true", help="short runs and small files: a smoke test, not a figure")
    parser.add_argument("--no-peers", action="store_true", help="measure perdure alone, install nothing")
    parser.add_argument(
        "--rows", type=int, help=f"completed invocations of the figure `rows` (default {longterm.ROWS:,})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the environment and all figures to FILE")
    return parser.parse_args()


def settings(arguments: argparse.Namespace) -> Settings:
    """Sizes and durations for a full or a quick run."""
    quick: bool = arguments.quick
    return Settings(
        plan=QUICK if quick else FULL,
        rows=arguments.rows or (QUICK_ROWS if quick else longterm.ROWS),
        suspended=QUICK_SUSPENDED if quick else longterm.SUSPENDED,
        woken=QUICK_WOKEN if quick else longterm.WOKEN,
        idle_s=3.0 if quick else 10.0,
        with_peers=not arguments.no_peers,
    )


def stop(signum: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds the stack as Ctrl-C does, so that the servers under measurement are ended."""
    sys.exit(128 + signum)


def main() -> int:
    """Measure what was asked for; what was measured is shown even when it is interrupted."""
    arguments = parse()
    signal.signal(signal.SIGTERM, stop)
    chosen, measured = settings(arguments), list[Figure]()
    with figures.scratch() as directory:
        where = environment(directory)
    try:
        for name in arguments.only:
            for figure in GROUPS[name](chosen):
                measured.append(figure)
                print_line(figure)
    except KeyboardInterrupt:
        return 130
    finally:
        if measured:
            print_table(measured, where)
        if arguments.json is not None:
            document = {"environment": where, "figures": [figure.to_dict() for figure in measured]}
            arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    return int(any(isinstance(figure.perdure, Failure) for figure in measured))


if __name__ == "__main__":
    sys.exit(main())
