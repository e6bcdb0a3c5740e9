"""The server's identity key: a file that is made once, and what is signed with it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from perdure.errors import Invalid, Unauthorized
from perdure.protocol.identity import parse_public_key, verify
from perdure.runtime.identity import REUSE_SECONDS, Identity

ROOT = Path(__file__).parent.parent.parent
AT = 1_700_000_000_000
PATH = "/invoke/greeter/greet"


def test_the_key_is_made_once_and_is_nobody_elses(tmp_path: Path) -> None:
    file = tmp_path / "identity.pem"
    identity = Identity(file)
    assert not file.exists(), "it is made when it is first needed"
    key = identity.public_key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key.startswith("publickeyv1_") and len(parse_public_key(key)) == 32
    assert Identity(file).public_key == key == identity.public_key
    assert os.listdir(tmp_path) == ["identity.pem"]


def test_what_a_start_that_was_cut_off_left_behind_is_in_nobodys_way(tmp_path: Path) -> None:
    """In a container a process has the same number each time."""
    (tmp_path / f"identity.pem.{os.getpid()}").write_bytes(b"half a k")
    assert Identity(tmp_path / "identity.pem").public_key


def test_processes_that_make_it_at_once_have_the_same(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from perdure.runtime.identity import Identity; sys.stdin.read(1);"
        "print(Identity(pathlib.Path(sys.argv[1])).public_key)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "identity.pem")]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    try:
        for process in started:
            assert process.stdin is not None
            process.stdin.write("x")
            process.stdin.flush()
        keys = {process.communicate(timeout=20)[0] for process in started}
    finally:
        for process in started:
            process.kill()
            process.wait(10)
    assert len(keys) == 1 and keys.pop().startswith("publickeyv1_")
    assert os.listdir(tmp_path) == ["identity.pem"]


PKCS8 = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()


@pytest.mark.parametrize(
    "content",
    [b"", b"no key", ec.generate_private_key(ec.SECP256R1()).private_bytes(*PKCS8)],
    ids=["empty", "text", "another algorithm"],
)
def test_a_file_that_is_no_key_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "identity.pem"
    file.write_bytes(content)
    with pytest.raises(Invalid, match=r"identity\.pem: "):
        Identity(file).sign(PATH, None, AT)
    assert file.read_bytes() == content


def test_a_key_that_was_made_elsewhere_is_used(tmp_path: Path) -> None:
    file = tmp_path / "identity.pem"
    key = ed25519.Ed25519PrivateKey.generate()
    file.write_bytes(key.private_bytes(*PKCS8))
    assert parse_public_key(Identity(file).public_key) == key.public_key().public_bytes_raw()


def test_what_is_signed_can_be_verified_and_nothing_else(tmp_path: Path) -> None:
    identity = Identity(tmp_path / "identity.pem")
    keys = [parse_public_key(identity.public_key)]
    headers = identity.sign(PATH, "key", AT)
    verify(headers, f"/mounted/here{PATH}", keys, AT / 1000)
    for path, known, now in (
        ("/invoke/greeter/other", keys, AT / 1000),
        (PATH, [parse_public_key(Identity(tmp_path / "other.pem").public_key)], AT / 1000),
        (PATH, keys, AT / 1000 + 61),
    ):
        with pytest.raises(Unauthorized):
            verify(headers, path, known, now)


def test_a_token_is_used_again_for_a_while_and_good_all_that_time(tmp_path: Path) -> None:
    identity = Identity(tmp_path / "identity.pem")
    keys = [parse_public_key(identity.public_key)]
    tokens = set()
    for second in range(0, 10 * REUSE_SECONDS):
        now_ms = AT + 1000 * second
        headers = identity.sign(PATH, None, now_ms)
        tokens.add(headers["x-restate-jwt-v1"])
        for skew in (-39, 0, 39):  # of the endpoint's clock, and of the way there
            verify(headers, PATH, keys, now_ms / 1000 + skew)
    assert len(tokens) in (10, 11)
    assert identity.sign(PATH, "a", AT) != identity.sign(PATH, "b", AT) != identity.sign(PATH, None, AT)
