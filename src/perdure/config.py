"""The settings of a server, and the only reader of environment variables.

Every setting has a variable, `PERDURE_` and its name in capitals (`PERDURE_INGRESS_PORT=8081`). What is given on the
command line comes before the environment, and the environment before the default.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from perdure.errors import Invalid

__all__ = ["Config"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data_dir: str = "perdure-data"
    """Where everything is stored. One process at a time."""
    host: str = "127.0.0.1"
    """The address both ports listen at. There is no authentication: only where you trust the network is it not
    loopback."""
    ingress_port: int = 8080
    """Where handlers are called. 0: a free port."""
    admin_port: int = 9070
    """Where invocations and state are looked after, and health is asked. 0: a free port."""
    partitions: int | None = None
    """How many parts the work is cut into, each with a file of its own; for the life of the data directory. 1."""
    request_size_limit: int = 32 * 1024 * 1024
    """Bytes of a request's body above which it is refused (413)."""
    concurrency_limit: int | None = None
    """Requests at once above which more are refused (429), those that wait for a result counted."""
    attempt_limit: int = 1000
    """Handlers that run at once; the others wait."""
    remote_attempt_limit: int = 4000
    """Attempts at once on deployments elsewhere; the others wait."""
    message_size_limit: int = 32 * 1024 * 1024
    """Bytes of a message from an endpoint above which the attempt fails (RT0003)."""
    protocol_version: int = 6
    """The newest version of the service protocol (5 to 7) that is spoken with endpoints elsewhere. 7 has more messages
    for the same work, and restate-server does not speak it by default either."""
    connect_timeout_seconds: float = 10.0
    """How long connecting to an endpoint may take."""
    identity_key: str | None = None
    """The private key (a file, PEM, Ed25519) that signs requests to endpoints. Default: identity.pem beside the data,
    made when it is first needed."""
    public_url: str | None = None
    """The address at which people reach the ingress, for links to approvals. Default: where it listens. Links are
    signed with a secret made of `identity_key`, so servers that share it accept each other's."""
    drain_seconds: float = 5.0
    """How long open requests may take to end when the server stops."""
    stop_grace_seconds: float = 10.0
    """How long after that handlers may take to come to rest; what is cut off goes on at the next start."""
    lag_threshold_seconds: float = 0.5
    """Whoever holds up the event loop for longer is named in the log."""

    def __post_init__(self) -> None:
        for name in ("ingress_port", "admin_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise Invalid(f"{name} must be from 0 to 65535, not {getattr(self, name)}")
        if self.ingress_port == self.admin_port != 0:
            raise Invalid(f"ingress_port and admin_port are both {self.ingress_port}: they must differ")
        if self.public_url is not None and not self.public_url.startswith(("http://", "https://")):
            raise Invalid(f"public_url {self.public_url!r} has to begin with http:// or https://")
        if not 5 <= self.protocol_version <= 7:
            raise Invalid(f"protocol_version must be from 5 to 7, not {self.protocol_version}")
        limits = ("attempt_limit", "remote_attempt_limit", "request_size_limit", "message_size_limit")
        for name in ("partitions", "concurrency_limit", *limits):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise Invalid(f"{name} must be at least 1, not {value}")
        for name in ("drain_seconds", "stop_grace_seconds"):
            if getattr(self, name) < 0:
                raise Invalid(f"{name} must not be negative")
        for name in ("lag_threshold_seconds", "connect_timeout_seconds"):
            if getattr(self, name) <= 0:
                raise Invalid(f"{name} must be more than 0")

    @property
    def identity_path(self) -> Path:
        """Where the private key that signs requests is."""
        return Path(self.identity_key or Path(self.data_dir, "identity.pem"))

    @classmethod
    def load(cls, given: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> "Config":
        """What is `given` and not None, then the environment, then defaults. Raises `Invalid` naming the setting."""
        environ = os.environ if environ is None else environ
        settings: dict[str, Any] = {}
        for field in msgspec.structs.fields(cls):
            variable = f"PERDURE_{field.name.upper()}"
            if (value := (given or {}).get(field.name)) is not None:
                settings[field.name] = value
            elif text := environ.get(variable):
                try:
                    settings[field.name] = msgspec.convert(text, field.type, strict=False)
                except msgspec.ValidationError as error:
                    raise Invalid(f"environment variable {variable}={text!r}: {error}") from None
        try:
            return msgspec.convert(settings, cls)
        except msgspec.ValidationError as error:
            raise Invalid(str(error)) from None
