"""What a query is told of the running node, beside the files it reads; goes from one process to the other."""

from typing import Literal

import msgspec

__all__ = ["Attempt", "DeploymentFacts", "Facts", "Query", "Refusal", "ServiceFacts"]


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """An attempt that runs now, since when, and where; `deployment` is None in this process."""

    id: bytes
    since: int
    deployment: str | None = None


class ServiceFacts(msgspec.Struct, frozen=True):
    """A service's latest revision. `deployment` is None for what this process serves."""

    name: str
    kind: str
    revision: int
    public: bool
    deployment: str | None = None


class DeploymentFacts(msgspec.Struct, frozen=True):
    id: str
    type: str
    endpoint: str
    created_at: int
    oldest: int
    newest: int
    services: list[str]
    sdk: str | None = None


class Facts(msgspec.Struct, frozen=True):
    attempts: list[Attempt] = []
    services: list[ServiceFacts] = []
    deployments: list[DeploymentFacts] = []


class Query(msgspec.Struct, frozen=True):
    """One query: `files` are the partitions, in order; `memory_limit` is bytes for sorting, joining and grouping."""

    sql: str
    format: Literal["json", "arrow"]
    files: list[str]
    facts: Facts
    memory_limit: int


class Refusal(msgspec.Struct, frozen=True):
    """Why there is no answer: an HTTP status and a message."""

    status: int
    message: str
