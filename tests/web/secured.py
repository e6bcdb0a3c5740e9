"""Both ports over a node that only records what it is asked, with a key of every kind."""

import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from msgspec.structs import replace

from perdure.model.actions import Accepted, Description, Done
from perdure.model.entries import Value
from perdure.model.invocation import Completed, Invocation, Target
from perdure.model.keys import ENTROPY_BYTES, ApiKey, Role, make_key
from perdure.model.services import HandlerKind
from perdure.protocol.approvals import Links
from perdure.runtime.clock import VirtualClock
from perdure.runtime.keys import Keyring
from perdure.runtime.node import Node
from perdure.sql.pool import Queries
from perdure.web.admin import Admin
from perdure.web.audit import Audit
from perdure.web.ingress import Ingress
from perdure.web.security import Guard, Sources
from tests.web.fakes import ID, FakeNode, Web

NOW = 1_700_000_000_000
CREDENTIALS = ("none", "garbage", "revoked", "expired", *Role)
DESCRIPTION = Description(
    Invocation(7, ID, Target("Counter", "add", HandlerKind.EXCLUSIVE, "k"), Completed(5, Value(b"1")), NOW), ()
)


def _made(number: int, name: str, role: Role) -> tuple[ApiKey, str]:
    return make_key(bytes([number]) * ENTROPY_BYTES, name, role, NOW - 10)


KEYS = {role.value: _made(number, f"my {role}", role) for number, role in enumerate(Role)}
REVOKED, EXPIRED = _made(100, "old", Role.ADMIN), _made(101, "late", Role.ADMIN)
TEXTS = {name: text for name, (_, text) in KEYS.items()} | {"revoked": REVOKED[1], "expired": EXPIRED[1]}


def shown(credential: str) -> tuple[tuple[str, str], ...]:
    """The header that goes with a kind of credential."""
    if credential == "none":
        return ()
    text = TEXTS.get(credential, "perdure_" + "a" * 16 + "_" + "b" * 52)
    return (("authorization", f"Bearer {text}"),)


class KeyNode(FakeNode):
    """Does nothing, and says so of everything."""

    def __init__(self, keys: Sequence[ApiKey] | None = None) -> None:
        super().__init__()
        every = [key for key, _ in KEYS.values()]
        every += [replace(REVOKED[0], revoked_at=NOW - 5), replace(EXPIRED[0], expires_at=NOW)]
        self.keyring = Keyring(every if keys is None else keys)
        self.clock = VirtualClock(NOW)
        self.started_at = NOW

    async def _respond(self, *asked: Any) -> Any:
        self.asked.append(asked)
        if isinstance(self.answer, BaseException):
            raise self.answer
        match asked[0]:
            case "send":
                return Accepted(ID, True)
            case "describe":
                return DESCRIPTION
            case "state":
                return {}
            case "call" | "attach" | "output":
                return self.answer
        return Done()

    async def create_key(self, name: str, role: Role, lasts_ms: int | None = None) -> tuple[ApiKey, str]:
        self.asked.append(("create_key", name, role, lasts_ms))
        return _made(102, name, role)

    async def revoke_key(self, id: str) -> Done:
        self.asked.append(("revoke_key", id))
        return Done()


class NoQueries:
    """Answers SQL with nothing."""

    async def answer(self, sql: str, format: Literal["json", "arrow"]) -> AsyncGenerator[bytes, None]:
        yield b'{"rows":[]}'


class Ports:
    """`admin` and `ingress` over one node. With a `log`, that file is their audit log, until `close`."""

    def __init__(
        self, node: KeyNode | None = None, *, asks: bool = True, hosts: Sequence[str] = (), log: Path | None = None
    ) -> None:
        self.node = KeyNode() if node is None else node
        keyring = self.node.keyring if asks else None
        clock = self.node.clock
        self._log = log
        self._audit = Audit(clock, None if log is None else str(log))
        real = cast(Node, self.node)
        links = Links(lambda: b"a key for tests", lambda: "http://localhost")
        ingress = Ingress(real, guard=Guard("ingress", keyring, clock, self._audit), links=links)
        self.app = Admin(
            real,
            version="1.2.3",
            queries=cast(Queries, NoQueries()),
            guard=Guard("admin", keyring, clock, self._audit),
            sources=Sources(hosts, loopback=True),
            ingress=ingress,
        )
        self.admin = Web(self.app)
        self.ingress = Web(ingress)
        self._read = 0

    def lines(self) -> list[dict[str, Any]]:
        """What was written to the audit log since it was last asked for."""
        assert self._log is not None
        lines = self._log.read_text().splitlines()
        fresh = lines[self._read :]
        self._read = len(lines)
        return [json.loads(line) for line in fresh]

    def close(self) -> None:
        self._audit.close()
