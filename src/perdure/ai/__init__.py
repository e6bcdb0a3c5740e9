"""Agent frameworks on perdure: in a handler their model calls and tools are steps; elsewhere they are as they were.

Each framework has its module, `perdure.ai.openai`, `perdure.ai.pydantic_ai` and so on, and is loaded only if that is
imported. Here is what all of them share and users type:

* `in_handler`, a mark for tools that use the handler's context themselves, and so are no steps;
* `Usage`, the tokens of a model call and their cost, in one shape for all providers; `usage_so_far`, `budget` and
  `usage_session` are about them.
"""

from perdure.ai.base import in_handler
from perdure.ai.records import Usage
from perdure.ai.usage import BudgetExceeded, Spent, budget, usage_session, usage_so_far

__all__ = ["BudgetExceeded", "Spent", "Usage", "budget", "in_handler", "usage_session", "usage_so_far"]
