"""Runs coroutine tests (no plugin needed), each in all ways that its `start` fixture has."""

import asyncio
import inspect
import logging
from collections.abc import Iterator

import pytest

from tests.programming_model.ways import WAYS, Start, Starter


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(params=WAYS)
def start(request: pytest.FixtureRequest) -> Start:
    return Starter(request.param)


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
