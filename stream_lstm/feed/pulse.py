"""A thread that calls a method of an object regularly, such as a publisher's for its heartbeats.

The thread holds its object by a weak reference, so that one that was dropped without closing ends
it, and is a daemon thread that ends before the interpreter is torn down.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections.abc import Callable

from ..errors import UsageError
from ..forks import call_in_child

JOIN_S = 1.0
"""For the thread to end at exit: a thread of the user's may hold what it waits for."""

MAX_WAIT_S = 3600.0
"""Between two calls at most: what a condition variable can wait is bounded."""


class Pulse:
    """Calls `method` until it is closed; the method returns the seconds until the next call.

    first_s: seconds until the first call. A UsageError of the method's ends the thread: the object
    was closed meanwhile.
    """

    def __init__(self, method: Callable[[], float], first_s: float) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=_run,
            args=(weakref.WeakMethod(method), self._over, first_s),
            name="stream-lstm heartbeats",
            daemon=True,
        )
        _running.add(self)
        self._thread.start()

    def stop(self) -> None:
        """Let no further call begin."""
        self._over.set()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until the thread has ended."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)


def _run(
    method: weakref.WeakMethod[Callable[[], float]], over: threading.Event, wait_s: float
) -> None:
    with contextlib.suppress(UsageError):
        while not over.wait(min(wait_s, MAX_WAIT_S)):
            call = method()
            if call is None:
                return
            wait_s = call()
            del call  # or it would keep the object


_running: weakref.WeakSet[Pulse] = weakref.WeakSet()


@atexit.register
def _end() -> None:
    pulses = list(_running)
    for pulse in pulses:
        pulse.stop()
    for pulse in pulses:
        pulse.join(JOIN_S)


call_in_child(_running.clear)  # a child has none of these threads
