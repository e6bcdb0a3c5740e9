"""What the killed server runs: an agent that hands over to one that uses a tool twice at once."""

import json
from collections.abc import AsyncIterator
from typing import Any

from google.adk.agents import LlmAgent
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types
from openai import AsyncOpenAI

from perdure import App, Context, RetryPolicy, Service, current_step
from perdure.ai.google_adk import durable
from perdure.testing.openai_server import ChatRequest, Reply
from tests.ai.killing import arm, effect

arm()
service = Service("Agent", retry_policy=RetryPolicy(initial_interval=0.01, max_attempts=None))


def policy(request: ChatRequest) -> Reply:
    """A hand-over, two squares at once, then their sum."""
    done = json.loads(request.text("user"))
    if "transfer_to_agent" not in done:
        return Reply(json.dumps([["transfer_to_agent", {"agent_name": "worker"}]]))
    if "square" not in done:
        return Reply(json.dumps([["square", {"number": 2}], ["square", {"number": 3}]]))
    return Reply("It is 13")


class Loopback(BaseLlm):
    """A model behind an OpenAI API: it is told which tools have answered, and says which to call, or the answer."""

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> AsyncIterator[LlmResponse]:
        parts = [part for content in llm_request.contents for part in content.parts or []]
        done = [part.function_response.name for part in parts if part.function_response]
        done += ["transfer_to_agent" for part in parts if part.text and "transfer_to_agent" in part.text]
        done += ["square" for part in parts if part.text and "`square`" in part.text]
        async with AsyncOpenAI(api_key="loopback", max_retries=0) as client:
            answer = await client.chat.completions.create(
                model="loopback",
                messages=[{"role": "user", "content": json.dumps(done)}],
                extra_headers={"Idempotency-Key": current_step().token},
            )
        text = answer.choices[0].message.content or ""
        said = [types.Part(text=text)]
        if text.startswith("["):
            calls = [types.FunctionCall(name=name, args=args) for name, args in json.loads(text)]
            said = [types.Part(function_call=call) for call in calls]
        yield LlmResponse(content=types.Content(role="model", parts=said))


async def square(number: int) -> dict[str, int]:
    """The square of a number."""
    effect(f"square {number}")
    return {"square": number * number}


model: Any = Loopback(model="loopback")
worker = LlmAgent(name="worker", model=model, tools=[square])
root = durable(LlmAgent(name="root", model=model, sub_agents=[worker]))


@service.handler()
async def ask(ctx: Context, question: str) -> str:
    runner = InMemoryRunner(root, app_name="app")
    session = await runner.session_service.create_session(app_name="app", user_id="u")
    message = types.Content(role="user", parts=[types.Part(text=question)])
    answer = ""
    async for event in runner.run_async(user_id="u", session_id=session.id, new_message=message):
        if event.is_final_response() and event.content and event.content.parts:
            answer = event.content.parts[0].text or ""
    return answer


app = App(service)
