"""Services that come with every engine, made of the same handlers as anybody's."""

from perdure.builtin.approvals import approval_services
from perdure.builtin.sessions import session_service
from perdure.protocol.approvals import Links
from perdure.sdk.service import AnyService

__all__ = ["builtin_services"]


def builtin_services(links: Links | None = None) -> list[AnyService]:
    """What an engine serves by itself; `links` signs the links to approvals."""
    return [*approval_services(links), session_service()]
