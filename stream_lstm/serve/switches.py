"""How soon a thread that wakes gets the interpreter from another one that is at work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH_S = 0.0002
"""That a tick waits at most for a scrape or a drawing to let go of the interpreter."""


@contextmanager
def quick_switches() -> Iterator[None]:
    """Let no thread keep the interpreter for longer than SWITCH_S while others want it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_S))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
