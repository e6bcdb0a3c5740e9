"""`python -m examples.deep_research`: two hundred steps, and a server that is killed three times meanwhile.

Two witnesses outside of perdure count: the provider, which sees every request with its idempotency key, and a file with
a line for every tool that ran. Exit code: 0 if nothing ran again but what was at work when the server was killed.
"""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from examples.processes import Server
from examples.provider import environment, provider
from perdure.testing.model_server import ChatRequest, ModelServer, Reply

KILLS = (15, 50, 80)  # after so many tools
SUBJECTS = ("replay", "journals", "fencing", "sagas", "commits", "checkpoints", "storage", "locks")
ASPECTS = ("cost of", "limits of", "use of")


def policy(request: ChatRequest) -> Reply:
    """The model without a key."""
    task, _, text = request.text("user").partition("\n")
    if task.startswith("List"):
        return Reply("\n".join(f"What is the {aspect} {subject}?" for subject in SUBJECTS for aspect in ASPECTS))
    if task.startswith("What does this say"):
        return Reply(text.partition(".")[0].replace("\n", " ") + ".")
    return Reply(text)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, provider(policy, latency=(0.01, 0.03)) as model:
        traces = Path(folder, "traces")
        traces.touch()
        variables = {"DEEP_RESEARCH_TRACES": str(traces), **({} if model is None else environment(model))}
        with Server(Path(folder), "examples.deep_research.agent:app", variables) as server, server.client() as client:
            begun = client.send("DeepResearch/research", "durable execution", idempotency_key="report")
            for count in KILLS:
                while len(traces.read_text().splitlines()) < count:
                    server.check()
                    time.sleep(0.005)
                server.kill()
                print(f"killed after {count} tools; started again")
                server.start()
            report = begun.attach(timeout=600)
            steps = sum(entry["kind"] == "Run" for entry in begun.describe().journal)
        print(f"{len(report.splitlines())} lines of report, {steps} steps, {len(KILLS)} kills")
        return judge(traces.read_text().splitlines(), model, steps)


def judge(traces: list[str], model: ModelServer | None, steps: int) -> int:
    """What the witnesses say. At most fifteen things are done at once, so no kill can cut more."""
    most = 15 * len(KILLS)
    tools = Counter(traces)
    print(f"{len(tools)} tools ran, {tools.total() - len(tools)} of them again: they were at work when it was killed")
    if model is None:
        return 0 if tools.total() - len(tools) <= most else 1
    asked = Counter(seen.key for seen in model.requests)
    print(f"{len(asked)} requests to the model, {asked.total() - len(asked)} of them again, for the same reason")
    again = tools.total() + asked.total() - len(tools) - len(asked)
    return 0 if again <= most and len(tools) + len(asked) == steps else 1


if __name__ == "__main__":
    sys.exit(main())
