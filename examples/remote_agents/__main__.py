"""`python -m examples.remote_agents`: two agents in two processes, which call each other; both processes are killed.

The desk is served by perdure itself, the forecaster is an endpoint that perdure calls.
"""

import sys
import tempfile
import time
from pathlib import Path

from examples.processes import Endpoint, Process, Server
from examples.provider import environment, provider
from perdure.testing.model_server import ChatRequest, Fault, Reply, ToolCall

SLOW = Fault(delay=0.3, times=5)
"""Every request takes a while, so that the processes can be killed while it is made."""


def policy(request: ChatRequest) -> Reply:
    """The model of both agents: which one asks is seen by its tools."""
    said = [str(message["content"]) for message in request.messages if message["role"] == "tool"]
    if "ask_forecaster" in request.tool_names:
        question = "Will Ada like the weather in Lisbon?"
        return (
            Reply(f"Go to Lisbon: {said[0]}")
            if said
            else Reply(tool_calls=(ToolCall("ask_forecaster", {"question": question}),))
        )
    if said:
        return Reply(" and ".join(said))
    return Reply(tool_calls=(ToolCall("measure", {"city": "Lisbon"}), ToolCall("ask_desk", {"customer": "Ada"})))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, provider(policy, faults=[SLOW]) as model:
        variables = {} if model is None else environment(model)
        desk = Server(Path(folder), "examples.remote_agents.desk:app", variables)
        forecaster = Endpoint(Path(folder), "examples.remote_agents.forecaster:app", variables)
        with desk, forecaster, desk.client() as client:
            desk.register(forecaster.url)
            begun = client.send("Desk/plan", "A trip for Ada", idempotency_key="ada")

            def kill(process: Process, after: int) -> None:
                """When that many requests of the model have begun."""
                while model is not None and model.count() < after:
                    time.sleep(0.01)
                process.kill()
                print(f"killed {process.name}; started again")
                process.start()

            kill(forecaster, after=2)
            kill(desk, after=4)
            print(begun.attach(timeout=120))
    if model is None:
        return 0
    keys = [seen.key for seen in model.requests]
    print(
        f"{len(set(keys))} requests of the model, {len(keys) - len(set(keys))} of them made again since a kill cut them"
    )
    return 0 if len(set(keys)) == 4 and len(keys) <= 6 else 1


if __name__ == "__main__":
    sys.exit(main())
