"""What is said about approvals: the question, the answer, what is stored of both, and the tokens in links.

An approval is a virtual object, `PerdureApprovals/{id}`, whose state is one `Approval`. Who asks opens it and waits for
an awakeable; who answers has it checked there. These are its messages, as JSON; times are ms since the epoch.
"""

import base64
import hashlib
import hmac
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

import msgspec

from perdure.errors import NotFound, Unauthorized

__all__ = [
    "APPROVALS",
    "CLOSED_SHARDS",
    "INDEX",
    "OPEN_SHARDS",
    "STATE",
    "Action",
    "Answer",
    "Approval",
    "Closing",
    "Escalated",
    "Links",
    "Opened",
    "Question",
    "Status",
    "Verdict",
    "approval_id",
    "closed_key",
    "closed_keys",
    "open_key",
    "open_keys",
    "shown",
]

APPROVALS: Final = "PerdureApprovals"
INDEX: Final = "PerdureApprovalIndex"
OPEN_SHARDS: Final = 32
CLOSED_SHARDS: Final = 4
"""The index is several objects, by the approval's id: so they work side by side, and the state of each is small."""
STATE: Final = "approval"
"""The key of an approval's state that holds it."""
DAY_MS: Final = 24 * 60 * 60 * 1000
LINK_LIFE_MS: Final = 30 * DAY_MS
"""How long a link works, at most."""

Status: TypeAlias = Literal["open", "approved", "rejected", "expired", "withdrawn"]
Action: TypeAlias = Literal["answer", "approve", "reject"]
"""What a link lets its bearer do."""


class Question(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is asked, by whom, and of whom."""

    title: str
    awakeable: str
    """What the answer completes."""
    invocation: str
    """Who waits: when it ends, nobody needs an answer."""
    service: str = ""
    handler: str = ""
    key: str | None = None
    schema: dict[str, Any] | None = None
    """The JSON schema of an approval's value; None: it has none."""
    context: Any = None
    """What a person has to see to decide."""
    expires_at: int | None = None
    to: list[str] = []
    tags: list[str] = []
    problem: str | None = None
    """Why it is asked once more: what the last answer's value lacked."""


class Approval(Question, kw_only=True, omit_defaults=True):
    """A question and what became of it."""

    id: str
    status: Status = "open"
    created_at: int = 0
    escalations: int = 0
    value: Any = None
    comment: str | None = None
    by: str | None = None
    closed_at: int | None = None
    watcher: str | None = None
    """The invocation that waits for the end of who asks."""


class Opened(msgspec.Struct):
    """The links to an approval, by what they allow; none where there is no page to link to."""

    id: str
    links: dict[Action, str] = {}


class Answer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a person says. `value` counts only if it is approved."""

    approved: bool
    value: Any = msgspec.UNSET
    comment: str | None = None
    by: str | None = None


class Verdict(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the awakeable is completed with."""

    approved: bool
    value: Any = None
    comment: str | None = None
    by: str | None = None
    at: int = 0


class Closing(msgspec.Struct):
    """Nobody waits any more: the time is over, or who asked has ended or given up."""

    status: Literal["expired", "withdrawn"]
    awakeable: str | None = None
    """Which question is meant; None: whichever is open."""
    from_watcher: bool = False


class Escalated(msgspec.Struct):
    """Others are asked too."""

    to: list[str] = []


def approval_id(awakeable: str) -> str:
    """The id of the approval that was first asked with this awakeable."""
    return f"apr_{hashlib.sha256(awakeable.encode()).hexdigest()[:24]}"


def open_keys() -> list[str]:
    """The index's keys for what is open."""
    return [f"open/{shard}" for shard in range(OPEN_SHARDS)]


def open_key(id: str) -> str:
    """The one that an approval is under while it is open."""
    return f"open/{zlib.crc32(id.encode()) % OPEN_SHARDS}"


def closed_keys(at: int) -> list[str]:
    """The index's keys for what was closed on the day of that time."""
    day = f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d}"
    return [f"{day}/{shard}" for shard in range(CLOSED_SHARDS)]


def closed_key(at: int, id: str) -> str:
    """The one that an approval is under when it was closed at that time."""
    return closed_keys(at)[zlib.crc32(id.encode()) % CLOSED_SHARDS]


def shown(approval: Approval) -> dict[str, Any]:
    """An approval as it is told to people and programs: times are RFC 3339."""
    it = approval
    return {
        "id": it.id,
        "status": it.status,
        "title": it.title,
        "context": it.context,
        "schema": it.schema,
        "requester": {
            "invocation_id": it.invocation,
            "service": it.service,
            "handler": it.handler,
            "key": it.key,
        },
        "to": it.to,
        "tags": it.tags,
        "escalations": it.escalations,
        "problem": it.problem,
        "created_at": _time(it.created_at),
        "expires_at": _time(it.expires_at),
        "closed_at": _time(it.closed_at),
        "value": it.value,
        "comment": it.comment,
        "by": it.by,
    }


def _time(at: int | None) -> str | None:
    if at is None:
        return None
    return f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%dT%H:%M:%S}.{at % 1000:03}Z"


# ---- links


class Links:
    """Makes and reads the tokens of links: `{action}.{expiry}.{mac}`, the mac over all of it and the approval's id.

    `secret` gives the key, `base` the address people reach the ingress at. Whoever knows a link may do what it allows,
    until it expires or somebody has answered.
    """

    def __init__(self, secret: Callable[[], bytes], base: Callable[[], str | None]) -> None:
        self._secret = secret
        self._base = base

    def links(self, id: str, now: int, expires_at: int | None) -> dict[Action, str]:
        """Links to an approval's page; none if there is no address."""
        base = self._base()
        if base is None:
            return {}
        until = min(now + LINK_LIFE_MS, expires_at or now + LINK_LIFE_MS)
        where = f"{base.rstrip('/')}/restate/approvals/{id}?token="
        actions: Sequence[Action] = ("answer", "approve", "reject")
        return {action: where + self.token(id, action, until) for action in actions}

    def token(self, id: str, action: Action, expires_at: int) -> str:
        """The token that allows an action until then."""
        return f"{action}.{expires_at:x}.{self._mac(id, action, f'{expires_at:x}')}"

    def allowed(self, id: str, token: str, now: int) -> Action:
        """What a token allows. Raises `Unauthorized` for one that is not ours, `NotFound` for one that has expired."""
        action, _, rest = token.partition(".")
        expiry, _, mac = rest.partition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(id, action, expiry).encode()):
            raise Unauthorized("this link is not valid: it was cut off or changed")
        if now >= int(expiry, 16):
            raise NotFound("this link has expired")
        return action  # type: ignore[return-value]  # nobody else could sign another

    def _mac(self, id: str, action: str, expiry: str) -> str:
        said = "\0".join(("perdure approval", id, action, expiry)).encode()
        return base64.urlsafe_b64encode(hmac.digest(self._secret(), said, "sha256")).rstrip(b"=").decode()
