"""`python -m examples.typescript_vercel`: an agent of the Vercel AI SDK, in TypeScript, on perdure.

Installs what is in `typescript-vercel` into `.cache` (npm, Node 20 or newer), serves it with Node, has perdure call it,
and kills Node while a tool is at work, and perdure while another is. Without OPENAI_API_KEY the model is on loopback.
Exit code: 0 if the provider was asked exactly as often as without the kills.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from examples.processes import HOST, ROOT, DemoFailed, Process, Server, free_port
from examples.provider import environment, provider
from perdure.testing.model_server import ChatRequest, Reply, ToolCall

SOURCE = ROOT / "examples" / "typescript-vercel"
CACHE = ROOT / ".cache" / "typescript-vercel"
FILES = ("package.json", "package-lock.json", "tsconfig.json")
INSTALL_SECONDS = 600.0


class Node(Process):
    """The endpoint: `typescript-vercel/src/serve.ts`."""

    def __init__(self, directory: Path, built: Path, environment: Mapping[str, str]) -> None:
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        command = [find("node"), str(built / "dist" / "serve.js")]
        super().__init__("the endpoint", command, directory / "node.log", {**environment, "PORT": str(port)})


def find(program: str) -> str:
    where = shutil.which(program)
    if where is None:
        raise DemoFailed(f"{program} is not installed: this example needs Node 20 or newer")
    return where


def build() -> Path:
    """The compiled example beside its packages, which are installed anew when the lock file changes."""
    npm = find("npm")
    wanted = "".join((SOURCE / name).read_text() for name in FILES)
    mark = CACHE / ".installed"
    if not mark.exists() or mark.read_text() != wanted:
        CACHE.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copy(SOURCE / name, CACHE)
        quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        subprocess.run([npm, "ci", *quiet], cwd=CACHE, check=True, timeout=INSTALL_SECONDS)
        mark.write_text(wanted)
    shutil.rmtree(CACHE / "src", ignore_errors=True)
    shutil.copytree(SOURCE / "src", CACHE / "src")
    subprocess.run([find("node"), "node_modules/typescript/bin/tsc"], cwd=CACHE, check=True, timeout=INSTALL_SECONDS)
    return CACHE


def policy(request: ChatRequest) -> Reply:
    """The model without a key: looks at the weather in both cities, books, tells; one tool at a time."""
    said = [str(message["content"]).strip('"') for message in request.messages if message["role"] == "tool"]
    calls = (
        ToolCall("weather", {"city": "Rome"}),
        ToolCall("weather", {"city": "Oslo"}),
        ToolCall("hotel", {"city": "Rome"}),
    )
    return Reply(tool_calls=(calls[len(said)],)) if len(said) < len(calls) else Reply(" ".join(said))


def demonstrate(folder: Path) -> int:
    with provider(policy) as model:
        traces = folder / "traces"
        traces.touch()
        variables = {"TRACES": str(traces), **({} if model is None else environment(model))}
        server = Server(folder, None, variables)
        with server, Node(folder, build(), variables) as node, server.client() as client:
            while True:
                try:
                    server.register(node.url)
                    break
                except DemoFailed:
                    node.check()  # it is still starting
                    time.sleep(0.05)
            begun = client.send("Travel/plan", "A weekend, please", idempotency_key="weekend")
            for process, tool in ((node, "weather Oslo"), (server, "hotel Rome")):
                while tool not in traces.read_text():
                    node.check()
                    time.sleep(0.005)
                process.kill()
                print(f"killed {process.name} during {tool!r}; started again")
                process.start()
            print(begun.attach(timeout=120))
        tools = traces.read_text().splitlines()
    print(f"{len(set(tools))} tools; {len(tools) - len(set(tools))} of them ran again, since a kill cut them")
    if model is None:
        return 0
    print(f"{model.count()} requests of the model")
    return 0 if model.count() == 4 and len(set(tools)) == 3 else 1


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return demonstrate(Path(folder))
        except DemoFailed as failure:
            print(f"the example could not be run: {failure}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
