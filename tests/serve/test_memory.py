"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from stream_lstm.serve import runtime

MEGABYTE = 2**20


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_freed_blocks_go_back_to_the_system() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    size, count = 100_000, 500  # below the size for which the allocator maps pages of their own
    blocks = [libc.malloc(size) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:  # the last one keeps the top of the heap in use
        libc.free(block)
    before = resident()
    assert runtime.release_unused()
    assert before - resident() > 30 * MEGABYTE
    libc.free(blocks[-1])


def test_growth_that_was_freed_goes_back_and_usual_work_is_left_alone(monkeypatch):
    now, released = 0, []
    monkeypatch.setattr(runtime, "GROWN_BYTES", 32)
    monkeypatch.setattr(runtime, "TRIES", 3)
    monkeypatch.setattr(runtime, "_resident", lambda: now)
    monkeypatch.setattr(runtime, "release_unused", lambda: released.append(now))
    slack = runtime.MemoryTrim()

    def tend(*sizes):
        nonlocal now
        released.clear()
        for size in sizes:
            now = size
            slack.tend()
        return list(released)

    assert tend(10, 32) == [], "no more than the usual"
    assert tend(100, 90, 20) == [100, 90], "until it is free"
    assert tend(80, 80, 80, 80, 112) == [80, 80, 80], "or known to be in use"
    assert tend(113) == [113]
    assert tend(50, 82) == [], "a level that fell counts"
    assert tend(83) == [83]


def _of_windows(name: str | None) -> object:
    raise TypeError(f"LoadLibrary() argument 1 must be str, not {name}")


@pytest.mark.parametrize("load", [lambda _name: object(), _of_windows])
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, load: object) -> None:
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert not runtime.release_unused()
