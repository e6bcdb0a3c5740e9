"""Steps that ask a model or use an agent's tool, in the words of OpenTelemetry's conventions for generative AI.

`perdure.ai` names its steps `model <model>` and `tool <tool> <call id>`, and what it journals is a record with the
tokens and the span that the step is below (`perdure.ai.records`). Neither prompts nor answers are told.

The names are those of https://opentelemetry.io/docs/specs/semconv/gen-ai/, which is not stable yet.
"""

from typing import Any, Final, NamedTuple

import msgspec

from perdure.model import entries as e
from perdure.model.tracing import SPAN
from perdure.model.usage import Usage

__all__ = ["MODEL_STEP", "GenAi", "of_step", "usage_in"]

MODEL_STEP: Final = "model "
"""What the name of a step that asks a model begins with."""


class GenAi(NamedTuple):
    """What a span says in place of what another step's would: its name, the span it is below, more attributes."""

    name: str
    parent: str
    attributes: dict[str, Any]
    is_model: bool


class _Record(msgspec.Struct):
    usage: Usage | None = None
    span: str = ""


_decode = msgspec.json.Decoder(_Record).decode
_NOTHING: Final = _Record()
_COUNTS: Final = {
    "gen_ai.usage.input_tokens": "input_tokens",
    "gen_ai.usage.output_tokens": "output_tokens",
    "gen_ai.usage.cache_read.input_tokens": "cached_tokens",
    "gen_ai.usage.cache_creation.input_tokens": "cache_write_tokens",
    "perdure.usage.reasoning_tokens": "reasoning_tokens",
}


def usage_in(result: e.Result) -> Usage | None:
    """The tokens in the result of a step that asked a model; None if there are none."""
    if not isinstance(result, e.Value):
        return None
    try:
        return _decode(result.content).usage
    except msgspec.MsgspecError:
        return None


def of_step(name: str, result: e.Result) -> GenAi | None:
    """What a step's name and its result say; None if it is neither a model call nor a tool."""
    kind, _, what = name.partition(" ")
    if kind not in ("model", "tool") or not what:
        return None
    record = _NOTHING
    if isinstance(result, e.Value):
        try:
            record = _decode(result.content)
        except msgspec.MsgspecError:
            return None  # a step of the user's own that is called so
    attributes: dict[str, Any] = {}
    if isinstance(result, e.Failure):
        record = _Record(span=dict(result.metadata).get(SPAN, ""))
        attributes["error.type"] = str(result.code)
    return _model(what, record, attributes) if kind == "model" else _tool(what, record, attributes)


def _model(model: str, record: _Record, attributes: dict[str, Any]) -> GenAi:
    usage = record.usage or Usage()
    operation = "embeddings" if "embedding" in model else "chat"
    attributes |= {"gen_ai.operation.name": operation, "gen_ai.request.model": model}
    texts = {
        "gen_ai.provider.name": usage.provider,
        "gen_ai.response.model": usage.model,
        "gen_ai.conversation.id": usage.session,
    }
    attributes |= {name: value for name, value in texts.items() if value}
    if record.usage is not None:
        attributes |= {name: count for name, field in _COUNTS.items() if (count := getattr(usage, field))}
    if usage.finish_reason:
        attributes["gen_ai.response.finish_reasons"] = (usage.finish_reason,)
    if usage.cost is not None:
        attributes["perdure.usage.cost"] = usage.cost
    return GenAi(f"{operation} {model}", record.span, attributes, True)


def _tool(what: str, record: _Record, attributes: dict[str, Any]) -> GenAi:
    tool, _, call_id = what.rpartition(" ") if " " in what else (what, "", "")
    attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool}
    if call_id:
        attributes["gen_ai.tool.call.id"] = call_id
    return GenAi(f"execute_tool {tool}", record.span, attributes, False)
