"""Where settings come from, and which are refused."""

from typing import Any

import pytest

from perdure.config import Config
from perdure.errors import Invalid


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
        ({}, {"PERDURE_INGRESS_PORT": "x"}, "environment variable PERDURE_INGRESS_PORT='x'"),
        ({}, {"PERDURE_PARTITIONS": "1.5"}, "PERDURE_PARTITIONS"),
    ],
)
def test_settings_that_are_refused(given: dict[str, Any], environ: dict[str, str], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        Config.load(given, environ)


def test_ports_may_both_be_free_ones() -> None:
    assert Config(ingress_port=0, admin_port=0).ingress_port == 0
