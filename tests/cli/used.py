"""A service that asks models, for `perdure usage`; nobody is asked."""

from perdure import App, Context, Service
from perdure.ai import Usage
from perdure.ai.base import model_call

agent = Service("Agent")


@agent.handler()
async def think(ctx: Context, model: str) -> str:
    answer = await model_call(
        model, lambda: "hm", usage=lambda _: Usage("acme", model, input_tokens=1000, output_tokens=100)
    )
    return str(answer)


app = App(agent)
