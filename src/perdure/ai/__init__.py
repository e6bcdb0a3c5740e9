"""Agent frameworks on perdure: in a handler their model calls and tools are steps; elsewhere they are as they were.

Each framework has its module, `perdure.ai.openai`, `perdure.ai.pydantic_ai` and so on, and is loaded only if that is
imported. Here is what all of them share and users type:

* `in_handler`, a mark for tools that use the handler's context themselves, and so are no steps;
* `Usage`, the tokens of a model call, in one shape for all providers.
"""

from perdure.ai.base import in_handler
from perdure.ai.records import Usage

__all__ = ["Usage", "in_handler"]
