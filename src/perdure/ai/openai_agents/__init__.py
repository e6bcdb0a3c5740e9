"""openai-agents on perdure: `DurableRunner` in the place of `Runner`.

    from perdure.ai.openai_agents import DurableRunner

    result = await DurableRunner.run(agent, prompt)

In a handler its model calls and tools are steps; elsewhere it is `Runner`. See docs/ai/openai-agents.md.
"""

from perdure.ai.base import in_handler
from perdure.ai.openai_agents import instrument, runner
from perdure.ai.openai_agents.approvals import decide
from perdure.ai.openai_agents.runner import DurableRunner
from perdure.ai.openai_agents.sessions import DurableSession, PerdureSession

__all__ = ["DurableRunner", "DurableSession", "PerdureSession", "decide", "in_handler"]

instrument.install()
runner.install()
