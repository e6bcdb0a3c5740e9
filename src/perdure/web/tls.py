"""The certificate with which a listener proves who it is, looked at before it is used."""

import logging
import os
import ssl
import stat
import sys
from pathlib import Path
from typing import NamedTuple

from perdure.errors import Invalid
from perdure.runtime.clock import wall_clock_ms
from perdure.web.http import format_time_ms

__all__ = ["Tls", "load_tls"]

logger = logging.getLogger("perdure.web")


class Tls(NamedTuple):
    """Two PEM files that belong together."""

    certificate: Path
    key: Path


class _Encrypted(Exception):
    pass


def load_tls(certificate: str, key: str) -> Tls:
    """The two, if a server can use them. Raises `Invalid` naming the setting; warns of a key that others can read."""
    tls = Tls(Path(certificate), Path(key))
    for name, path in (("tls_certificate", tls.certificate), ("tls_key", tls.key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise Invalid(f"{name}: {path} cannot be read: {error.strerror or error}") from None

    def asked() -> str:
        raise _Encrypted

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=asked)
    except _Encrypted:
        raise Invalid(f"tls_key: {tls.key} is encrypted; decrypt it: openssl pkey -in {tls.key} -out NEW") from None
    except ssl.SSLError as error:
        raise Invalid(_why(tls, error)) from None
    if sys.platform != "win32" and os.stat(tls.key).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning("tls_key: %s can be read by others than its owner; chmod 600 it", tls.key)
    ends = _ends_ms(tls.certificate)
    if ends <= wall_clock_ms():
        logger.warning("tls_certificate: %s ended on %s; clients will refuse it", tls.certificate, format_time_ms(ends))
    return tls


def _ends_ms(certificate: Path) -> int:
    from cryptography.x509 import load_pem_x509_certificates

    return int(load_pem_x509_certificates(certificate.read_bytes())[0].not_valid_after_utc.timestamp() * 1000)


def _why(tls: Tls, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"tls_key: {tls.key} is not the key of the certificate in {tls.certificate}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(tls.certificate)
    except ssl.SSLError:
        return f"tls_certificate: {tls.certificate} holds no certificate in PEM"
    return f"tls_key: {tls.key} holds no private key in PEM ({error.reason or error})"
