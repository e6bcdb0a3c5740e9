"""A server that asks for keys and speaks TLS, in a process of its own, and everybody who talks to it."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyqwest
import pytest

from perdure import Client, Forbidden, Invalid, SyncClient, Unauthorized
from perdure.errors import Unavailable
from tests.certificates import make_certificate
from tests.cli.processes import Served, perdure, serving

COMMANDS: list[tuple[str, ...]] = [  # every verb that asks a server something, and what it exits with
    ("invocations", "list"),
    ("services", "list"),
    ("services", "describe", "Greeter"),
    ("state", "get", "Counter", "k"),
    ("state", "set", "Counter", "k", "total", "5"),
    ("state", "clear", "Counter", "k", "--yes"),
    ("deployments", "list"),
    ("sql", "SELECT 1"),
    ("keys", "list"),
    ("call", "Greeter/plain", "3"),
]


def key_in(folder: Path, role: str) -> str:
    made = perdure("keys", "create", "--data-dir", str(folder), "--role", role, "--name", f"my {role}")
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


class Secured(NamedTuple):
    server: Served
    folder: Path
    authorities: Path
    keys: dict[str, str]

    def run(self, role: str | None, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """A command with the key of a role."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
        env |= {"PERDURE_ADMIN_URL": self.server.admin, "PERDURE_INGRESS_URL": self.server.ingress}
        env |= {"PERDURE_CA_FILE": str(self.authorities), **more}
        if role is not None:
            env["PERDURE_API_KEY"] = self.keys[role]
        return perdure(*arguments, env=env)

    def client(self, role: str | None, **options: Any) -> Client:
        token = None if role is None else self.keys[role]
        options = {"ca_file": self.authorities, "token": token, **options}
        return Client(self.server.ingress, admin_url=self.server.admin, **options)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    made = make_certificate(folder)
    keys = {role: key_in(folder / "data", role) for role in ("ingress-only", "read-only", "operator", "admin")}
    options = ["--tls-certificate", str(made.certificate), "--tls-key", str(made.key)]
    options += ["--audit-log", str(folder / "audit.log")]
    with serving(folder / "data", *options) as server:
        assert server.ingress.startswith("https://") and server.admin.startswith("https://")
        yield Secured(server, folder, made.certificate, keys)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_with_a_key_over_tls(secured: Secured, command: tuple[str, ...]) -> None:
    done = secured.run("admin", *command)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_says_what_is_missing(secured: Secured, command: tuple[str, ...]) -> None:
    done = secured.run(None, *command)
    assert done.returncode == 4 and "an API key is needed" in done.stderr and "Traceback" not in done.stderr
    role = "read-only" if command[0] == "call" else "ingress-only"
    done = secured.run(role, *command)
    assert done.returncode == 4 and "this needs an API key with the role" in done.stderr


def test_what_an_operator_does_to_an_invocation(secured: Secured) -> None:
    id = secured.run("operator", "call", "Greeter/listen", "--send").stdout.strip()
    assert secured.run("operator", "invocations", "describe", id).returncode == 0
    assert secured.run("operator", "why", id).returncode == 0
    assert secured.run("read-only", "invocations", "kill", id).returncode == 4
    assert secured.run("operator", "invocations", "kill", id).returncode == 0
    assert secured.run("read-only", "watch", id).returncode == 5, "it was killed"
    refused = secured.run("operator", "keys", "create", "--role", "admin", "--name", "mine")
    assert refused.returncode == 4 and "with the role admin" in refused.stderr


def test_a_key_from_a_file(secured: Secured, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(secured.keys["admin"] + "\n")
    assert secured.run(None, "--api-key-file", str(file), "services", "list").returncode == 0
    assert secured.run(None, "services", "list", PERDURE_API_KEY_FILE=str(file)).returncode == 0
    file.write_bytes(b"hunter2 \n\xff")
    for path, says in ((file, "it holds no API key"), (tmp_path / "nowhere", "No such file")):
        done = secured.run(None, "--api-key-file", str(path), "services", "list")
        assert done.returncode == 1 and says in done.stderr and "hunter2" not in done.stderr


def test_a_certificate_that_is_not_trusted(secured: Secured, tmp_path: Path) -> None:
    other = make_certificate(tmp_path)
    for authorities in ("", str(other.certificate)):
        done = secured.run("admin", "services", "list", PERDURE_CA_FILE=authorities)
        assert done.returncode == 6 and re.search("certificate of https://.* is not trusted", done.stderr), done.stderr
        assert done.stderr.count("\n") == 1
    done = secured.run("admin", "services", "list", PERDURE_CA_FILE=str(other.key))
    assert done.returncode == 1 and "it holds no certificate in PEM" in done.stderr


def test_clients(secured: Secured) -> None:
    async def scenario() -> None:
        async with secured.client("operator") as client:
            assert await client.call("Greeter/plain", 4) == 5
            running = await client.send("Greeter/listen")
            await running.kill()
        async with secured.client("ingress-only") as client:
            headers = await client.call("Greeter/headers")
            assert "authorization" not in headers, "a handler is given no key"
            running = await client.send("Greeter/noop")
            with pytest.raises(Forbidden, match="with the role read-only or operator or admin"):
                await running.describe()
        async with secured.client(None) as client:
            with pytest.raises(Unauthorized, match="an API key is needed"):
                await client.call("Greeter/plain", 4)
        async with secured.client("admin", ca_file=None, retries=0) as client:
            with pytest.raises(Unavailable):
                await client.call("Greeter/plain", 4)

    asyncio.run(scenario())
    with SyncClient(secured.server.ingress, ca_file=secured.authorities, token=secured.keys["operator"]) as client:
        assert client.call("Greeter/plain", 5) == 6
    with pytest.raises(Invalid, match="token: ") as caught:
        Client(token="hunter2\r\nx: y")
    assert "hunter2" not in str(caught.value)


def test_a_key_is_good_and_over_at_once(secured: Secured) -> None:
    made = json.loads(secured.run("admin", "keys", "create", "--role", "admin", "--name", "x", "--json").stdout)
    mine = secured._replace(keys={"mine": made["key"]})
    assert mine.run("mine", "services", "list").returncode == 0
    assert secured.run("admin", "keys", "revoke", made["id"]).stdout == f"{made['id']} revoked\n"
    done = mine.run("mine", "services", "list")
    assert done.returncode == 4 and f"the API key {made['id']} (x) is revoked" in done.stderr


def test_no_secret_is_in_arguments_audit_or_data(secured: Secured) -> None:
    process = psutil.Process(secured.server.process.pid)
    family = [process, *process.children(recursive=True)]
    arguments = " ".join(" ".join(each.cmdline()) for each in family)
    audit = (secured.folder / "audit.log").read_text()
    stored = b"".join(file.read_bytes() for file in (secured.folder / "data").iterdir())
    assert audit.count('"action"') > 3
    for key in secured.keys.values():
        secret = key.rpartition("_")[2]
        assert secret not in arguments and secret not in audit and secret.encode() not in stored


def test_sql_shows_no_keys(secured: Secured) -> None:
    for table in ("api_key", "main.api_key", "sys_api_key"):
        done = secured.run("admin", "sql", f"SELECT * FROM {table}")
        assert done.returncode == 1 and "digest" not in done.stdout
    found = secured.run("read-only", "sql", "SELECT table_name FROM information_schema.tables", "--json").stdout
    assert "sys_invocation" in found and "api_key" not in found


def test_headers_that_are_secrets_are_shown_nowhere(secured: Secured) -> None:
    call = ("call", "Greeter/headers", "--header", "x-api-key=hunter2", "--header", "x-team=blue")
    done = secured.run("operator", *call, "--json")
    told = json.loads(done.stdout)
    assert told["result"]["x-api-key"] == "hunter2", "the handler needs it"
    id = told["invocationId"]
    described = secured.run("admin", "invocations", "describe", id, "--json").stdout
    rows = secured.run("admin", "sql", f"SELECT * FROM sys_journal WHERE id = '{id}' AND index = 0", "--json").stdout
    (row,) = json.loads(rows)
    raw = bytes.fromhex(row["raw"])
    assert b"x-team" in raw and b"blue" in raw and b"hunter2" not in raw
    for text in (described, row["entry_json"]):
        assert "blue" in text and "hunter2" not in text


def test_the_admin_port_knows_where_the_ingress_is(secured: Secured) -> None:
    authorities = secured.authorities.read_bytes()
    client = pyqwest.SyncClient(pyqwest.SyncHTTPTransport(tls_ca_cert=authorities, enable_otel=False))
    headers = {"authorization": f"Bearer {secured.keys['read-only']}"}
    version = json.loads(client.get(f"{secured.server.admin}/version", headers=headers).content)
    assert version["ingress_endpoint"] == secured.server.ingress
    refused = client.get(f"{secured.server.admin}/version", headers={**headers, "origin": "https://evil.example"})
    assert refused.status == 403
    refused = client.get(f"{secured.server.admin}/version", headers={**headers, "host": "evil.example"})
    assert refused.status == 403 and b"admin_allowed_hosts" in refused.content


# ---- when a server starts, and when it does not


def test_off_loopback_it_does_not_start_without_a_key(tmp_path: Path) -> None:
    ports = ("--ingress-port", "0", "--admin-port", "0", "--data-dir", str(tmp_path / "data"))
    done = perdure("serve", "tests.cli.served:app", "--host", "0.0.0.0", *ports)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        "perdure: host 0.0.0.0 is not loopback, and there is no API key that is good; make one: "
        f"perdure keys create --data-dir {tmp_path / 'data'} --role admin --name NAME. "
        "Or let everybody in: --authentication off\n"
    )
    done = perdure("serve", "--authentication", "required", *ports)
    assert done.returncode == 1 and "authentication is required, and there is no API key" in done.stderr
    done = perdure("serve", "--authentication", "maybe", *ports)
    assert done.returncode == 2 and "maybe" in done.stderr and "authentication" in done.stderr


def asked(server: Served, *arguments: str, key: str = "") -> "subprocess.CompletedProcess[str]":
    return perdure(*arguments, env={**os.environ, "PERDURE_ADMIN_URL": server.admin, "PERDURE_API_KEY": key})


def test_off_loopback_with_a_key_or_told_to_let_everybody_in(tmp_path: Path) -> None:
    key = key_in(tmp_path / "data", "admin")
    with serving(tmp_path / "data", "--host", "0.0.0.0") as server:
        assert asked(server, "services", "list").returncode == 4
        assert asked(server, "services", "list", key=key).returncode == 0
        server.process.terminate()
        _, said = server.process.communicate(timeout=20)
        assert "API keys travel in clear text" in said
    with serving(tmp_path / "open", "--host", "0.0.0.0", "--authentication", "off") as server:
        assert asked(server, "services", "list").returncode == 0
        server.process.terminate()
        _, said = server.process.communicate(timeout=20)
        assert "authentication is off and 0.0.0.0 is not loopback" in said


def test_on_loopback_the_first_key_closes_it_for_good(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        made = asked(server, "keys", "create", "--role", "admin", "--name", "first")
        key, id = made.stdout.strip(), made.stdout.split("_")[1]
        assert asked(server, "services", "list").returncode == 4
        assert asked(server, "services", "list", key=key).returncode == 0
        assert perdure("keys", "list", "--data-dir", str(tmp_path / "data")).returncode == 1, "it is in use"
    with serving(tmp_path / "data") as server:
        assert asked(server, "services", "list").returncode == 4, "after a crash too"
        assert asked(server, "keys", "revoke", id, key=key).returncode == 0
        assert asked(server, "services", "list", key=key).returncode == 4
        assert asked(server, "services", "list").returncode == 4, "that the last one is revoked opens nothing"
    done = perdure("serve", "--data-dir", str(tmp_path / "data"), "--ingress-port", "0", "--admin-port", "0")
    assert done.returncode == 1 and "there were API keys, and there is no API key that is good" in done.stderr
    with serving(tmp_path / "data", "--authentication", "off") as server:
        assert asked(server, "services", "list").returncode == 0


def test_certificates_are_looked_at_before_anything_else(tmp_path: Path) -> None:
    made, other = make_certificate(tmp_path), make_certificate(tmp_path, "other")
    for options, says in (
        (["--tls-certificate", str(made.certificate)], "tls_key is missing"),
        (["--tls-key", str(made.key)], "tls_certificate is missing"),
        (["--tls-certificate", str(made.certificate), "--tls-key", str(other.key)], "is not the key of"),
        (["--audit-log", str(tmp_path)], "audit_log: "),
    ):
        done = perdure("serve", "--data-dir", str(tmp_path / "data"), "--ingress-port", "0", *options)
        wanted = 2 if "missing" in says else 1
        assert done.returncode == wanted and says in done.stderr and "Traceback" not in done.stderr, done.stderr
