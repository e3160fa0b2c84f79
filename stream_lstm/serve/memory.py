"""Memory that compilation leaves behind, handed back to the operating system.

A compiler allocates and frees several hundred megabytes of small blocks. The allocator of glibc
keeps the freed pages for later allocations, and a daemon that has compiled everything makes few.
"""

from __future__ import annotations

import ctypes


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
