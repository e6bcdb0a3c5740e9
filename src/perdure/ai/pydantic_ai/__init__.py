"""pydantic-ai, durable: `Agent(model, tools=[...], capabilities=[PerdureDurability()])`. See `PerdureDurability`."""

from perdure.ai.pydantic_ai.approvals import PerdureApprovals
from perdure.ai.pydantic_ai.durability import PerdureDurability, ToolConfig
from perdure.ai.pydantic_ai.history import MessageHistory

__all__ = ["MessageHistory", "PerdureApprovals", "PerdureDurability", "ToolConfig"]
