"""With which key a command asks a server, and whose certificates it trusts.

The key is PERDURE_API_KEY, or in the file that --api-key-file (PERDURE_API_KEY_FILE) names. It is no option itself:
what is on a command line can be read by whoever lists processes.
"""

import os
from pathlib import Path
from typing import NamedTuple

from perdure.errors import Invalid

__all__ = ["Access", "access", "credentials", "read_access", "use"]


class Access(NamedTuple):
    """`authorities` are certificates in PEM. The files are where both are from, if they are from files."""

    key: str | None = None
    authorities: bytes | None = None
    key_file: str | None = None
    ca_file: str | None = None


def read_access(key_file: str | None, ca_file: str | None) -> Access:
    """Raises `Invalid` that names the file and shows nothing of what is in it."""
    authorities = None
    if ca_file is not None:
        from perdure.sdk.client import read_authorities

        authorities = read_authorities(ca_file)
    key = os.environ.get("PERDURE_API_KEY") or None
    where = "PERDURE_API_KEY"
    if key_file is not None:
        where = f"API key file {key_file}"
        try:
            key = Path(key_file).read_text("utf-8").strip()
        except OSError as error:
            raise Invalid(f"{where}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise Invalid(f"{where}: it holds no API key") from None
    if key is not None and not (key.isascii() and key.isprintable() and key and " " not in key):
        raise Invalid(f"{where}: it holds no API key")
    return Access(key, authorities, key_file, ca_file)


_used = Access()


def use(access: Access) -> None:
    """For the command that runs."""
    global _used
    _used = access


def access() -> Access:
    """What the command that runs was given."""
    return _used


def credentials() -> dict[str, str]:
    """The header that shows the key."""
    return {} if _used.key is None else {"authorization": f"Bearer {_used.key}"}
