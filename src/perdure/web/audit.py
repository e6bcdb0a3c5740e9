"""The audit log: who changed what through the admin port, and who was refused. JSON, a line each.

Lines go to the logger `perdure.audit` (level INFO), and to a file where one is named. They hold paths and ids, never
bodies, headers or keys.
"""

import logging
import logging.handlers
import os
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final

import msgspec

from perdure.errors import Invalid, RequestError
from perdure.model.keys import ApiKey
from perdure.runtime.clock import Clock
from perdure.web.http import Request, format_time_ns

__all__ = ["Audit"]

FILE_BYTES: Final = 32 * 1024 * 1024
OLD_FILES: Final = 4
TEXT_LIMIT: Final = 500  # characters of a path, or a value in it
REFUSALS_PER_MINUTE: Final = 60
_KEPT_PARAMETERS: Final = ("deployment", "force", "from", "mode")
_WORDS: Final = {"invocation_id": "id", "deployment": "id", "key": "object_key"}
_MINUTE_MS: Final = 60_000

logger = logging.getLogger("perdure.audit")
errors = logging.getLogger("perdure.web")


class Audit:
    """Writes the lines. With `path` also to that file, for its owner's eyes, 32 MiB at most and four older ones.

    Raises `Invalid` if the file cannot be written to.
    """

    def __init__(self, clock: Clock, path: str | None = None) -> None:
        self._clock = clock
        self._file: _PrivateFile | None = None
        self._minute = 0
        self._refusals = 0
        if path is not None:
            try:
                self._file = _PrivateFile(path, maxBytes=FILE_BYTES, backupCount=OLD_FILES, encoding="utf-8")
            except OSError as error:
                raise Invalid(f"audit_log: {Path(path)} cannot be written: {error.strerror or error}") from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def acted(self, request: Request, key: ApiKey | None, values: Mapping[str, str], status: int | None) -> None:
        """A request that changes something was answered with `status`; None: it is not known what came of it."""
        affected: dict[str, Any] = {_WORDS.get(name, name): _cut(value) for name, value in values.items()}
        for name, value in (request.affected or {}).items():
            affected[name] = _cut(value) if isinstance(value, str) else [_cut(each) for each in value]
        parameters = request.parameters() if request.query else {}
        if kept := {name: _cut(parameters[name]) for name in _KEPT_PARAMETERS if name in parameters}:
            affected["parameters"] = kept
        self._write({"event": "action", **_facts(request, key, status), "affected": affected})

    def refused(self, port: str, request: Request, key: ApiKey | None, error: RequestError) -> None:
        """A request was refused for who sent it. Of very many a minute, only the first are told, and how many more."""
        minute = self._clock.now_ms() // _MINUTE_MS
        if minute != self._minute:
            if (left_out := self._refusals - REFUSALS_PER_MINUTE) > 0:
                self._write({"event": "refusals left out", "count": left_out})
            self._minute, self._refusals = minute, 0
        self._refusals += 1
        if self._refusals <= REFUSALS_PER_MINUTE:
            facts = _facts(request, key, error.status)
            self._write({"event": "refused", "port": port, **facts, "why": error.message})

    def _write(self, facts: dict[str, Any]) -> None:
        if self._file is None and not logger.isEnabledFor(logging.INFO):
            return
        line = msgspec.json.encode({"at": format_time_ns(self._clock.now_ms()), **facts}).decode()
        record = logger.makeRecord(logger.name, logging.INFO, "", 0, "%s", (line,), None)
        if self._file is not None:
            self._file.handle(record)
        if logger.isEnabledFor(logging.INFO):
            logger.handle(record)


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A file that nobody but its owner may read. What cannot be written to it (a full disk) is an error in the log."""

    def _open(self) -> TextIOWrapper:
        def private(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=private)  # type: ignore[return-value]

    def handleError(self, record: logging.LogRecord) -> None:
        errors.exception("audit_log: a line could not be written: %s", record.getMessage())


def _facts(request: Request, key: ApiKey | None, status: int | None) -> dict[str, Any]:
    client = request.scope.get("client")
    who = {"anonymous": True} if key is None else {"key": key.id, "name": key.name, "role": key.role.value}
    return {
        "who": {**who, "peer": None if not client else f"{client[0]}:{client[1]}"},
        "method": request.method,
        "path": _cut(request.path),
        "status": status,
    }


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}..."
