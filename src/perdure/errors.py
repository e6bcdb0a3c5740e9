"""Every exception a user of perdure can meet.

::

    PerdureError(Exception)
    |-- TerminalError            do not retry: the invocation, or the step, ends with this failure
    |-- RetryableError           retry, maybe after a delay of the raiser's choosing
    |-- NonDurableOperation      a socket, a pipe, a subprocess on the handler's own loop
    |-- NotReady                 the output of an invocation was asked for before there was one
    |-- ProtocolError
    |   |-- LocalProtocolError   this side broke the protocol
    |   |-- RemoteProtocolError  the other side did
    |   `-- JournalMismatch      the code no longer does what its journal says it did
    |-- StorageError             the disk, not the user
    |-- SerdeError               a value that cannot be written as bytes, or bytes that are not such a value (sdk.serde)
    `-- RequestError             a request that cannot be served; each kind knows its HTTP status
        |-- Invalid (400)  Unauthorized (401)  Forbidden (403)  NotFound (404)  Conflict (409)  TooLarge (413)
        `-- Overloaded (429)  Unavailable (503)

    Suspended(BaseException)     unwinds a handler that is to be dropped; never seen by users
    AttemptGone(BaseException)   the engine no longer listens to this attempt; unwind, keep nothing

`Suspended` and `AttemptGone` are no `Exception`: a handler's `except Exception` must not swallow them.
An `AssertionError` out of perdure is a bug of perdure; the partition stops, loudly.
"""

from collections.abc import Mapping
from datetime import timedelta

__all__ = [
    "AttemptGone",
    "Conflict",
    "Forbidden",
    "Invalid",
    "JournalMismatch",
    "LocalProtocolError",
    "NonDurableOperation",
    "NotFound",
    "NotReady",
    "Overloaded",
    "PerdureError",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestError",
    "RetryableError",
    "StorageError",
    "Suspended",
    "TerminalError",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
]


class PerdureError(Exception):
    """Whatever perdure itself raises."""


class TerminalError(PerdureError):
    """Ends the invocation (raised by a handler) or the step (raised by a step) for good; never retried.

    `code` follows HTTP and becomes the status of the ingress answer; `metadata` travels with the failure.
    """

    def __init__(self, message: str = "", code: int = 500, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.metadata = dict(metadata or {})

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.code, self.metadata)


class RetryableError(PerdureError):
    """Asks for another attempt; `retry_after` (seconds or timedelta) takes the place of the policy's delay."""

    def __init__(self, message: str = "", retry_after: float | timedelta | None = None, code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        if isinstance(retry_after, timedelta):
            retry_after = retry_after.total_seconds()
        self.retry_after: float | None = retry_after


class NonDurableOperation(PerdureError):
    """The handler's loop was asked for something that no journal can hold."""

    def __init__(self, operation: str) -> None:
        super().__init__(
            f"{operation} is not durable: it would be done again on every replay. "
            "Put it into a function and call that as a step: await ctx.run(name, function)."
        )
        self.operation = operation


class NotReady(PerdureError):
    """The invocation exists and has no output yet."""


class ProtocolError(PerdureError):
    """The service protocol was broken; `code` is the protocol's own code for how."""

    code = 571

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class LocalProtocolError(ProtocolError):
    """This side did what it may not do."""


class RemoteProtocolError(ProtocolError):
    """The other side did."""


class JournalMismatch(ProtocolError):
    """What the code does now differs from what its journal says it did at the same place.

    `differences` maps a field to (what the journal holds, what the code asks for).
    """

    code = 570

    def __init__(
        self,
        command_index: int,
        expected: str,
        found: str,
        differences: Mapping[str, tuple[object, object]] | None = None,
    ) -> None:
        self.command_index = command_index
        self.expected = expected
        self.found = found
        self.differences = dict(differences or {})
        lines = [
            f"journal mismatch at command {command_index}: the journal holds {expected}, the code asks for {found}"
        ]
        lines += [
            f"  {field}: journal {journal!r}, code {code!r}" for field, (journal, code) in self.differences.items()
        ]
        lines.append(
            "The code was changed under a running invocation, or it depends on something that is not journaled "
            "(clock, random, environment): see docs/determinism.md."
        )
        super().__init__("\n".join(lines))


class StorageError(PerdureError):
    """The store could not be opened, read or written."""


class RequestError(PerdureError):
    """A request that cannot be served; `status` is the HTTP status that says so."""

    status = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Invalid(RequestError):
    """The request is malformed; the message names the field and the fix."""

    status = 400


class Unauthorized(RequestError):
    """Who asks is not known: no key, or none that is good."""

    status = 401


class Forbidden(RequestError):
    """Who asks is known, and may not have this."""

    status = 403


class NotFound(RequestError):
    """No such service, handler or invocation."""

    status = 404


class Conflict(RequestError):
    """What is asked for cannot be done in the state the invocation is in."""

    status = 409


class TooLarge(RequestError):
    """A body over the limit."""

    status = 413


class Overloaded(RequestError):
    """More work than the limits allow; nothing was accepted, try again later."""

    status = 429


class Unavailable(RequestError):
    """The engine is stopping or not ready; nothing was accepted."""

    status = 503


class Suspended(BaseException):
    """Unwinds a handler whose invocation is suspended."""


class AttemptGone(BaseException):
    """Unwinds a handler whose attempt the engine has given up."""
