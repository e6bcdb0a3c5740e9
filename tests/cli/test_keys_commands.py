"""`perdure keys`, on the data directory of a server that does not run."""

import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from perdure.storage.sqlite import SqliteStorage
from tests.cli.processes import perdure

KEY = re.compile(r"perdure_([a-z2-7]{16})_[a-z2-7]{52}\n")


def keys(*arguments: str, code: int = 0) -> Any:
    done = perdure("keys", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def create(folder: Path, *arguments: str) -> str:
    done = keys("create", "--data-dir", str(folder), "--role", "admin", "--name", "ci", *arguments)
    found = KEY.fullmatch(done.stdout)
    assert found is not None, "nothing but the key, so that it can go to a file"
    assert f"admin key {found[1]} (ci)" in done.stderr and found[0].strip() not in done.stderr
    return found[1]


def test_the_first_key_is_made_before_there_is_a_server(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    first, second = create(folder), create(folder, "--expires-in", "30d")
    listed = json.loads(keys("list", "--data-dir", str(folder), "--json").stdout)
    assert [(each["id"], each["status"], each["expires_at"] is None) for each in listed] == [
        (first, "active", True),
        (second, "active", False),
    ]
    done = keys("revoke", first, "nothing", "--data-dir", str(folder), code=1 + 2)
    assert done.stdout == f"{first} revoked\n" and done.stderr == "perdure: API key 'nothing' not found\n"
    table = keys("list", "--data-dir", str(folder)).stdout
    assert re.search(rf"{first} +ci +admin +revoked", table) and re.search(rf"{second} +ci +admin +active", table)
    made = json.loads(keys("create", "--data-dir", str(folder), "--role", "read-only", "--name", "n", "--json").stdout)
    assert made["role"] == "read-only" and KEY.fullmatch(made["key"] + "\n")


def test_no_secret_is_in_any_file(tmp_path: Path) -> None:
    done = keys("create", "--data-dir", str(tmp_path / "data"), "--role", "admin", "--name", "ci")
    secret = done.stdout.strip().rpartition("_")[2].encode()
    files = [file for file in (tmp_path / "data").iterdir() if file.is_file()]
    assert files and all(secret not in file.read_bytes() for file in files)


@pytest.mark.skipif(sys.platform == "win32", reason="its folders have no such permissions")
def test_a_new_data_directory_is_its_owners(tmp_path: Path) -> None:
    create(tmp_path / "data")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    (tmp_path / "mine").mkdir(0o755)
    create(tmp_path / "mine")
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o755, "one that is there is left as it is"


def test_what_is_refused(tmp_path: Path) -> None:
    folder = str(tmp_path / "data")
    for arguments, code, says in (
        (("create", "--data-dir", folder, "--role", "king", "--name", "n"), 2, "'king': it has to be one of"),
        (("create", "--data-dir", folder, "--role", "admin", "--name", ""), 1, "name: 1 to 100 printable"),
        (("create", "--data-dir", folder, "--role", "admin", "--name", "n", "--expires-in", "x"), 1, "expires_in: "),
        (("create", "--data-dir", folder, "--name", "n"), 2, "--role"),
        (("list", "--data-dir", folder), 3, "is no data directory"),
        (("revoke", "x", "--data-dir", folder), 3, "is no data directory"),
    ):
        assert says in " ".join(keys(*arguments, code=code).stderr.replace("│", "").split())
    assert not os.path.exists(tmp_path / "data")


@pytest.mark.parametrize("arguments", [("create", "--role", "admin", "--name", "n"), ("list",), ("revoke", "x")])
def test_a_directory_in_use(arguments: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    create(folder)
    store = SqliteStorage(folder / "partition-0.db")
    try:
        done = keys(*arguments, "--data-dir", str(folder), code=1)
    finally:
        store.close()
    assert "is in use by another process" in done.stderr and "--admin-url" in done.stderr
    assert done.stderr.count("\n") == 1
