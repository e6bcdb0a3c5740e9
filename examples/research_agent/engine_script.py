"""The same agent without a server: the engine lives in this script, and its journal in one file.

    python -m examples.research_agent.engine_script

Interrupt it with Ctrl-C, or kill it, and run it again: it goes on where it stopped. Once the answer is there, another
run prints it at once, because the idempotency key is that of a finished invocation.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path

from examples.research_agent.agent import Report, Topic, app, research
from examples.research_agent.policy import researcher
from perdure import Engine
from perdure.testing.openai_server import OpenAIServer

QUESTION = "How do many transactions share one flush of the log, and what does that cost?"


async def investigate(question: str, path: Path, pause: float) -> Report:
    """Ask the agent a question, with an engine that lasts as long as the asking."""
    async with contextlib.AsyncExitStack() as stack:
        if not ("OPENAI_API_KEY" in os.environ or "OPENAI_BASE_URL" in os.environ):
            model = await stack.enter_async_context(OpenAIServer(researcher, latency=(0.02, 0.1)))
            os.environ.update(OPENAI_BASE_URL=model.base_url, OPENAI_API_KEY="loopback", NO_PROXY="127.0.0.1")
        engine = await stack.enter_async_context(Engine(app, path=path))
        topic = Topic(name=question, question=question, pause_seconds=pause)
        return await engine.call(research, topic, idempotency_key=question)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m examples.research_agent.engine_script")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--path", type=Path, default=Path("research-agent.db"), help="the file with the journal")
    parser.add_argument("--pause", type=float, default=0.2, help="the agent's seconds between two turns")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        report = asyncio.run(investigate(options.question, options.path, options.pause))
    except KeyboardInterrupt:
        print(f"\nInterrupted. Run it again: {options.path} knows where to go on.")
        return 130
    print(report.answer)
    print(f"\n{report.done.steps} steps and {report.done.notes} notes; this run took {time.monotonic() - began:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
