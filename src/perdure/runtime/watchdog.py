"""Notices when the event loop is held up, and says by whom.

Handlers and async steps share one event loop. Code that blocks it (a `time.sleep`, a synchronous HTTP client, a
long computation) holds up every other invocation, and nothing else would ever say so.
"""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

__all__ = ["Watchdog"]

_log = logging.getLogger("perdure.watchdog")

BEAT_SECONDS = 0.25
STACK_FRAMES = 6  # the innermost say where; the rest is the engine's own


class Watchdog:
    """Logs a warning, once for each time, when the loop has not turned for `threshold` seconds.

    `who` names what the loop's thread is running, or None; it is called from the watchdog's own thread. `observe` is
    told a few times a second how late (seconds) the loop was.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        who: Callable[[], str | None],
        threshold: float = 1.0,
        observe: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._loop = loop
        self._who = who
        self._threshold = threshold
        self._observe = observe
        self._beat = time.monotonic()
        self._watched = threading.get_ident()
        self._stopped = threading.Event()
        self._handle: asyncio.Handle | None = None
        self.longest = 0.0

    def start(self) -> None:
        """To be called on the loop's thread."""
        self._beat = time.monotonic()
        self._handle = self._loop.call_later(BEAT_SECONDS, self._turn)
        threading.Thread(target=self._watch, name="perdure-watchdog", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        if self._handle is not None:
            self._handle.cancel()

    def _turn(self) -> None:
        now = time.monotonic()
        late = now - self._beat - BEAT_SECONDS
        self.longest = max(self.longest, late)
        self._observe(max(0.0, late))
        if late > self._threshold:
            _log.warning("the event loop turns again; it was held up for %.1f s", late)
        self._beat = now
        if not self._stopped.is_set():
            self._handle = self._loop.call_later(BEAT_SECONDS, self._turn)

    def _watch(self) -> None:
        reported = 0.0
        while not self._stopped.wait(BEAT_SECONDS):
            beat = self._beat
            held_up = time.monotonic() - beat - BEAT_SECONDS
            if held_up > self._threshold and reported != beat:
                reported = beat
                self._report(held_up)

    def _report(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._watched)
        stack = "".join(traceback.format_stack(frame)[-STACK_FRAMES:]) if frame is not None else ""
        who = self._who() or "something outside any handler"
        _log.warning(
            "%s has held up the event loop for %.1f s, and every other invocation with it. Put blocking code into a "
            "plain function (not async) and call that with ctx.run: it then runs in a thread.\n%s",
            who,
            seconds,
            stack,
        )
