"""Python's garbage collector, called in the pauses of a loop and not in the middle of a tick.

Nearly everything in the loop is freed by its reference count, at once. The collector is for what
refers to itself, and left alone it looks for that whenever enough objects have been made, mostly
while one is being worked on. Here it waits until nothing else does. What it may take of the time
is bounded, and so is what may pile up where there never is a pause.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from types import TracebackType
from typing import Any

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
