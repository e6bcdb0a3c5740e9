"""`python -m examples.streaming.demo`: the server is killed twice while it streams, and the reader ends with the story.

Where something that was shown is void, a line says so.

Exit code: 0 if the text of the reader is the result of the handler, 1 if it is not.
"""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from examples.streaming.storyteller import tell
from perdure import Regenerated, StreamChunk, SyncClient

ROOT = Path(__file__).resolve().parents[2]
KILL_AFTER = (12, 30)  # chunks seen


class Server:
    """`perdure serve`, on free ports that stay the same from one life to the next."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.ports = _free_ports()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        ingress, admin = map(str, self.ports)
        command = [sys.executable, "-m", "perdure", "serve", "examples.streaming.storyteller:app"]
        command += ["--data-dir", self.folder, "--ingress-port", ingress, "--admin-port", admin]
        environment = {**os.environ, "PERDURE_LOG_LEVEL": "error"}
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=quiet, stderr=quiet)

    def kill(self) -> None:
        """As `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _free_ports() -> tuple[int, int]:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        return first.getsockname()[1], second.getsockname()[1]


def run(folder: str) -> int:
    """The demo, in a data directory; the exit code."""
    server = Server(folder)
    server.start()
    kills = list(KILL_AFTER)
    try:
        with SyncClient(f"http://127.0.0.1:{server.ports[0]}", retries=40, timeout=60) as client:
            invocation = client.send(tell, "a lighthouse", idempotency_key="story")
            reader = client.stream(invocation.id, "story")
            for count, event in enumerate(reader):
                if isinstance(event, StreamChunk):
                    print(event.value, end="", flush=True)
                elif isinstance(event, Regenerated):
                    print(f"\n   <-- regenerated from chunk {event.position}\n", flush=True)
                if kills and count >= kills[0]:
                    kills.pop(0)
                    print("\n   <-- kill -9", flush=True)
                    server.kill()
                    threading.Timer(0.2, server.start).start()
            text, result = "".join(reader.so_far), invocation.attach()
    finally:
        server.kill()
    same = text == result
    print(f"\nWhat the reader holds is {'' if same else 'NOT '}what the handler returned: {len(result)} characters.")
    return 0 if same and not kills else 1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(run(folder))
