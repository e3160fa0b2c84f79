"""How soon a thread that wakes gets the interpreter from another one that is at work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
