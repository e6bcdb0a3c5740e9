"""Which errors are tried again, when, and which end the call; told by what an exception carries."""

from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest

from perdure import RetryableError, TerminalError
from perdure.ai.provider_errors import asked_delay, classify, status_of


class ApiError(Exception):
    """A client's exception, with whatever attributes the client gives it."""

    def __init__(self, message: str = "no", **attributes: Any) -> None:
        super().__init__(message)
        self.__dict__.update(attributes)


def openai_error(status: int, error: dict[str, Any] | None = None, **headers: str) -> openai.APIStatusError:
    request = httpx2.Request("POST", "http://provider/v1/chat/completions")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(status, headers=named, json={"error": error or {}}, request=request)
    client = openai.OpenAI(api_key="secret-key", base_url="http://provider/v1")
    return client._make_status_error_from_response(response)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 529])
def test_tried_again(status: int) -> None:
    again = classify(openai_error(status, retry_after="2.5"), "openai")
    assert isinstance(again, RetryableError)
    assert (again.code, again.retry_after) == (status, 2.5)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_terminal(status: int) -> None:
    error = classify(openai_error(status, {"message": "bad", "code": "why"}, x_request_id="req_1"), "openai")
    assert isinstance(error, TerminalError)
    assert error.code == status
    assert error.metadata == {"provider": "openai", "status": str(status), "request_id": "req_1", "type": "why"}
    assert "bad" in error.message
    assert "secret-key" not in error.message


def test_a_used_up_quota_is_terminal_and_a_rate_limit_is_not() -> None:
    used_up = classify(openai_error(429, {"code": "insufficient_quota", "message": "pay"}), "openai")
    assert isinstance(used_up, TerminalError)
    assert used_up.code == 429
    assert isinstance(classify(openai_error(429, {"code": "rate_limit_exceeded"})), RetryableError)


def test_the_provider_has_the_last_word() -> None:
    assert isinstance(classify(openai_error(400, x_should_retry="true")), RetryableError)
    assert isinstance(classify(openai_error(429, x_should_retry="false")), TerminalError)
    assert isinstance(classify(openai_error(500, x_should_retry="false")), RetryableError)


@pytest.mark.parametrize(
    "error",
    [
        ApiError(status_code=503),
        ApiError(code=503),  # google-genai
        ApiError(status=503),  # aiohttp
        ApiError(response=SimpleNamespace(status_code=503, headers={})),  # httpx
        ApiError(response={"ResponseMetadata": {"HTTPStatusCode": 503, "HTTPHeaders": {}}}),  # botocore
    ],
)
def test_the_status_is_found_wherever_it_is(error: Exception) -> None:
    assert status_of(error) == 503
    assert isinstance(classify(error), RetryableError)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("gone"),
        TimeoutError(),
        httpx2.ConnectError("refused"),
        httpx2.RemoteProtocolError("peer closed connection without sending complete message body"),
        httpx2.ReadTimeout("slow"),
        openai.APIConnectionError(request=httpx2.Request("GET", "http://provider")),
        openai.APITimeoutError(httpx2.Request("GET", "http://provider")),
    ],
)
def test_connections_that_fail_are_tried_again(error: Exception) -> None:
    assert isinstance(classify(error, "p"), RetryableError)


@pytest.mark.parametrize(
    "error", [ValueError("bug"), KeyError("x"), ApiError(code="invalid"), ApiError(status_code=200)]
)
def test_what_is_no_error_of_a_provider_is_left_alone(error: Exception) -> None:
    assert classify(error) is None


def test_wrapped_errors_are_looked_into() -> None:
    wrapped = RuntimeError("agent failed")
    wrapped.__cause__ = openai_error(401)
    assert isinstance(classify(wrapped), TerminalError)
    terminal = TerminalError("mine", 418)
    wrapped.__cause__ = terminal
    assert classify(wrapped) is terminal
    assert isinstance(classify(ExceptionGroup("one", [openai_error(429)])), RetryableError)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "1500", "retry-after": "99"}, 1.5),
        ({"date": "Wed, 21 Oct 2026 07:28:00 GMT", "retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, 30.0),
        ({"date": "Wed, 21 Oct 2026 07:28:00 GMT", "retry-after": "Wed, 21 Oct 2026 07:27:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-reset-requests": "20ms"}, 360.0),
        (
            {
                "x-ratelimit-remaining-tokens": "900",
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "20ms",
            },
            0.02,
        ),
        ({}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_delay(headers) == seconds


def test_how_long_google_asks_to_wait() -> None:
    body = {
        "error": {"code": 429, "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}]}
    }
    assert asked_delay({}, body) == 34.0
    error = classify(ApiError(code=429, details=[body]))
    assert isinstance(error, RetryableError)
    assert error.retry_after == 34.0


def test_a_page_of_html_is_cut() -> None:
    error = classify(ApiError("<html>" * 10_000, status_code=404))
    assert isinstance(error, TerminalError)
    assert len(error.message) < 5000
