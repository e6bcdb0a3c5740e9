"""What a provider's error means: try again (and when), or give up.

Every client library has exceptions of its own. They are told apart by what they carry, an HTTP status and headers,
not by their class, so that no library has to be imported and those to come are understood too.

| what happened | what becomes of the step |
| --- | --- |
| 408, 409, 425, 429, any 5xx | tried again, after the time that the provider asks for or the retry policy's |
| no connection, a time-out, a stream that was cut | tried again under the retry policy |
| 429 because the quota is used up; every other 4xx | `TerminalError` with the status as its code |
| anything else, such as a bug in a tool | left as it is: the step's policy decides |
"""

import email.utils
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from perdure.errors import RetryableError, TerminalError

__all__ = ["asked_delay", "classify", "status_of"]

_TRY_AGAIN = {408, 409, 425, 429}
_USED_UP = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "access_terminated"}
_REQUEST_IDS = ("x-request-id", "request-id", "x-amzn-requestid")
_MESSAGE_LIMIT = 4096  # characters; some gateways answer with a page of HTML
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
_CONNECTION = re.compile(
    r"Timeout|TimedOut|Connection|ConnectError|RemoteProtocolError|ReadError|WriteError|NetworkError|IncompleteRead|"
    r"ServerDisconnected|ClientPayloadError|CloseError|ProxyError"
)


def classify(error: BaseException, provider: str = "") -> TerminalError | RetryableError | None:
    """The error that a step should raise in place of a provider's; None if this is not an error of a provider.

    Errors that wrap another one (`raise ... from`) are looked into. A `TerminalError` or `RetryableError` is returned
    as it is. A terminal one's `metadata` has `provider`, `status`, and where they are known `request_id` and `type`.
    Secrets are not looked at: headers of the request never get into the message.
    """
    status = None
    for link in _chain(error):
        if isinstance(link, TerminalError | RetryableError):
            return link
        status = status_of(link)
        if status is not None:
            return _by_status(link, status, provider or _provider(link))
    if any(_is_connection(link) for link in _chain(error)):
        return RetryableError(f"{_named(provider)}{type(error).__name__}: {_message(error)}", code=503)
    return None


def status_of(error: BaseException) -> int | None:
    """The HTTP status (400 to 599) that the exception carries, wherever its library keeps it."""
    response = getattr(error, "response", None)
    places = [getattr(error, name, None) for name in ("status_code", "code", "status", "http_status")]
    places.append(getattr(response, "status_code", None))
    if isinstance(response, Mapping):  # botocore
        places.append((response.get("ResponseMetadata") or {}).get("HTTPStatusCode"))
    return next((place for place in places if type(place) is int and 400 <= place < 600), None)


def asked_delay(headers: Mapping[str, str], body: Any = None) -> float | None:
    """How many seconds the provider asks to wait before the next request; None if it does not say.

    Looks at `retry-after-ms`, `retry-after` (seconds or a date), `x-ratelimit-reset-*` of the limits that are used up,
    and Google's `RetryInfo` in the body. Dates are compared with the answer's own `date`, not with a clock of ours.
    """
    given = {name.lower(): value for name, value in headers.items()}
    milliseconds = _number(given.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    after = given.get("retry-after")
    if after is not None:
        seconds = _number(after)
        return seconds if seconds is not None else _between(given.get("date"), after)
    resets = [
        _duration(value)
        for name, value in given.items()
        if name.startswith("x-ratelimit-reset") and given.get(name.replace("reset", "remaining"), "0") == "0"
    ]
    known = [reset for reset in resets if reset is not None]
    return max(known) if known else _retry_info(body)


def _by_status(error: BaseException, status: int, provider: str) -> TerminalError | RetryableError:
    headers = _headers(error)
    body = _body(error)
    details = _error_of(body)
    message = f"{_named(provider)}{status}: {_message(error)}"
    asked = headers.get("x-should-retry")
    again = status >= 500 or asked == "true" or (status in _TRY_AGAIN and asked != "false")
    if again and not _USED_UP & {details.get("code"), details.get("type")}:
        return RetryableError(message, asked_delay(headers, body), status)
    metadata = {"provider": provider, "status": str(status)}
    request_id = getattr(error, "request_id", None) or next(filter(None, map(headers.get, _REQUEST_IDS)), None)
    kind = details.get("code") or details.get("type") or details.get("status")
    metadata |= {"request_id": str(request_id)} if request_id else {}
    metadata |= {"type": str(kind)} if kind else {}
    return TerminalError(message, status, metadata)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from; of a group with one member, that."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        if isinstance(link, BaseExceptionGroup) and len(link.exceptions) == 1:
            link = link.exceptions[0]
        else:
            link = link.__cause__


def _is_connection(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    names = [cls.__name__ for cls in type(error).__mro__[:-3]]
    return any(_CONNECTION.search(name) for name in names)


def _headers(error: BaseException) -> dict[str, str]:
    for link in _chain(error):
        response = getattr(link, "response", None)
        for holder in (response, link):
            headers = getattr(holder, "headers", None)
            if isinstance(headers, Mapping):
                return {str(name).lower(): str(value) for name, value in headers.items()}
        if isinstance(response, Mapping):
            return {
                str(k).lower(): str(v) for k, v in response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).items()
            }
    return {}


def _body(error: BaseException) -> Any:
    """The provider's answer, as far as the library has read it."""
    for link in _chain(error):
        for name in ("body", "details", "response_json"):
            body = getattr(link, name, None)
            if isinstance(body, str):
                try:
                    body = json.loads(body)
                except ValueError:
                    continue
            if isinstance(body, Mapping | list) and body:
                return body
    return None


def _error_of(body: Any) -> Mapping[str, Any]:
    """The part that describes the error: `{"error": {...}}` with most providers, in a list with some of Google's."""
    if isinstance(body, list):
        body = body[0] if body else {}
    if not isinstance(body, Mapping):
        return {}
    inner = body.get("error")
    return inner if isinstance(inner, Mapping) else body


def _message(error: BaseException) -> str:
    text = str(getattr(error, "message", None) or error) or type(error).__name__
    return text if len(text) <= _MESSAGE_LIMIT else text[:_MESSAGE_LIMIT] + "..."


def _provider(error: BaseException) -> str:
    """The library that the exception is of, which is near enough where nobody said."""
    return type(error).__module__.partition(".")[0]


def _named(provider: str) -> str:
    return f"{provider}: " if provider else ""


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _duration(text: str) -> float | None:
    """Seconds in `6m0s`, `20ms`, `1.5s`, or a plain number."""
    parts = _DURATION.findall(text)
    if parts and _DURATION.sub("", text) == "":
        return float(sum(float(number) * _UNITS[unit] for number, unit in parts))
    return _number(text)


def _between(earlier: str | None, later: str) -> float | None:
    dates: list[datetime] = []
    for text in (earlier, later):
        try:
            dates.append(email.utils.parsedate_to_datetime(text or ""))
        except ValueError:
            return None
    return max(0.0, (dates[1] - dates[0]).total_seconds())


def _retry_info(body: Any) -> float | None:
    details = _error_of(body).get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping) and isinstance(detail.get("retryDelay"), str):
            return _duration(detail["retryDelay"])
    return None
