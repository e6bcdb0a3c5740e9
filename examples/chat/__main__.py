"""`python -m examples.chat`: a conversation, and a server that is killed in the middle of an answer.

With `--page` you chat yourself: open the page that is printed, reload it, press Enter to kill the server. Exit code: 0
if what the reader holds is what was answered.
"""

import argparse
import http.server
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path
from urllib.parse import quote

from examples.processes import HOST, Server
from examples.provider import environment, provider
from perdure import Regenerated, StreamChunk
from perdure.testing.model_server import ChatRequest, Reply
from perdure.testing.openai_server import text_of

HERE = Path(__file__).parent
KILL_AFTER = 6  # words


def policy(request: ChatRequest) -> Reply:
    """The model without a key: it proves that it remembers."""
    said = [text_of(message) for message in request.messages if message["role"] == "user"]
    before = f", and before that {' and '.join(map(repr, said[:-1]))}" if said[:-1] else ""
    return Reply(f"You said {said[-1]!r} just now{before}. I remember all of it, whoever kills the server meanwhile.")


def converse(server: Server) -> bool:
    """Two messages; the server dies during the second answer. Whether the reader ends with what was answered."""
    with server.client() as client:
        print(f"ada:  hello\nchat: {client.call('Chat/say', 'hello', key='ada')}\nada:  how are you?\nchat: ", end="")
        begun = client.send("Chat/say", "how are you?", key="ada", idempotency_key="second")
        reader = client.stream(begun.id, "answer")
        for number, event in enumerate(reader, start=1):
            if isinstance(event, StreamChunk):
                print(event.value, end="", flush=True)
            elif isinstance(event, Regenerated):
                print(f"\n      <-- regenerated from word {event.position}\nchat: ", end="", flush=True)
            if number == KILL_AFTER:
                print("\n      <-- kill -9", flush=True)
                server.kill()
                threading.Thread(target=server.start).start()
        print()
        held = client.call("Chat/history", key="ada")
        return (
            bool("".join(reader.so_far) == begun.attach() == held["messages"][-1]["content"]) and not held["answering"]
        )


def pages() -> http.server.ThreadingHTTPServer:
    """Serves the page; any web server will do."""
    handler = partial(Quiet, directory=str(HERE))
    serving = http.server.ThreadingHTTPServer((HOST, 0), handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    return serving


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.chat", description=__doc__)
    parser.add_argument("--page", action="store_true", help="chat yourself, in a browser")
    page = parser.parse_args().page
    with tempfile.TemporaryDirectory() as folder, provider(policy, pace=0.2 if page else 0.03) as model:
        variables = {} if model is None else environment(model)
        with Server(Path(folder), "examples.chat.agent:app", variables) as server:
            if not page:
                return 0 if converse(server) else 1
            with pages() as serving:
                address = f"http://{HOST}:{serving.server_port}/page.html?ingress={quote(server.url)}&chat=ada"
                print(f"open {address}\nEnter kills the server, Ctrl-D ends")
                for _ in sys.stdin:
                    server.kill()
                    server.start()
                    print("killed, and started again")
                serving.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
