"""The guides of docs/migrating: what they say to write instead is run, as it stands there."""

import asyncio
import re
import sys
import types
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from perdure import TerminalError
from perdure.testing import TestEngine

GUIDES = Path(__file__).parent.parent / "docs" / "migrating"


@pytest.fixture
def guide(request: pytest.FixtureRequest) -> Iterator[types.ModuleType]:
    """The Python of the guide as a module; registered, so that its annotations can be looked up."""
    path = GUIDES / f"{request.param}.md"
    module = types.ModuleType(f"docs_{request.param.replace('-', '_')}")
    code = re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    sys.modules[module.__name__] = module
    exec(compile("\n\n".join(code), str(path), "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize("guide", ["from-restate"], indirect=True)
def test_from_restate(guide: types.ModuleType) -> None:
    async def main() -> None:
        async with TestEngine(guide.app, replay=True) as engine:
            assert await engine.call(guide.greet, "Ada") == "Hello Ada Bonjour Ada"

    asyncio.run(main())


@pytest.mark.parametrize("guide", ["from-dbos"], indirect=True)
def test_from_dbos(guide: types.ModuleType) -> None:
    async def main() -> None:
        async with TestEngine(guide.app, replay=True) as engine:
            paid = await engine.send(guide.checkout, "a book")
            await paid.signal("paid", "yes")
            assert await paid.attach() == "receipt of a book"
            assert await engine.call(guide.checkout, "a pen") == "timed out"

    asyncio.run(main())


@pytest.mark.parametrize("guide", ["from-temporal"], indirect=True)
def test_from_temporal(guide: types.ModuleType) -> None:
    async def main() -> None:
        async with TestEngine(guide.app, skip=False, replay=True) as engine:
            await engine.workflow(guide.order, "one").submit("a book")
            await engine.advance(timedelta(hours=23))
            assert await engine.call(guide.is_paid, key="one") is False
            await engine.call(guide.pay, key="one")
            assert await engine.call(guide.is_paid, key="one") is True
            assert await engine.workflow(guide.order, "one").attach() == "a book is on its way"
            await engine.workflow(guide.order, "two").submit("a pen")
            await engine.advance(timedelta(days=1, seconds=1))
            with pytest.raises(TerminalError, match="not paid within a day"):
                await engine.workflow(guide.order, "two").attach()

    asyncio.run(main())


def test_every_guide_is_run_and_its_links_lead_somewhere() -> None:
    guides = {path.stem for path in GUIDES.glob("*.md")}
    assert guides == {"from-restate", "from-dbos", "from-temporal"}
    for name in guides:
        for link in re.findall(r"\]\(([^)#]+)\)", (GUIDES / f"{name}.md").read_text(encoding="utf-8")):
            assert (GUIDES / link).exists(), f"{name}: {link}"
