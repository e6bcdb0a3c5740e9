"""The examples of patterns, with the model on loopback: what they print is what they promise."""

import asyncio
import importlib

import pytest

OUTPUT = {
    "chain": ["In short: here is what it is, what it costs, who needs it."],
    "evaluator": ["after 2 drafts: It goes on and on."],
    "interrupt": [
        "the first answer: cancelled",
        "the second one: A poem, about the sea and in four lines.",
        "  user: about the sea",
        "  user: in four lines",
        "  assistant: A poem, about the sea and in four lines.",
    ],
    "multi_agent": ["Billing: Invoice 17: 40 euros, paid twice.", "Support: The lamp is offline."],
    "orchestrator": [
        " ".join(f"The {part} of tea is known." for part in ("history", "use", "cost", "future", "enemies")),
        "7 requests: a plan, 5 tasks, a text",
    ],
    "parallel_tools": ["Bell wants 13 euros.", "at most 5 tools at once"],
    "racing": ["You asked: Who is quicker? (Anthropic)", "claude-haiku-4-5: answered, gpt-4.1-mini: abandoned"],
    "rollback": [
        *("booked a flight, Rome", "booked a hotel, Rome", "All is booked and paid: Rome."),
        *(
            "booked a flight, Tokyo",
            "booked a hotel, Tokyo",
            "cancelled the hotel, Tokyo",
            "cancelled the flight, Tokyo",
        ),
        *("failed: the card does not have 900 euros", "what is booked in the end: flight Rome, hotel Rome"),
    ],
}


# Some frameworks keep one HTTP client for as long as the process lives, longer than a test's event loop.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("name", OUTPUT)
def test_an_example(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):  # a developer's own must not be used for a test
        monkeypatch.delenv(variable, raising=False)
    asyncio.run(importlib.import_module(f"examples.{name}").main())
    assert capsys.readouterr().out.splitlines() == OUTPUT[name]
