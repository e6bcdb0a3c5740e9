"""Who may ask: keys at both ports, and at the admin port also through which address and from which page.

A web page that somebody has open can send requests to their own machine. It cannot give itself a key, but where none is
asked for, it might change things: by a name of its own that it points at 127.0.0.1 (so `Host` is looked at), or with a
form or script on a page from elsewhere (so `Origin` is).
"""

import ipaddress
from collections.abc import Iterable
from typing import Final

from perdure.errors import Forbidden, RequestError, Unauthorized
from perdure.model.keys import GRANTS, ApiKey, Role
from perdure.runtime.clock import Clock
from perdure.runtime.keys import Keyring
from perdure.web.audit import Audit
from perdure.web.http import Request

__all__ = ["Guard", "Sources", "is_loopback"]

_AUTHORIZATION: Final = b"authorization"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name other than localhost is not looked up: False."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Asks for keys at one port, `ingress` or `admin`. Without a keyring everybody is let in, and nobody is known."""

    def __init__(self, port: str, keyring: Keyring | None, clock: Clock, audit: Audit) -> None:
        self._port = port
        self._keyring = keyring
        self._clock = clock
        self.audit = audit

    @property
    def asks(self) -> bool:
        """Whether a key is needed now."""
        return self._keyring is not None and self._keyring.required

    def admit(self, request: Request, need: Role) -> ApiKey | None:
        """The key that was shown, if it is good for `need`; None where none is asked for.

        Raises `Unauthorized` and `Forbidden`, which are in the audit log then.
        """
        keyring = self._keyring
        if keyring is None or not keyring.required:
            return None
        try:
            key = keyring.find(request.fields.get(_AUTHORIZATION), self._clock.now_ms())
        except Unauthorized as error:
            self.refuse(request, error)
            raise
        if need not in GRANTS[key.role]:
            enough = " or ".join(role for role in Role if need in GRANTS[role])
            refusal = Forbidden(f"this needs an API key with the role {enough}; {key.id} ({key.name}) has {key.role}")
            self.refuse(request, refusal, key)
            raise refusal
        return key

    def refuse(self, request: Request, error: RequestError, key: ApiKey | None = None) -> None:
        """Have a refusal in the audit log."""
        self.audit.refused(self._port, request, key, error)


class Sources:
    """Which values of `Host` and `Origin` are taken. `hosts` (a name, or name:port) are taken beside the usual ones.

    With `loopback` the usual ones are this machine's own, otherwise any: who listens elsewhere asks for keys instead.
    But once hosts are named, only these and this machine's own are taken.
    """

    def __init__(self, hosts: Iterable[str] = (), *, loopback: bool) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._any = not loopback and not self._hosts

    def check(self, request: Request) -> None:
        """Raises `Forbidden`."""
        host = request.fields.get(b"host")
        if host is not None and not self._any and not self._known(host):
            raise Forbidden(
                f"this server is not known as {_shown(host)}; "
                "if it is meant to be, put that into admin_allowed_hosts (PERDURE_ADMIN_ALLOWED_HOSTS)"
            )
        origin = request.fields.get(b"origin")
        if origin is not None:
            scheme, _, page = origin.partition(b"://")
            own = host is not None and page.lower() == host.lower()
            if scheme not in (b"http", b"https") or not (own or self._named(page.decode("latin-1").lower())):
                raise Forbidden(
                    f"a page of {_shown(origin)} may not ask this; "
                    "if it is meant to, put its host into admin_allowed_hosts (PERDURE_ADMIN_ALLOWED_HOSTS)"
                )

    def _known(self, host: bytes) -> bool:
        text = host.decode("latin-1").lower()
        return is_loopback(_name_of(text)) or self._named(text)

    def _named(self, text: str) -> bool:
        return text in self._hosts or _name_of(text) in self._hosts


def _name_of(host: str) -> str:
    """Without the port, and without the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _shown(text: bytes) -> str:
    return repr(text[:100].decode("latin-1"))
