"""`logging` where code is replayed: what was logged before is not logged again, and every record says whose it is.

A handler's code runs again from its beginning whenever its invocation goes on; its steps do not. So `quiet_replays`
looks at each record on its way to its handlers. In a handler's code that repeats what an earlier attempt did, the
record is dropped; everywhere else in a handler or a step it is given the invocation's id, service, handler, attempt and
step. It is done in `logging.Logger` itself, once for the process, so that it holds for any logger and any
configuration, also one that is made later. Records of code outside of handlers are left as they are.

What repeats is known by the journal: everything up to its last command, and up to the last notification that an
attempt was given before it suspended. An attempt that failed, or was cut off by a crash, had gone on from there: what
it logged since is logged again by the next one, for it happens again.
"""

import logging
import traceback
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from perdure.model.ids import format_invocation_id
from perdure.sdk import context as contexts
from perdure.sdk import steps
from perdure.sdk.driver import HandlerRun
from perdure.sdk.eventloop import dropping

__all__ = ["JsonFormatter", "TextFormatter", "current_run", "is_replaying", "quiet_replays", "setup_logging"]

_ENGINE: Final = "perdure."  # what it says happens, though its code may be called by that of a handler
FIELDS: Final = ("invocation_id", "service", "handler", "attempt", "step", "trace_id")


def current_run() -> HandlerRun | None:
    """The attempt whose handler or step this code is."""
    context: Any = contexts._CURRENT.get()
    return None if context is None else context._run


def is_replaying() -> bool:
    """Whether this is a handler's code that repeats what an earlier attempt did, or is being dropped.

    Never true in a step, nor outside of handlers. For what must not be done twice and is no step: printing, say.
    Nothing that is journaled may depend on it.
    """
    if dropping.get():
        return True
    run = current_run()
    return run is not None and not steps.in_step() and run.repeating


def _handle(self: logging.Logger, record: logging.LogRecord) -> None:
    if not _shows_replays and is_replaying() and not record.name.startswith(_ENGINE):
        return
    run = current_run()
    if run is not None:
        _describe(record, run)
    _handle_anyway(self, record)


def _describe(record: logging.LogRecord, run: HandlerRun) -> None:
    """Give a record its fields, except those that its author has given it."""
    fields, start = record.__dict__, run.start
    step = steps._CURRENT.get()
    fields.setdefault("invocation_id", format_invocation_id(start.id))
    fields.setdefault("service", start.target.service)
    fields.setdefault("handler", start.target.handler)
    fields.setdefault("attempt", start.attempt)
    if step is not None:
        fields.setdefault("step", step.name)
    if start.trace:
        fields.setdefault("trace_id", start.trace.split("-")[1])


_handle_anyway = logging.Logger.handle
_shows_replays = False


def quiet_replays() -> None:
    """See the module's docstring. Whoever serves handlers calls it, as often as it likes."""
    logging.Logger.handle = _handle  # type: ignore[method-assign]


class TextFormatter(logging.Formatter):
    """A line for people: time, level, logger, message, and in brackets whose it is."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        fields = record.__dict__
        if "invocation_id" not in fields:
            return line
        step = f" step {fields['step']!r}" if "step" in fields else ""
        target = f"{fields.get('service')}/{fields.get('handler')}"
        return f"{line} [{fields['invocation_id']} {target} attempt {fields.get('attempt')}{step}]"


class JsonFormatter(logging.Formatter):
    """A line of JSON: `timestamp` (RFC 3339, UTC), `level`, `logger`, `message`; `invocation_id`, `service`, `handler`,
    `attempt`, `step` and `trace_id` where they apply; `exception` and `stack`; and whatever was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = record.__dict__
        line |= {name: fields[name] for name in FIELDS if name in fields}
        line |= {name: value for name, value in fields.items() if name not in _STANDARD and name not in line}
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        if record.stack_info:
            line["stack"] = record.stack_info
        return _encode(line)


_STANDARD: Final = frozenset({*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"})


def _encode(line: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(line, enc_hook=str).decode()
    except Exception:  # a surrogate, a key that is no text: what was said matters more than how
        plain = {str(name): ascii(value) for name, value in line.items()}
        return msgspec.json.encode(plain).decode()


def setup_logging(
    format: Literal["text", "json"] = "text", level: str | int = "WARNING", *, replays: bool = False
) -> None:
    """Have everything from `level` on logged to stderr, in lines for people or of JSON.

    Does nothing about how it is logged if `logging` is configured already. With `replays` what repeats is logged too.
    Raises `ValueError` for a format or level that there is not.
    """
    if format not in ("text", "json"):
        raise ValueError(f"the log format must be 'text' or 'json', not {format!r}")
    if isinstance(level, str) and level.upper() not in logging.getLevelNamesMapping():
        raise ValueError(f"there is no log level {level!r}: use debug, info, warning, error or critical")
    quiet_replays()
    global _shows_replays
    _shows_replays = replays
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
        root.addHandler(handler)
        root.setLevel(level.upper() if isinstance(level, str) else level)
