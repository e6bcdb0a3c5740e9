"""perdure: a durable execution engine for AI agents.

Everything public is here by name. `Engine`, `Client`, `SyncClient` and `ReplaySafeTracerProvider` are loaded when they
are first asked for, so that a handler's process does not pay for an engine it does not run.
"""

from typing import TYPE_CHECKING, Any

from perdure.errors import (
    Conflict,
    Forbidden,
    Invalid,
    JournalMismatch,
    NonDurableOperation,
    NotFound,
    NotReady,
    PerdureError,
    ProtocolError,
    RequestError,
    RetryableError,
    StorageError,
    TerminalError,
    Unauthorized,
    Unavailable,
)
from perdure.model.services import RetryPolicy
from perdure.sdk.app import App
from perdure.sdk.approvals import ApprovalRequest, ApprovalTimeout, Decision, Escalation
from perdure.sdk.context import (
    Awakeable,
    Context,
    DurablePromise,
    InvocationHandle,
    ObjectContext,
    SharedContext,
    WorkflowContext,
    current_context,
)
from perdure.sdk.logs import JsonFormatter, TextFormatter, is_replaying, setup_logging
from perdure.sdk.saga import Saga, SagaError
from perdure.sdk.serde import Serde, SerdeError
from perdure.sdk.service import Service, VirtualObject, Workflow
from perdure.sdk.steps import StepInfo, current_step
from perdure.sdk.streams import Stream, current_stream
from perdure.sdk.threads import SyncContext, SyncObjectContext, SyncSharedContext, SyncWorkflowContext

if TYPE_CHECKING:
    from perdure.embedded import Engine
    from perdure.sdk.client import Client, SyncClient
    from perdure.sdk.otel import ReplaySafeTracerProvider
    from perdure.sdk.reading import Regenerated, StreamChunk

__version__ = "0.1.0"

__all__ = [
    "App",
    "ApprovalRequest",
    "ApprovalTimeout",
    "Awakeable",
    "Client",
    "Conflict",
    "Context",
    "Decision",
    "DurablePromise",
    "Engine",
    "Escalation",
    "Forbidden",
    "Invalid",
    "InvocationHandle",
    "JournalMismatch",
    "JsonFormatter",
    "NonDurableOperation",
    "NotFound",
    "NotReady",
    "ObjectContext",
    "PerdureError",
    "ProtocolError",
    "Regenerated",
    "ReplaySafeTracerProvider",
    "RequestError",
    "RetryPolicy",
    "RetryableError",
    "Saga",
    "SagaError",
    "Serde",
    "SerdeError",
    "Service",
    "SharedContext",
    "StepInfo",
    "StorageError",
    "Stream",
    "StreamChunk",
    "SyncClient",
    "SyncContext",
    "SyncObjectContext",
    "SyncSharedContext",
    "SyncWorkflowContext",
    "TerminalError",
    "TextFormatter",
    "Unauthorized",
    "Unavailable",
    "VirtualObject",
    "Workflow",
    "WorkflowContext",
    "__version__",
    "current_context",
    "current_step",
    "current_stream",
    "is_replaying",
    "setup_logging",
]

_LATER = {
    "Engine": "perdure.embedded",
    "Client": "perdure.sdk.client",
    "SyncClient": "perdure.sdk.client",
    "ReplaySafeTracerProvider": "perdure.sdk.otel",
    "Regenerated": "perdure.sdk.reading",
    "StreamChunk": "perdure.sdk.reading",
}


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module 'perdure' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value
