"""The guides, run: all the Python of a page is one module, and its handlers are called."""

import asyncio
import pathlib
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from perdure.testing import TestEngine
from perdure.testing.model_server import ChatRequest, ModelServer, Reply, ToolCall

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "ai"


def policy(request: ChatRequest) -> Reply:
    """Uses each tool that it is offered once, with a place, a path or a question; then says what came of it."""
    results = [str(message["content"]) for message in request.messages if message["role"] == "tool"]
    if results or not request.tools:
        return Reply(" ".join(results) or f"you said {request.text('user')}")
    wanted = request.text("user")
    argument = {"weather": "place", "delete": "path", "ask_a_colleague": "question"}
    return Reply(
        tool_calls=tuple(ToolCall(name, {argument[name]: wanted}) for name in request.tool_names if name in wanted)
    )


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    with ModelServer(policy) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "k")
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        yield server


def page(name: str) -> types.ModuleType:
    """The page as a module; registered, so that its annotations can be looked up."""
    module = types.ModuleType(f"docs_{name.replace('-', '_')}")
    sys.modules[module.__name__] = module
    code = "\n\n".join(
        re.findall(r"^```python\n(.*?)^```", (DOCS / f"{name}.md").read_text(), re.DOTALL | re.MULTILINE)
    )
    exec(compile(code, str(DOCS / f"{name}.md"), "exec"), module.__dict__)
    return module


def call(module: types.ModuleType, *calls: tuple[str, Any]) -> list[Any]:
    async def main() -> list[Any]:
        async with TestEngine(module.app, replay=True) as engine:
            answers = [await engine.call(handler, argument, type=Any) for handler, argument in calls]
            for name in ("client", "watched"):
                if hasattr(module, name):
                    await getattr(module, name).close()
        if hasattr(module, "blocking"):
            module.blocking.close()
        return answers

    return asyncio.run(main())


def test_openai(provider: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    answers = call(
        page("openai"),
        ("Assistant/answer", "a"),
        ("Assistant/compare", ["b", "c"]),
        ("Assistant/tell", "d"),
        ("Assistant/answer_plainly", "e"),
    )
    assert answers == ["you said a", ["you said b", "you said c"], "you said d", "you said e"]
    assert "response.output_text.delta" in capsys.readouterr().out
    assert provider.count() == 5


def test_anthropic(provider: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(page("anthropic"), ("Assistant/answer", "a"), ("Assistant/tell", "b")) == ["you said a", "you said b"]
    assert "content_block_delta" in capsys.readouterr().out


def test_pydantic_ai(provider: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    module = page("pydantic-ai")

    async def main() -> list[Any]:
        async with TestEngine(module.app, replay=True) as engine:
            rain = await engine.call("Weather/ask", "weather", type=str)
            answers = []
            running = asyncio.create_task(engine.call("Weather/ask", "ask_a_colleague", type=str))
            asked = None
            while asked is None:
                await engine.settle()
                asked = re.search(r"prom_\S+|sign_\S+", capsys.readouterr().out)
            await engine.resolve_awakeable(asked.group(), "forty-two")
            answers.append(await running)
        async with TestEngine(module.app, replay=True, skip=False) as engine:
            sent = await engine.send("Weather/clean", "delete")
            await engine.settle()
            (waiting,) = await engine.approvals().list(to="ann")
            await engine.approvals().approve(waiting.id)
            answers.append(await sent.attach())
            for handler in ("chat", "chat", "tell"):
                answers.append(await engine.call(f"Weather/{handler}", "weather", type=str))
            return [rain, *answers]

    rain = "It rains in weather."
    assert asyncio.run(main()) == [rain, "forty-two", "deleted delete", rain, rain, rain]
