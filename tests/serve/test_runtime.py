"""What the process costs a tick: garbage, freed memory, thread switches."""

import ctypes
import gc
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from stream_lstm.serve import runtime
from stream_lstm.serve.runtime import (
    LIMIT,
    OLDER,
    SHARE,
    SWITCH_S,
    YOUNG,
    Collector,
    quick_switches,
)

# ---- garbage ------------------------------------------------------------------------------


class Recorded:
    """A double of the module `gc`; each collection takes `takes` seconds."""

    def __init__(self):
        self.counts, self.done, self.on, self.frozen = (0, 0, 0), [], True, False
        self.now, self.takes = 100.0, 0.5

    def clock(self):
        return self.now

    def get_count(self):
        return self.counts

    def collect(self, generation=2):
        self.now += self.takes
        self.done.append(generation)

    def isenabled(self):
        return self.on

    def enable(self):
        self.on = True

    def disable(self):
        self.on = False

    def freeze(self):
        self.frozen = True

    def unfreeze(self):
        self.frozen = False


@pytest.fixture
def python():
    return Recorded()


@pytest.fixture
def collector(python):
    with Collector(python.clock, python) as made:
        python.done.clear()
        yield made


def unasked():
    pytest.fail("the collector asked whether there is a pause")


@pytest.mark.parametrize("on", [True, False])
def test_existing_objects_are_frozen_and_nothing_is_automatic_until_the_end(python, on):
    python.on = on
    with Collector(python.clock, python):
        assert (python.on, python.frozen, python.done) == (False, True, [2])
    assert (python.on, python.frozen) == (on, False)


def test_few_objects_wait_and_many_are_collected_in_the_next_pause(python, collector):
    python.counts = (YOUNG - 1, 0, 0)
    collector.run(unasked)
    python.counts = (YOUNG, 0, 0)
    collector.run(lambda: False)
    assert python.done == []
    collector.run(lambda: True)
    assert python.done == [0]


def test_older_generations_have_their_turn(python, collector):
    python.takes = 0.0
    for middle, old in ((OLDER - 1, 0), (OLDER, 0), (0, OLDER)):
        python.counts = (YOUNG, middle, old)
        collector.run(lambda: True)
    assert python.done == [0, 1, 2]


def test_the_share_of_the_time_is_bounded(python, collector):
    python.counts = (YOUNG, 0, 0)
    collector.run(lambda: True)
    python.now += 0.98 * python.takes / SHARE
    collector.run(unasked)
    assert python.done == [0]
    python.now += 0.04 * python.takes / SHARE
    collector.run(lambda: True)
    assert python.done == [0, 0]


def test_too_many_objects_are_collected_without_a_pause(python, collector):
    python.counts = (LIMIT - 1, 0, 0)
    collector.run(lambda: False)
    assert python.done == []
    python.counts = (LIMIT, 0, 0)
    for _ in range(2):
        collector.run(unasked)
    assert python.done == [0, 0]


def test_pythons_own_collector_counts_while_it_is_off():
    with Collector(lambda: 0.0) as collector:
        assert not gc.isenabled()
        made = [[] for _ in range(YOUNG + 1)]
        assert gc.get_count()[0] > YOUNG
        collector.run(lambda: True)
        assert gc.get_count()[0] < YOUNG
    assert len(made) > YOUNG
    assert gc.isenabled()


# ---- memory -------------------------------------------------------------------------------


def resident():
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096


def test_freed_blocks_go_back_to_the_system():
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
    assert before - resident() > 30 * 2**20
    libc.free(blocks[-1])


def test_memory_is_released_after_growth_until_it_is_known_to_be_in_use(monkeypatch):
    now, released = 0, []
    monkeypatch.setattr(runtime, "GROWN_BYTES", 32)
    monkeypatch.setattr(runtime, "TRIES", 3)
    monkeypatch.setattr(runtime, "_resident", lambda: now)
    monkeypatch.setattr(runtime, "release_unused", lambda: released.append(now))
    trim = runtime.MemoryTrim()

    def tend(*sizes):
        nonlocal now
        released.clear()
        for size in sizes:
            now = size
            trim.tend()
        return list(released)

    assert tend(10, 32) == [], "no more than the usual"
    assert tend(100, 90, 20) == [100, 90], "until it is free"
    assert tend(80, 80, 80, 80, 112) == [80, 80, 80], "or known to be in use"
    assert tend(113) == [113]
    assert tend(50, 82) == [], "a level that fell counts"
    assert tend(83) == [83]


def _on_windows(name):
    raise TypeError(f"LoadLibrary() argument 1 must be str, not {name}")


@pytest.mark.parametrize("load", [lambda _: object(), _on_windows])
def test_another_c_library_is_left_alone(monkeypatch, load):
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert not runtime.release_unused()


# ---- thread switches ----------------------------------------------------------------------


def test_the_last_user_restores_the_interval_of_before_the_first():
    before = sys.getswitchinterval()
    first, second = ExitStack(), ExitStack()
    first.enter_context(quick_switches())
    second.enter_context(quick_switches())
    first.close()
    assert sys.getswitchinterval() == pytest.approx(SWITCH_S, abs=2e-6)
    assert before > SWITCH_S
    second.close()
    assert sys.getswitchinterval() == before


def test_a_shorter_interval_stays():
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S / 2)
    try:
        with quick_switches():
            assert sys.getswitchinterval() == pytest.approx(SWITCH_S / 2, abs=2e-6)
    finally:
        sys.setswitchinterval(before)
