"""Where services are served, other than in this process: addresses, what is spoken there, and revisions of services."""

import enum
from typing import NamedTuple, TypeAlias

import msgspec

from perdure.errors import Invalid
from perdure.model.services import ServiceInfo

__all__ = [
    "AsgiEndpoint",
    "Deployment",
    "Endpoint",
    "FunctionArn",
    "HttpEndpoint",
    "LambdaEndpoint",
    "ProtocolMode",
    "Revision",
    "parse_function_arn",
]


class ProtocolMode(enum.StrEnum):
    """Whether an attempt is a conversation, or one request with all that is known and one response."""

    BIDI_STREAM = "BIDI_STREAM"
    REQUEST_RESPONSE = "REQUEST_RESPONSE"


class HttpEndpoint(msgspec.Struct, frozen=True, omit_defaults=True, tag="http"):
    """`uri` has no slash at its end. `http_version` is "1.1" or "2": what the endpoint was found to speak."""

    uri: str
    http_version: str = "2"

    @property
    def address(self) -> str:
        return self.uri


class LambdaEndpoint(msgspec.Struct, frozen=True, omit_defaults=True, tag="lambda"):
    """An AWS Lambda function, by an ARN that names a version or an alias."""

    arn: str
    assume_role_arn: str | None = None
    compression: str | None = None

    @property
    def address(self) -> str:
        return self.arn


class FunctionArn(NamedTuple):
    """What the ARN of a Lambda function says. `qualifier` is a version or an alias."""

    partition: str
    region: str
    account: str
    name: str
    qualifier: str


def parse_function_arn(text: str) -> FunctionArn:
    """`arn:aws:lambda:REGION:ACCOUNT:function:NAME:VERSION`, its parts. Raises `Invalid`."""
    parts = text.split(":")
    if len(parts) != 8 or [parts[0], parts[2], parts[5]] != ["arn", "lambda", "function"] or not all(parts):
        raise Invalid(
            f"{text!r} has to name a version or an alias: arn:aws:lambda:REGION:ACCOUNT:function:NAME:VERSION"
        )
    return FunctionArn(parts[1], parts[3], parts[4], parts[6], parts[7])


class AsgiEndpoint(msgspec.Struct, frozen=True, omit_defaults=True, tag="asgi"):
    """An ASGI application of this process, by the name it was given when the process started; never stored."""

    name: str

    @property
    def address(self) -> str:
        return f"asgi:{self.name}"


Endpoint: TypeAlias = HttpEndpoint | LambdaEndpoint | AsgiEndpoint


class Revision(msgspec.Struct, frozen=True):
    """A service as one deployment has it. The highest number is the service's latest."""

    number: int
    info: ServiceInfo


class Deployment(msgspec.Struct, frozen=True, omit_defaults=True):
    """An endpoint that serves services. `created_at` is ms since the epoch, `oldest` and `newest` are the versions of
    the protocol it speaks, `headers` go along with every request to it."""

    id: str
    endpoint: Endpoint
    mode: ProtocolMode
    oldest: int
    newest: int
    created_at: int
    revisions: dict[str, Revision]
    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}
    sdk: str | None = None

    @property
    def stored(self) -> bool:
        """Whether it outlives the process; only to such ones are invocations pinned."""
        return not isinstance(self.endpoint, AsgiEndpoint)
