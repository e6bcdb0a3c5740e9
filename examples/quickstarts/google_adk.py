"""Google ADK on perdure: python -m examples.quickstarts.google_adk

With GOOGLE_API_KEY Gemini answers; without, a model in this file does.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from google.adk.agents import LlmAgent
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types

from perdure import App, Context, Engine, Service
from perdure.ai.google_adk import durable


async def weather(city: str) -> dict[str, str]:
    """The weather in a city."""
    return {"weather": f"It is sunny in {city}."}


class Stand(BaseLlm):
    """Asks for the weather in two cities, and says what was found."""

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> AsyncIterator[LlmResponse]:
        found = [part.function_response for content in llm_request.contents for part in content.parts or []]
        texts = [answer.response["weather"] for answer in found if answer is not None]
        parts = [types.Part(text=" ".join(texts))]
        if not texts:
            calls = [types.FunctionCall(name="weather", args={"city": city}) for city in ("Rome", "Oslo")]
            parts = [types.Part(function_call=call) for call in calls]
        yield LlmResponse(content=types.Content(role="model", parts=parts))


model: Any = "gemini-2.5-flash" if os.environ.get("GOOGLE_API_KEY") else Stand(model="stand-in")
root = durable(LlmAgent(name="guide", model=model, instruction="Help travellers.", tools=[weather]))
travel = Service("Travel")


@travel.handler()
async def ask(ctx: Context, question: str) -> str:
    runner = InMemoryRunner(root, app_name="travel")
    session = await runner.session_service.create_session(app_name="travel", user_id="user")
    message = types.Content(role="user", parts=[types.Part(text=question)])
    answer = ""
    async for event in runner.run_async(user_id="user", session_id=session.id, new_message=message):
        if event.is_final_response() and event.content and event.content.parts:
            answer = event.content.parts[0].text or ""
    return answer


app = App(travel)


async def main() -> None:
    async with Engine(app, path=None) as engine:
        print(await engine.call(ask, "Where is it sunny?"))


if __name__ == "__main__":
    asyncio.run(main())
