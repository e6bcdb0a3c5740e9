"""Where settings come from, and which are refused."""

import json
import os
import re
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from perdure import RetryPolicy
from perdure.cli.reference import with_reference
from perdure.config import Config
from perdure.errors import Invalid
from perdure.model.services import HandlerInfo, HandlerKind, ServiceInfo, ServiceKind, Usual
from perdure.settings import masked, read, settings_of, written
from tests.cli.processes import ROOT, perdure, serving

PYTHONPATH = os.pathsep.join([str(ROOT / "src"), str(ROOT)])


def test_what_is_given_comes_first() -> None:
    environ = {
        "PERDURE_ADMIN_PORT": "7000",
        "PERDURE_HOST": "::1",
        "PERDURE_DRAIN_SECONDS": "2.5",
        "PERDURE_PARTITIONS": "",
    }
    config = Config.load({"admin_port": 7001, "data_dir": None}, environ)
    assert config == Config(admin_port=7001, host="::1", drain_seconds=2.5)
    assert Config.load(environ={}) == Config()


@pytest.mark.parametrize(
    ("given", "environ", "says"),
    [
        ({"ingress_port": 70000}, {}, "ingress_port must be from 0 to 65535"),
        ({"ingress_port": 9070}, {}, "must differ"),
        ({"partitions": 0}, {}, "partitions must be at least 1"),
        ({"drain_seconds": -1}, {}, "drain_seconds must not be negative"),
        ({"public_url": "ops.example"}, {}, "public_url .* has to begin with http"),
        ({"lag_threshold_seconds": 0}, {}, "lag_threshold_seconds"),
        ({"stream_reader_limit": 0}, {}, "stream_reader_limit"),
        ({"stream_memory_limit": 0}, {}, "stream_memory_limit"),
        ({"authentication": "maybe"}, {}, "authentication"),
        ({}, {"PERDURE_AUTHENTICATION": "maybe"}, "PERDURE_AUTHENTICATION"),
        ({"tls_certificate": "c.pem"}, {}, "tls_key is missing"),
        ({"tls_key": "k.pem"}, {}, "tls_certificate is missing"),
        ({}, {"PERDURE_INGRESS_PORT": "x"}, "environment variable PERDURE_INGRESS_PORT: .* a whole number, not 'x'"),
        ({}, {"PERDURE_PARTITIONS": "1.5"}, "PERDURE_PARTITIONS"),
    ],
)
def test_settings_that_are_refused(given: dict[str, Any], environ: dict[str, str], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        Config.load(given, environ)


def test_ports_may_both_be_free_ones() -> None:
    assert Config(ingress_port=0, admin_port=0).ingress_port == 0


class Every(msgspec.Struct, frozen=True):
    """A struct with every kind of setting."""

    wait_seconds: float = 1.5
    """How long to wait."""
    request_size_limit: int | None = None
    """Bytes of a
    request."""
    names: tuple[str, ...] = ()
    api_token: str | None = None
    level: Literal["low", "high"] = "low"
    loud: bool = False
    store: str = "here"


def every(environ: dict[str, str] | None = None, file: Path | None = None, **given: Any) -> Every:
    return read(Every, given, environ or {}, file).config


def test_each_kind_of_setting_is_read_from_texts_and_from_toml(tmp_path: Path) -> None:
    wanted = Every(90.5, 64 << 20, ("a", "b"), "t", "high", True, "there")
    texts = {
        "wait_seconds": "1m 30.5s",
        "request_size_limit": "64MiB",
        "names": "a, b",
        "level": "high",
        "loud": "true",
    }
    environ = {f"PERDURE_{name.upper()}": text for name, text in texts.items()}
    assert every(environ, api_token="t", store="there") == wanted
    assert every(**dict[str, Any](texts, names=["a", "b"], loud=True), api_token="t", store="there") == wanted
    file = tmp_path / "some.toml"
    file.write_text(
        'wait_seconds = 90.5\nrequest_size_limit = "64MiB"\nnames = ["a", "b"]\napi_token = "t"\n'
        'level = "high"\nloud = true\nstore = "there"\n'
    )
    found = read(Every, {"store": "now"}, {"PERDURE_LEVEL": "low"}, file)
    assert found.config == Every(90.5, 64 << 20, ("a", "b"), "t", "low", True, "now")
    assert str(found.sources["names"]) == f"{file}:3" and str(found.sources["store"]) == "--store"
    assert str(found.sources["level"]) == "environment variable PERDURE_LEVEL" and found.file == file
    assert str(read(Every, {}, {}).sources["loud"]) == "default"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "wait_seconds = 'soon'",
            "wait_seconds must be a duration such as 10s or 1h 30m, or a number of seconds, not 's",
        ),
        ("wait_seconds = true", "must be a duration"),
        ("wait_seconds = nan", "must be a duration"),
        ("request_size_limit = '5 parsecs'", "must be a size such as 32MiB"),
        ("names = 'a,b'", "names must be a list of texts"),
        ("level = 'medium'", "level must be one of low, high, not 'medium'"),
        ("loud = 'true'", "loud must be true or false"),
        ("store = 5", "store must be a text, not 5"),
        ("api_token = 12345", "must be a text, not [*]{8}$"),
        ("stor = 'x'", "unknown setting 'stor'; the nearest is store"),
        ("wait-seconds = 5", "unknown setting 'wait-seconds'; the nearest is wait_seconds"),
        ("[store]", r"unknown setting the table|store must be a text"),
        ("[server]", r"unknown setting the table \[server\]; settings are not in tables"),
        ("zzz = 1", "`perdure config show` lists all there are"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "perdure.toml"
    file.write_text(f"# settings\n\n{line}\n")
    with pytest.raises(Invalid, match=rf"^{re.escape(str(file))}:3: .*({says})"):
        every(file=file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("a = = 1")
    with pytest.raises(Invalid, match=r"broken.toml: no TOML: .*line 1"):
        every(file=broken)
    with pytest.raises(Invalid, match="cannot be read: No such file"):
        every(file=tmp_path / "nothing.toml")
    with pytest.raises(Invalid, match="cannot be read: No such file"):
        every({"PERDURE_CONFIG": str(tmp_path / "nothing.toml")})


def test_the_file_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert every() == Every()
    (tmp_path / "perdure.toml").write_text('store = "here.db"')
    (tmp_path / "other.toml").write_text('store = "other.db"')
    assert every().store == "here.db"
    assert every({"PERDURE_CONFIG": "other.toml"}).store == "other.db"
    assert every({"PERDURE_CONFIG": "perdure.toml"}, Path("other.toml")).store == "other.db"


def test_variables_that_are_no_settings() -> None:
    with pytest.raises(Invalid, match="PERDURE_API_TOKENS: there is no such setting; the nearest is PERDURE_API_TOKEN"):
        every({"PERDURE_API_TOKENS": "x"})
    with pytest.raises(Invalid, match=r"PERDURE_INGRES_PORT: .* nearest is PERDURE_INGRESS_PORT"):
        Config.load({}, {"PERDURE_INGRES_PORT": "1"})
    others = {"PERDURE_ADMIN_URL": "x", "PERDURE_API_KEY": "x", "PERDURE_CONFIG": "", "HOME": "/"}
    kubernetes = {
        "PERDURE_SERVICE_HOST": "10.0.0.1",
        "PERDURE_ADMIN_PORT": "tcp://10.0.0.1:9070",
        "PERDURE_PORT": "tcp://10.0.0.1:8080",
    }
    kubernetes |= {"PERDURE_PORT_9070_TCP_ADDR": "10.0.0.1", "PERDURE_SERVICE_PORT_ADMIN": "9070"}
    assert read(Every, {}, others | kubernetes).warnings == []
    assert Config.load({}, kubernetes) == Config(), "a Service called perdure-admin is no setting either"
    assert read(Every, {}, {"PERDURE_MINE": "x"}).warnings == [
        "environment variable PERDURE_MINE is not a setting, and has no effect"
    ]


def test_a_bound_that_is_broken_is_told_with_where_the_value_is_from(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text("\ningress_port = 70000\n")
    with pytest.raises(Invalid, match=rf"^{re.escape(str(file))}:2: ingress_port must be from 0"):
        Config.load({}, {}, file)
    with pytest.raises(Invalid, match=r"^--ingress-port, environment variable PERDURE_ADMIN_PORT: .* must differ"):
        Config.load({"ingress_port": 5}, {"PERDURE_ADMIN_PORT": "5"})


def test_secrets_are_masked_and_values_are_written_with_units() -> None:
    settings = {each.name: each for each in settings_of(Every)}
    assert masked(settings["api_token"], "t") == "********" and masked(settings["api_token"], None) is None
    assert masked(settings["store"], "postgres://me:secret@there/db") == "postgres://********@there/db"
    assert masked(settings["names"], ("a://b:c@d", "e")) == ("a://********@d", "e")
    assert (
        written(settings["wait_seconds"], 90.5) == '"1m 30s 500ms"' and written(settings["wait_seconds"], 0.0) == '"0s"'
    )
    assert written(settings["request_size_limit"], 3 << 20) == '"3MiB"'
    assert written(settings["request_size_limit"], 1000) == "1000" and written(settings["names"], ("a",)) == '["a"]'
    assert settings["request_size_limit"].description == "Bytes of a request." and settings["loud"].description == ""


def test_every_setting_is_described_has_an_option_and_is_in_the_document() -> None:
    settings = settings_of(Config)
    assert all(each.description for each in settings), "the text below the field"
    shown = perdure("serve", "--help", env={**os.environ, "COLUMNS": "200"}).stdout
    assert [each.flag for each in settings if f"{each.flag} " not in shown] == []
    document = (ROOT / "docs" / "configuration.md").read_text()
    assert with_reference(document) == document, "make settings"


def test_what_is_shown_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "perdure.toml"
    file.write_text('drain_seconds = "7s"\n')
    env = {**os.environ, "PYTHONPATH": PYTHONPATH, "PERDURE_HOST": "::1"}
    shown = perdure("config", "show", cwd=tmp_path, env=env).stdout
    assert re.search(r"^drain_seconds +7s +perdure.toml:1$", shown, re.MULTILINE)
    assert re.search(r"^host +::1 +environment variable PERDURE_HOST$", shown, re.MULTILINE)
    assert re.search(r"^partitions +- +default$", shown, re.MULTILINE)
    told = json.loads(perdure("config", "show", "--json", cwd=tmp_path, env=env).stdout)
    assert told["file"] == "perdure.toml"
    assert told["settings"]["drain_seconds"] == {"value": 7.0, "source": "file", "place": "perdure.toml:1"}
    toml = perdure("config", "show", "--toml", cwd=tmp_path, env=env).stdout
    again = tmp_path / "again.toml"
    again.write_text(toml)
    assert Config.load({}, {}, again) == Config(drain_seconds=7.0, host="::1")

    assert perdure("config", "check", str(file)).stdout == f"{file}: 1 setting, all known and right\n"
    file.write_text("drain_second = 7\n")
    wrong = perdure("config", "check", str(file))
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == f"perdure: {file}:1: unknown setting 'drain_second'; the nearest is drain_seconds\n"
    assert perdure("config", "show", "--json", "--toml").returncode == 2


def test_what_holds_for_handlers_that_say_nothing(tmp_path: Path) -> None:
    config = Config(
        default_inactivity_timeout_seconds=5, default_retry_max_attempts=0, default_retry_on_exhausted="fail"
    )
    said, unsaid = (
        HandlerInfo("S", "said", HandlerKind.PLAIN, inactivity_timeout_ms=7),
        HandlerInfo("S", "unsaid", HandlerKind.PLAIN),
    )
    service = ServiceInfo("S", ServiceKind.SERVICE, {"said": said, "unsaid": unsaid})
    filled = config.usual.filled_in(service).handlers
    assert (filled["said"].inactivity_timeout_ms, filled["unsaid"].inactivity_timeout_ms) == (7, 5000)
    assert filled["unsaid"].retry_policy == RetryPolicy(max_attempts=None, on_exhausted="fail")
    assert filled["unsaid"].journal_retention_ms == unsaid.journal_retention_ms
    assert Config().usual.filled_in(service) == service and Config().usual == Usual()

    (tmp_path / "s.toml").write_text('default_journal_retention_seconds = "2h"\nsql_memory_limit = "64MiB"\n')
    with serving(
        tmp_path / "data", "--config", str(tmp_path / "s.toml"), "--default-abort-timeout-seconds", "3m"
    ) as it:
        described = json.loads(perdure("services", "describe", "Greeter", "--admin-url", it.admin, "--json").stdout)
        assert (described["journal_retention"], described["abort_timeout"]) == ("2h", "3m")


def test_hosts_have_commas_between_them() -> None:
    found = Config.load({}, {"PERDURE_ADMIN_ALLOWED_HOSTS": "a.example, b.example:8443,"}).admin_allowed_hosts
    assert found == ("a.example", "b.example:8443") and Config().admin_allowed_hosts == ()
