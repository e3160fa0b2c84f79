"""What the process itself costs a tick: compilations, freed memory, garbage, thread switches.

A daemon compiles before it is ready. A later compilation makes a tick wait for a tenth of a second
or more, so `compilations` counts them.

A compiler allocates and frees hundreds of megabytes in small blocks, and so does a peer that sends
messages of the maximum size. glibc keeps the freed pages for later allocations, of which a daemon
makes few; `MemoryTrim` returns them to the system.

Python frees nearly every object of the loop by its reference count. The garbage collector is for
reference cycles, and by default runs after a number of allocations, mostly in the middle of a
tick. `Collector` runs it while no message waits, within a bounded share of the time, and at any
time once too many objects have accumulated.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

GROWN_BYTES = 32 * 2**20
"""Growth after which free pages are returned. Normal work grows by far less, and the search for
free pages takes milliseconds."""

TRIES = 20
"""Attempts after a growth: what a peer sent stays in use for some seconds before it is freed."""

STATM = Path("/proc/self/statm")

YOUNG = 2_000
"""New objects that make a collection worthwhile; it takes some 0.1 ms."""

LIMIT = 100_000
"""New objects that start a collection without a pause: 10 MB of small ones."""

OLDER = 10
"""Collections of a generation for each one of the next older, as Python has it."""

SHARE = 0.01
"""Largest share of the time for collections in pauses."""

SWITCH_S = 0.0002
"""Longest wait for the interpreter while a scrape, a drawing or a store's writer runs. Python's
default of 5 ms would be the longest wait of a tick."""

COMPILED = "/jax/core/compile/backend_compile_duration"
"""JAX's event for each program, whether compiled or read from the persistent cache."""


def release_unused() -> bool:
    """Return free pages of the allocator to the system; return whether there were any.

    Does nothing without `malloc_trim`, which only glibc has.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return bool(trim(0))


class MemoryTrim:
    """Returns memory to the system after growth; `tend` is called once a second."""

    def __init__(self) -> None:
        self._level, self._tries = _resident(), 0

    def tend(self) -> None:
        """Release free pages while memory is GROWN_BYTES above its level.

        Memory that TRIES attempts did not release is in use, and becomes the new level.
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
    """Return the resident memory of this process in bytes, 0 where the system does not say."""
    with contextlib.suppress(OSError, AttributeError):  # Windows has neither
        return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


class Collector:
    """A context manager inside which `run` collects garbage and Python does not.

    Objects that exist on entry are never examined. clock: seconds, monotonic. collector: the
    module `gc`, or a double of it.
    """

    def __init__(self, clock: Callable[[], float], collector: Any = gc) -> None:
        self._clock = clock
        self._gc = collector
        self._automatic = False
        self._not_before = clock()

    def run(self, pause: Callable[[], bool]) -> None:
        """Collect if it is worthwhile and `pause()` is true, or if too many objects exist."""
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

    def __exit__(self, *error: object) -> None:
        if self._automatic:
            self._gc.enable()
        self._gc.unfreeze()


_intervals: list[float] = []
"""The interval that each user of `quick_switches` found; the first is that of no user."""


@contextmanager
def quick_switches() -> Iterator[None]:
    """Limit the time for which a thread holds the interpreter to SWITCH_S.

    The last of several nested or overlapping users restores the interval of before the first.
    """
    _intervals.append(sys.getswitchinterval())
    sys.setswitchinterval(min(_intervals[0], SWITCH_S))
    try:
        yield
    finally:
        before = _intervals.pop()
        if not _intervals:
            sys.setswitchinterval(before)


@cache
def _programs() -> list[float]:
    """Return the list to which JAX adds the seconds of each compilation from now on."""
    import jax  # the live table and a store's writer use this module without it

    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:  # JAX sets the names
        if event == COMPILED:
            seconds.append(duration_secs)  # any thread may compile

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seconds


def compilations() -> int:
    """Return how many programs any thread has compiled since the first call."""
    return len(_programs())
