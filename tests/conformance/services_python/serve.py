# mypy: ignore-errors
"""Serves the services until it is ended: `PORT`, `MODE`, `VERSION`, `PREFIX`, `SERVICES`, `WITNESS_DIR` say how."""

import asyncio
import os

import restate
from basic import echo_service, failing, hidden, steps
from calling import caller
from hypercorn.asyncio import serve
from hypercorn.config import Config
from keyed import approval, counter, lazy_store, relay_object, store
from waiting import cancellable, timers, versioned, waiting
from witness import PREFIX

ALL = (
    *(echo_service, hidden, steps, failing, counter, store, lazy_store, relay_object, approval),
    *(caller, timers, waiting, cancellable, versioned),
)


def main() -> None:
    wanted = os.environ.get("SERVICES", "")
    chosen = [known for known in ALL if not wanted or known.name.removeprefix(PREFIX) in wanted.split(",")]
    mode = "request_response" if os.environ.get("MODE") == "request_response" else "bidi"
    config = Config()
    config.bind = [f"127.0.0.1:{os.environ['PORT']}"]
    config.keep_alive_max_requests = 1_000_000_000  # else a connection is closed, with its streams, after 1,000
    config.h2_max_concurrent_streams = 1000
    asyncio.run(serve(restate.app(chosen, protocol=mode), config))


if __name__ == "__main__":
    main()
