"""Requests that the server signs, and endpoints that check who asks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from perdure.protocol.identity import public_key_of, public_key_text
from tests.conformance.deployed import Deployed, Stack
from tests.conformance.endpoints import Options
from tests.conformance.servers import SERVERS, Server

SECRET = bytes(range(32))
STRANGER = bytes(32)


@pytest.fixture
def signing(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of its own, with a key that is known."""
    pem = Ed25519PrivateKey.from_private_bytes(SECRET).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "server" / "data").mkdir(parents=True)
    key = tmp_path / "server" / "data" / "identity.pem"  # where perdure looks for it
    if stack.engine == "restate":
        key = tmp_path / "identity.pem"
        monkeypatch.setenv("RESTATE_WORKER__INVOKER__REQUEST_IDENTITY_PRIVATE_KEY_PEM_FILE", str(key))
    key.write_bytes(pem)
    server = SERVERS[stack.engine](tmp_path / "server")
    server.start()
    yield server
    server.kill()


def deployed(stack: Stack, server: Server, secret: bytes, monkeypatch: pytest.MonkeyPatch) -> Deployed:
    """An endpoint that answers whoever holds the key."""
    monkeypatch.setenv("IDENTITY_KEYS", public_key_text(public_key_of(secret)))
    return Deployed(server, stack.start_endpoint(Options()))


@pytest.mark.sdks("perdure")
def test_an_endpoint_answers_the_server_that_it_knows(
    stack: Stack, signing: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = deployed(stack, signing, SECRET, monkeypatch)
    on.register()
    assert on.value("Echo/echo", "hello") == "hello"
    assert on.value("Counter/a%20key%C3%A9/add", 2) == 2
    on.endpoint.kill()


@pytest.mark.sdks("perdure")
def test_an_endpoint_does_not_answer_a_stranger(stack: Stack, signing: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    on = deployed(stack, signing, STRANGER, monkeypatch)
    answer = on.admin("POST", "/deployments", on.endpoint.registration())
    assert answer.status >= 400
    assert b"401" in answer.body
    on.endpoint.kill()
