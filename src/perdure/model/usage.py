"""What a model call has used, as it is journaled with the call's result: agents write it, others read it."""

import msgspec

__all__ = ["Usage"]


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """The tokens of one model call. What a provider does not tell is 0."""

    provider: str = ""
    """Who was asked: "openai", "anthropic", ..."""
    model: str = ""
    """The model that answered, as the provider calls it."""
    input_tokens: int = 0
    """All tokens of the request, those from a cache included."""
    output_tokens: int = 0
    """All tokens of the answer, those of its reasoning included."""
    cached_tokens: int = 0
    """Tokens of the request that were read from the provider's cache."""
    cache_write_tokens: int = 0
    """Tokens of the request that were written to the provider's cache."""
    reasoning_tokens: int = 0
    """Tokens of the answer that nobody sees."""
    cost: float | None = None
    """US dollars, by the prices of that moment; None if the model has no known price, or no tokens were told."""
    prices: str = ""
    """The version of those prices."""
    session: str = ""
    """What `usage_session` was told."""
    attempt: int = 1
    """Which try of the step it was; what earlier ones cost is not known."""
    finish_reason: str = ""
    """Why the answer ended, in the provider's words; "": it is not known."""

    @property
    def told(self) -> bool:
        """Whether the provider has told the tokens: no answer is made of none."""
        return self.input_tokens > 0 or self.output_tokens > 0
