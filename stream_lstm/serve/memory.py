"""Freed memory, handed back to the operating system.

A compiler allocates and frees several hundred megabytes of small blocks, and so does a peer whose
messages are as large as they may be. The allocator of glibc keeps the freed pages for later
allocations, of which a daemon makes few.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

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
