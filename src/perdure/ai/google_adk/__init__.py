"""Google's Agent Development Kit on perdure: `durable(agent)`, then the Runner as ever.

    from perdure.ai.google_adk import durable

    root = durable(LlmAgent(...))

In a handler its model calls and tools are steps; elsewhere nothing changes. See docs/ai/google-adk.md.
"""

from perdure.ai.base import in_handler
from perdure.ai.google_adk import instrument
from perdure.ai.google_adk.instrument import durable

__all__ = ["durable", "in_handler"]

instrument.install()
