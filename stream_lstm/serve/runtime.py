"""How many programs JAX has compiled in this process, or has read from its cache of them.

A daemon compiles before it is ready and not later: a tick that waits for the compiler waits for a
tenth of a second and more. This counts, so that a later compilation shows.

Freed memory, handed back to the operating system.

A compiler allocates and frees several hundred megabytes of small blocks, and so does a peer whose
messages are as large as they may be. The allocator of glibc keeps the freed pages for later
allocations, of which a daemon makes few.

Python's garbage collector, called in the pauses of a loop and not in the middle of a tick.

Nearly everything in the loop is freed by its reference count, at once. The collector is for what
refers to itself, and left alone it looks for that whenever enough objects have been made, mostly
while one is being worked on. Here it waits until nothing else does. What it may take of the time
is bounded, and so is what may pile up where there never is a pause.

How soon a thread that wakes gets the interpreter from another one that is at work.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

GROWN_BYTES = 32 * 2**20
"""Growth after which freed pages are looked for: a daemon in its usual work grows by far less, and
the search takes milliseconds."""

TRIES = 20
"""Attempts after a growth: what a peer has sent is in use for some seconds before it is freed."""

STATM = Path("/proc/self/statm")


def release_unused() -> bool:
    """Return free pages of the allocator to the system, and report whether there were any.

    Does nothing where the C library has no `malloc_trim`, which is glibc's own.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return False
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return bool(trim(0))


class Slack:
    """What the allocator keeps back: `tend`, called once a second, lets go of it after growth."""

    def __init__(self) -> None:
        self._level, self._tries = _resident(), 0

    def tend(self) -> None:
        """Return free pages to the system while memory is GROWN_BYTES above its level.

        What TRIES attempts did not bring back is in use, and a level of its own.
        """
        now = _resident()
        if now <= self._level + GROWN_BYTES:
            self._level, self._tries = min(self._level, now), 0
            return
        release_unused()
        self._tries += 1
        if self._tries == TRIES:
            self._level, self._tries = _resident(), 0


def _resident() -> int:
    """Return the resident memory of this process, bytes; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


YOUNG = 2_000
"""Objects more than at the last collection that make one worth its while: some 0.1 ms."""

LIMIT = 100_000
"""Objects at which there is a collection without a pause: 10 MB of small ones."""

OLDER = 10
"""Collections of a generation between two of the next older, as Python has it."""

SHARE = 0.01
"""Of the time goes to collections in pauses, at most."""


class Collector:
    """A context manager: inside it, garbage is collected by `turn` and not automatically.

    What there is on entry stays for good, and is never looked at. clock: seconds, monotonic.
    collector: what `gc` is in Python.
    """

    def __init__(self, clock: Callable[[], float], collector: Any = gc) -> None:
        self._clock = clock
        self._gc = collector
        self._automatic = False
        self._not_before = clock()

    def turn(self, pause: Callable[[], bool]) -> None:
        """Collect if it is worth it and nothing waits, as `pause()` says, or too much piled up."""
        young, middle, old = self._gc.get_count()
        if young < YOUNG:
            return
        start = self._clock()
        if young < LIMIT and (start < self._not_before or not pause()):
            return
        self._gc.collect(2 if old >= OLDER else 1 if middle >= OLDER else 0)
        now = self._clock()
        self._not_before = now + (now - start) / SHARE

    def __enter__(self) -> Collector:
        self._gc.collect()
        self._gc.freeze()
        self._automatic = self._gc.isenabled()
        self._gc.disable()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._automatic:
            self._gc.enable()
        self._gc.unfreeze()


SWITCH_S = 0.0002
"""That a tick waits at most for a scrape, a drawing or the writing of a store to let go of the
interpreter; Python's own 5 ms would be the longest wait of a tick."""

_wanted: list[object] = []
_before = [0.0]


@contextmanager
def quick_switches() -> Iterator[None]:
    """Let no thread keep the interpreter for longer than SWITCH_S while others want it.

    Whoever leaves last, in whatever order, brings back what was there before the first.
    """
    if not _wanted:
        _before[0] = sys.getswitchinterval()
        sys.setswitchinterval(min(_before[0], SWITCH_S))
    me = object()
    _wanted.append(me)
    try:
        yield
    finally:
        _wanted.remove(me)
        if not _wanted:
            sys.setswitchinterval(_before[0])


COMPILED = "/jax/core/compile/backend_compile_duration"
"""JAX's event for each program, whether it compiles it or reads it from `compile_cache`."""


class _Counter:
    """A listener to JAX, whose protocol names the arguments."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()  # any thread may compile

    def __call__(self, event: str, duration_secs: float, **about: str | int) -> None:  # noqa: ARG002
        if event == COMPILED:
            with self._lock:
                self.count += 1


_counter = _Counter()
jax.monitoring.register_event_duration_secs_listener(_counter)


def compilations() -> int:
    """Return how many programs have been compiled, in any thread, since this was imported."""
    return _counter.count
