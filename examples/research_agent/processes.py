"""The two processes of the demo: the model, which lives, and perdure's server, which is killed."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples import processes
from examples.processes import HOST, DemoFailed, Process, free_port, request, wait_for

__all__ = ["DemoFailed", "Model", "Server"]


class Model(Process):
    """The loopback provider. It outlives every kill, and counts."""

    def __init__(self, directory: Path, latency: tuple[float, float], faults: list[dict[str, object]]) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "perdure.testing.openai_server", "--port", str(self.port)]
        command += ["--policy", "examples.research_agent.policy:researcher"]
        command += ["--latency", *(str(seconds) for seconds in latency)]
        for fault in faults:
            command += ["--fault", json.dumps(fault)]
        super().__init__("the model", command, directory / "model.log", {})

    @property
    def environment(self) -> dict[str, str]:
        """What the `openai` client needs to find it, and to find it without a proxy."""
        return {
            "OPENAI_BASE_URL": f"http://{HOST}:{self.port}/v1",
            "OPENAI_API_KEY": "loopback",
            "NO_PROXY": HOST,
            "no_proxy": HOST,
        }

    def start(self) -> None:
        super().start()
        wait_for(self, self.port, "/v1/models")

    def report(self) -> dict[str, Any]:
        """What it has seen."""
        _, report = request("GET", self.port, "/_requests")
        assert isinstance(report, dict)
        return report


class Server(processes.Server):
    """`perdure serve` with the agent in it."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        super().__init__(directory, "examples.research_agent.agent:app", environment)

    def send(self, topic: Mapping[str, object], key: str) -> str:
        """Start the agent and return the id of its invocation."""
        path = "/ResearchAgent/research/send"
        status, answer = request("POST", self.ingress, path, topic, {"idempotency-key": key})
        if status not in (200, 202):
            raise DemoFailed(f"{path} answered {status}: {answer}")
        return str(answer["invocationId"])

    def finished(self, invocation: str) -> bool:
        """Whether the agent has ended, well or not."""
        status, _ = request("GET", self.ingress, f"/restate/invocation/{invocation}/output")
        return status != 470

    def attach(self, invocation: str) -> dict[str, Any]:
        """Wait for the agent's report."""
        status, answer = request("GET", self.ingress, f"/restate/invocation/{invocation}/attach", timeout=60)
        if status != 200:
            raise DemoFailed(f"the agent failed with {status}: {answer}\n{self.tail()}")
        assert isinstance(answer, dict)
        return answer
