"""The examples of several processes, as their users run them: real servers, killed; and the page of the chat."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.chat.__main__ import policy
from examples.processes import ROOT, Server
from examples.provider import environment, provider

BROWSER = Path(__file__).with_name("browser.mjs")
PAGE = ROOT / "examples" / "chat" / "page.html"


def run(name: str) -> str:
    # A developer's key must not be used for a test.
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ANTHROPIC_"))}
    command = [sys.executable, "-m", f"examples.{name}"]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_deep_research() -> None:
    output = run("deep_research")
    assert "200 steps, 3 kills" in output
    assert "96 tools ran" in output
    assert "104 requests to the model" in output


def test_remote_agents() -> None:
    output = run("remote_agents")
    assert "killed the endpoint" in output
    assert "killed perdure serve" in output
    assert "Go to Lisbon: 26 degrees in Lisbon and Ada likes it warm" in output
    assert "4 requests of the model" in output


def test_the_chat() -> None:
    output = run("chat")
    assert "<-- kill -9" in output
    assert re.search(r"regenerated from word \d", output)
    assert output.rstrip().endswith(
        "and before that 'hello'. I remember all of it, whoever kills the server meanwhile."
    )


def test_the_vercel_ai_sdk() -> None:
    output = run("typescript_vercel")
    assert "killed the endpoint during 'weather Oslo'" in output
    assert "killed perdure serve during 'hotel Rome'" in output
    assert "It is sunny in Rome. It snows in Oslo. A room in Rome is booked." in output
    assert output.endswith("4 requests of the model\n")


def test_its_lock_file_names_no_registry() -> None:
    assert '"resolved"' not in (ROOT / "examples" / "typescript-vercel" / "package-lock.json").read_text()


class Browser:
    """Somebody who has the page open; see `browser.mjs`."""

    def __init__(self, server: Server, *said: str) -> None:
        node = shutil.which("node")
        assert node is not None, "node is not installed"
        command = [node, str(BROWSER), str(PAGE), f"?ingress={server.url}&chat=ada", *said]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def shows(self) -> dict[str, Any]:
        """What it shows after the next change."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "it was closed"
        shown: dict[str, Any] = json.loads(line)
        return shown

    def until(self, expected: str) -> list[list[str]]:
        """What it shows when the last thing said is this."""
        while not (shown := self.shows()["shown"]) or shown[-1][1] != expected:
            pass
        self.close()
        return list(shown)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def test_the_page_survives_a_reload_and_the_death_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with provider(policy, pace=0.03) as model:
        assert model is not None
        with Server(tmp_path, "examples.chat.agent:app", environment(model)) as server:
            words = "I remember all of it, whoever kills the server meanwhile."
            answer = f"You said 'hello' just now. {words}"
            tab = Browser(server, "hello")
            while " just" not in json.dumps(tab.shows()):
                pass
            server.kill()
            server.start()
            reloaded = Browser(server)
            whole = [["user", "hello"], ["assistant", answer]]
            assert reloaded.until(answer) == tab.until(answer) == whole
            later = Browser(server, "bye").until(f"You said 'bye' just now, and before that 'hello'. {words}")
            assert later[:-1] == [*whole, ["user", "bye"]]
