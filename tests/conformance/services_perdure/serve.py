"""Serves the services until it is ended: `PORT`, `MODE`, `VERSION`, `PREFIX`, `SERVICES`, `WITNESS_DIR` say how.

`IDENTITY_KEYS`, beyond the contract, are the public keys of servers that alone are answered.
"""

import asyncio
import os
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

from perdure import App
from tests.conformance.services_perdure.basic import echo_service, failing, hidden, steps
from tests.conformance.services_perdure.calling import caller
from tests.conformance.services_perdure.keyed import approval, counter, lazy_store, relay_object, store
from tests.conformance.services_perdure.waiting import cancellable, timers, versioned, waiting
from tests.conformance.services_perdure.witness import PREFIX

ALL = (
    *(echo_service, hidden, steps, failing, counter, store, lazy_store, relay_object, approval),
    *(caller, timers, waiting, cancellable, versioned),
)


def main() -> None:
    wanted = os.environ.get("SERVICES", "")
    chosen = [known for known in ALL if not wanted or known.name.removeprefix(PREFIX) in wanted.split(",")]
    keys = os.environ.get("IDENTITY_KEYS", "").split()
    protocol: Any = "request-response" if os.environ.get("MODE") == "request_response" else "bidi"
    app = App(*chosen, identity_keys=keys, protocol=protocol)
    config = Config()
    config.bind = [f"127.0.0.1:{os.environ['PORT']}"]
    config.keep_alive_max_requests = 1_000_000_000  # else a connection is closed, with its streams, after 1,000
    config.h2_max_concurrent_streams = 1000
    asyncio.run(serve(app, config))  # type: ignore[arg-type]  # its word for an application is narrower than ASGI's


if __name__ == "__main__":
    main()
