"""Endpoints that are AWS Lambda functions: one Invoke call for a request, its payload JSON, the body in base64.

Needs `perdure[lambda]` (boto3), which finds credentials and region as it does everywhere: environment, profile, role.
"""

import asyncio
import base64
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from perdure.model.deployments import Endpoint, LambdaEndpoint, parse_function_arn
from perdure.transports.remote import Answer, Listener, Request
from perdure.transports.tasks import Tasks

__all__ = ["LambdaConnector"]

THREADS = 64
"""How many calls go on at once."""
EXPANDED_BYTES = 64 << 20
"""What a compressed answer may expand to."""
COMPRESS_BYTES = 3 << 20
"""A body from here on is compressed where the function can read that: a payload may have 6 MiB."""
MARGIN_SECONDS = 300
"""How long before the credentials of a role expire they are asked for anew."""
_THROTTLED = 429


class _Reply(msgspec.Struct, rename="camel"):
    status_code: int = 200
    headers: dict[str, str] | None = None
    body: str | None = None
    is_base64_encoded: bool = False


class LambdaConnector:
    """Used within one running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(THREADS, "perdure-lambda")
        self._clients: dict[tuple[str, str | None], tuple[Any, float]] = {}  # and until when each is good
        self._tasks = Tasks()

    def open(self, endpoint: Endpoint, request: Request, listener: Listener) -> "_LambdaStream":
        assert isinstance(endpoint, LambdaEndpoint)
        return _LambdaStream(self, endpoint, request, listener)

    async def fetch(self, endpoint: Endpoint, request: Request) -> Answer:
        assert isinstance(endpoint, LambdaEndpoint)
        return await self.invoke(endpoint, request, b"")

    async def invoke(self, endpoint: LambdaEndpoint, request: Request, body: bytes) -> Answer:
        """One call of the function. Raises `ConnectionError`."""
        return await self._loop.run_in_executor(self._threads, self._invoke, endpoint, request, body)

    def _invoke(self, endpoint: LambdaEndpoint, request: Request, body: bytes) -> Answer:
        headers = dict(request.headers)
        if endpoint.compression == "zstd":
            headers["accept-encoding"] = "zstd"
            if len(body) >= COMPRESS_BYTES:
                body = _zstd().ZstdCompressor().compress(body)
                headers["content-encoding"] = "zstd"
        payload = {
            "path": request.path,
            "httpMethod": request.method,
            "headers": headers,
            "body": base64.b64encode(body).decode(),
            "isBase64Encoded": True,
        }
        try:
            answer = self._client(endpoint).invoke(FunctionName=endpoint.arn, Payload=msgspec.json.encode(payload))
            text = answer["Payload"].read()
        except ConnectionError:
            raise
        except Exception as error:  # botocore has a class for each mishap, made when it is first met
            facts = getattr(error, "response", {}).get("ResponseMetadata", {})
            if facts.get("HTTPStatusCode") == _THROTTLED:
                wait = facts.get("HTTPHeaders", {}).get("retry-after")
                return Answer(_THROTTLED, {} if wait is None else {"retry-after": wait}, b"")
            raise ConnectionError(f"{endpoint.arn}: {type(error).__name__}: {error}") from error
        if answer.get("FunctionError"):
            raise ConnectionError(f"{endpoint.arn}: the function failed: {text[:1000].decode(errors='replace')}")
        return _answer(endpoint, text)

    def _client(self, endpoint: LambdaEndpoint) -> Any:
        key = (parse_function_arn(endpoint.arn).region, endpoint.assume_role_arn)
        client, until = self._clients.get(key, (None, 0.0))
        if time.monotonic() >= until:
            client, lifetime = _make_client(*key)
            self._clients[key] = (client, time.monotonic() + lifetime - MARGIN_SECONDS)
        return client

    def begin(self, stream: "_LambdaStream") -> "asyncio.Task[None]":
        return self._tasks.start(stream.run())

    async def close(self) -> None:
        await self._tasks.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _make_client(region: str, role: str | None) -> tuple[Any, float]:
    """A client, and for how many seconds it is good."""
    try:
        import boto3  # type: ignore[import-untyped,import-not-found,unused-ignore]
        from botocore.config import Config  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        raise ConnectionError("calling Lambda functions needs boto3: pip install 'perdure[lambda]'") from None
    # The partition repeats what fails; boto must not, for its repetitions would be seen by nobody.
    config = Config(retries={"total_max_attempts": 1}, read_timeout=900, max_pool_connections=THREADS)
    session = boto3.session.Session(region_name=region)
    lifetime = float("inf")
    if role is not None:
        answer = session.client("sts").assume_role(RoleArn=role, RoleSessionName="perdure")
        credentials = answer["Credentials"]
        asked = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        lifetime = (credentials["Expiration"] - asked).total_seconds()
        session = boto3.session.Session(
            region_name=region,
            aws_access_key_id=credentials["AccessKeyId"],
            aws_secret_access_key=credentials["SecretAccessKey"],
            aws_session_token=credentials["SessionToken"],
        )
    return session.client("lambda", config=config), lifetime


def _answer(endpoint: LambdaEndpoint, text: bytes) -> Answer:
    try:
        reply = msgspec.json.decode(text, type=_Reply)
        body = (reply.body or "").encode()
        if reply.is_base64_encoded:
            body = base64.b64decode(body, validate=True)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConnectionError(f"{endpoint.arn}: the answer is not that of an endpoint: {error}") from None
    headers = {name.lower(): value for name, value in (reply.headers or {}).items()}
    if headers.get("content-encoding") == "zstd":
        zstd = _zstd()
        try:
            body = zstd.ZstdDecompressor().stream_reader(body).read(EXPANDED_BYTES + 1)
        except zstd.ZstdError as error:
            raise ConnectionError(f"{endpoint.arn}: the answer is not that of an endpoint: {error}") from None
        if len(body) > EXPANDED_BYTES:
            raise ConnectionError(f"{endpoint.arn}: the answer expands to more than {EXPANDED_BYTES} bytes")
    return Answer(reply.status_code, headers, body)


def _zstd() -> Any:
    try:
        import zstandard  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise ConnectionError("this function speaks zstd: pip install 'perdure[lambda]'") from None
    return zstandard


class _LambdaStream:
    """Collects the request; calls the function once it is whole."""

    __slots__ = ("_body", "_connector", "_endpoint", "_listener", "_request", "_task", "unsent")

    def __init__(
        self, connector: LambdaConnector, endpoint: LambdaEndpoint, request: Request, listener: Listener
    ) -> None:
        self._connector = connector
        self._endpoint = endpoint
        self._request = request
        self._listener: Listener | None = listener
        self._body = bytearray()
        self._task: asyncio.Task[None] | None = None
        self.unsent = 0

    def write(self, data: bytes) -> None:
        self._body += data

    def close(self) -> None:
        if self._task is None and self._listener is not None:
            self._task = self._connector.begin(self)

    def abort(self) -> None:
        self._listener = None

    async def run(self) -> None:
        try:
            answer = await self._connector.invoke(self._endpoint, self._request, bytes(self._body))
        except ConnectionError as error:
            if self._listener is not None:
                self._listener.broken(str(error))
            return
        self._hand_over(answer.status, answer.headers, answer.body)

    def _hand_over(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        if self._listener is not None:
            self._listener.head(status, headers)
        if self._listener is not None and body:
            self._listener.data(body)
        if self._listener is not None:
            self._listener.end()
