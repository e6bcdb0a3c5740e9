"""`python -m examples.approval.demo`: a server asks a person, is killed, comes back, and gets its answer by a link.

With `--yourself` you are the person: open the link that is printed. Otherwise the form is sent for you.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from examples.approval.agent import Complaint, handle
from perdure import SyncClient

ROOT = Path(__file__).parents[2]


class Server:
    """`perdure serve` with the agent, over one data directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = ("0", "0")
        self.mailbox = folder / "mailbox"
        self.mailbox.touch()

    def start(self) -> SyncClient:
        command = [sys.executable, "-m", "perdure", "serve", "examples.approval.agent:app"]
        command += ["--data-dir", str(self._folder / "data")]
        command += ["--ingress-port", self._ports[0], "--admin-port", self._ports[1]]
        environment = {**os.environ, "APPROVAL_MAILBOX": str(self.mailbox)}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        found = re.search(r"ingress (http://\S+:(\d+)), admin (http://\S+:(\d+)),", ready)
        if found is None:
            raise SystemExit("the server did not start")
        self._ports = (found[2], found[4])  # the same after a kill: the link leads there
        return SyncClient(found[1], admin_url=found[3])

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def mail(self) -> str:
        """The first mail, when it is there."""
        while not (text := self.mailbox.read_text(encoding="utf-8")).endswith("\n"):
            time.sleep(0.02)
        return text.splitlines()[0]


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="perdure-approval-") as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.approval.demo", description=__doc__)
    parser.add_argument("--yourself", action="store_true", help="answer on the page yourself")
    yourself = parser.parse_args().yourself
    with serving() as server:
        with server.start() as client:
            sent = client.send(handle, Complaint("A-17", "it came broken"))
            mail = server.mail()
            print(f"a mail:     {mail}")
        server.kill()
        print("the server: killed while nobody has answered, and started again")
        with server.start() as client:
            (waiting,) = client.approvals().list()
            print(f"the inbox:  {waiting.id} {waiting.title}")
            link = mail.rpartition(" ")[2]
            if yourself:
                print("your turn:  open the link of the mail, and decide")
            else:
                form = urlencode({"decision": "approve", "value.amount": "100", "by": "Ann"}).encode()
                urlopen(Request(link, form), timeout=30).close()
                print("the person: approves 100 EUR on the page behind the link")
            print(f"the agent:  {client.invocation(sent.id).attach()}")
            done = client.approvals().get(waiting.id)
            print(f"the record: {done.status} by {done.by}, {done.value}")


if __name__ == "__main__":
    main()
