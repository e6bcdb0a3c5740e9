"""Listeners over TLS, and certificates that are refused before anything listens."""

import asyncio
import logging
import os
import sys
from pathlib import Path

import pyqwest
import pytest

from perdure.errors import Invalid
from perdure.web.listener import Listener
from perdure.web.tls import load_tls
from tests.certificates import make_certificate
from tests.web.test_listener import app


@pytest.mark.parametrize("version", [pyqwest.HTTPVersion.HTTP1, pyqwest.HTTPVersion.HTTP2, None])
def test_both_versions_over_tls(version: pyqwest.HTTPVersion | None, tmp_path: Path) -> None:
    made = make_certificate(tmp_path)

    async def scenario() -> None:
        listener = Listener(app, "127.0.0.1", 0, load_tls(str(made.certificate), str(made.key)))
        listener.start()
        assert listener.url == f"https://127.0.0.1:{listener.port}"
        authorities = made.certificate.read_bytes()
        transport = pyqwest.HTTPTransport(http_version=version, tls_ca_cert=authorities, enable_otel=False)
        async with transport:
            reply = await pyqwest.Client(transport).post(f"{listener.url}/a", content=b"x" * 100_000)
            number = b"1.1" if version == pyqwest.HTTPVersion.HTTP1 else b"2"
            assert (reply.status, reply.content) == (470, number + b" /a " + b"x" * 100_000)
        async with pyqwest.HTTPTransport(enable_otel=False) as in_clear_text:
            with pytest.raises((OSError, pyqwest.ReadError, pyqwest.RemoteProtocolError)):
                await pyqwest.Client(in_clear_text).get(f"http://127.0.0.1:{listener.port}/a")
        listener.close()
        assert await listener.closed(5)

    asyncio.run(scenario())


def test_certificates_that_are_refused(tmp_path: Path) -> None:
    made, other = make_certificate(tmp_path), make_certificate(tmp_path, "other")
    locked = make_certificate(tmp_path, "locked", password=b"hunter2")
    text = tmp_path / "text"
    text.write_text("no PEM")
    for certificate, key, says in (
        (tmp_path / "nowhere", made.key, r"tls_certificate: .*nowhere cannot be read: No such file"),
        (made.certificate, tmp_path / "nowhere", r"tls_key: .*nowhere cannot be read: No such file"),
        (made.certificate, tmp_path, r"tls_key: .* cannot be read"),
        (made.certificate, other.key, r"tls_key: .*other-key.pem is not the key of the certificate in .*server.pem"),
        (locked.certificate, locked.key, r"tls_key: .*locked-key.pem is encrypted; decrypt it: openssl"),
        (text, made.key, r"tls_certificate: .*text holds no certificate in PEM"),
        (made.certificate, text, r"tls_key: .*text holds no private key in PEM"),
        (made.key, made.key, r"tls_certificate: .* holds no certificate in PEM"),
    ):
        with pytest.raises(Invalid, match=says):
            load_tls(str(certificate), str(key))


@pytest.mark.skipif(sys.platform == "win32", reason="its files have no such permissions")
def test_a_key_that_others_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = make_certificate(tmp_path)
    with caplog.at_level(logging.WARNING, "perdure.web"):
        load_tls(str(made.certificate), str(made.key))
        assert not caplog.records
        os.chmod(made.key, 0o640)
        load_tls(str(made.certificate), str(made.key))
    assert [record.getMessage() for record in caplog.records] == [
        f"tls_key: {made.key} can be read by others than its owner; chmod 600 it"
    ]


def test_a_certificate_that_has_ended_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = make_certificate(tmp_path, days=-1)
    load_tls(str(made.certificate), str(made.key))
    assert [record.getMessage().partition(" on ")[0] for record in caplog.records] == [
        f"tls_certificate: {made.certificate} ended"
    ]
