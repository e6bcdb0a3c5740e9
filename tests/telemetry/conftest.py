"""Runs coroutine tests (no plugin needed); those with `start` in each of the five ways, and `--soak` in more."""

import asyncio
import inspect
import logging
from collections.abc import Iterator

import pytest

from tests.programming_model.ways import MORE_WAYS, WAYS, Start


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "start" in metafunc.fixturenames:
        ways = [*WAYS, *MORE_WAYS] if metafunc.config.getoption("soak") else [*WAYS]
        metafunc.parametrize("start", [Start(way) for way in ways], ids=ways)


@pytest.fixture(autouse=True)
def bugs_are_loud(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A partition that stops, and an exception nobody catches on an event loop, fail the test that they happen in."""
    yield
    loud = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.levelno >= logging.CRITICAL or record.name in ("asyncio", "perdure.handler")
    ]
    assert loud == []
