"""Delays of an open loop are counted from the intended times, whatever stalls."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[1]
MS = 1_000_000
BEGIN = 7_000_000_000


@pytest.fixture
def schedule(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(REPOSITORY)
    return importlib.import_module("bench.schedule")


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(REPOSITORY)
    return importlib.import_module("bench.sender")


def served(due: np.ndarray, service_ns: int, pause: tuple[int, int] = (0, 0)) -> np.ndarray:
    """When a server is done with what comes at `due`: one at a time, with one pause (from, to)."""
    free, done = 0, []
    for at in due.tolist():
        start = max(at, free)
        if pause[0] <= start < pause[1]:
            start = pause[1]
        free = start + service_ns
        done.append(free)
    return np.array(done)


def test_a_pause_shows_in_every_tick_queued_behind_it(schedule: Any) -> None:
    offsets = schedule.constant(1000.0, seconds=1.0)
    pause = BEGIN + 500 * MS, BEGIN + 600 * MS
    arrivals = served(BEGIN + offsets, 1000, pause)
    _, delays = schedule.delays(offsets, BEGIN, np.arange(1000), arrivals)
    late = delays > MS // 2
    assert late.sum() == 100, "the ticks of the pause, not one of them"
    assert delays.max() == 100 * MS + 1000
    assert np.percentile(delays, 99) > 85 * MS
    stalled = delays[late]
    np.testing.assert_allclose(stalled, np.arange(100, 0, -1) * MS, atol=MS // 5)


def test_the_warm_up_is_not_counted(schedule: Any) -> None:
    offsets = schedule.constant(100.0, seconds=10.0)
    arrivals = served(BEGIN + offsets, 1000, (BEGIN, BEGIN + 500 * MS))
    intended, delays = schedule.delays(offsets, BEGIN, np.arange(1000), arrivals)
    assert len(delays) == 900
    assert intended[0] == BEGIN + 1000 * MS
    assert delays.max() == 1000


def test_answers_that_never_came_move_no_other(schedule: Any) -> None:
    offsets = schedule.constant(1000.0, seconds=1.0)
    kept = np.arange(1000) % 3 > 0
    arrivals = BEGIN + offsets + 5 * MS
    intended, delays = schedule.delays(offsets, BEGIN, np.flatnonzero(kept), arrivals[kept])
    assert set(delays.tolist()) == {5 * MS}
    assert len(intended) == kept[100:].sum()


@pytest.mark.parametrize(
    ("service_us", "grows"),
    [(500, False), (990, False), (1005, False), (1050, True), (3000, True)],
)
def test_delays_grow_where_the_subject_is_slower_than_what_comes(
    schedule: Any, service_us: int, grows: bool
) -> None:
    offsets = schedule.constant(1000.0, seconds=4.0)
    arrivals = served(offsets, service_us * 1000)
    intended, delays = schedule.delays(offsets, 0, np.arange(4000), arrivals)
    assert schedule.growing(intended, delays) == grows


def test_a_pause_that_is_worked_off_is_no_growth(schedule: Any) -> None:
    offsets = schedule.constant(1000.0, seconds=4.0)
    arrivals = served(offsets, 100_000, (2000 * MS, 2300 * MS))
    intended, delays = schedule.delays(offsets, 0, np.arange(4000), arrivals)
    assert delays.max() > 299 * MS
    assert not schedule.growing(intended, delays)


def test_a_recording_is_played_faster_and_cut_at_its_time(schedule: Any) -> None:
    times = np.array([5, 6, 9, 25, 105], np.int64) * 1000 * MS
    np.testing.assert_array_equal(
        schedule.recorded(times, speed=10.0, seconds=3.0), np.array([0, 100, 400, 2000]) * MS
    )
    assert len(schedule.recorded(times, speed=1.0, seconds=4.0)) == 2


def test_a_rate_is_of_ticks_however_many_a_message_holds(schedule: Any) -> None:
    single = schedule.constant(1000.0, seconds=2.0)
    blocks = schedule.constant(1000.0, seconds=2.0, block=250)
    assert (len(single), len(blocks)) == (2000, 8)
    np.testing.assert_array_equal(blocks, single[::250])


def test_predictions_are_due_every_ten_ticks_after_the_warm_up(schedule: Any) -> None:
    assert schedule.due_ticks(131).tolist() == [101, 111, 121, 131]
    assert schedule.due_ticks(100).tolist() == []
    assert schedule.due_messages(131, 1).tolist() == [100, 110, 120, 130]
    assert schedule.due_messages(4, 64).tolist() == [1, 2, 3]


class Clock:
    """A clock that moves only when it is read or slept on."""

    def __init__(self) -> None:
        self.now = 0

    def perf_counter_ns(self) -> int:
        self.now += 1000
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += int(seconds * 1e9)


def test_a_stall_of_the_sender_is_told_and_does_not_move_the_plan(
    sender: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(
        sender, "time", SimpleNamespace(perf_counter_ns=clock.perf_counter_ns, sleep=clock.sleep)
    )
    went: list[int] = []

    def send(message: Any) -> None:
        went.append(clock.now)
        clock.now += 50 * MS if message == (b"", b"10") else 0

    sent = [(b"", str(k).encode()) for k in range(100)]
    due = [MS * (k + 1) for k in range(100)]
    late = np.array(sender.send_all(send, sent, due))
    assert late[:11].max() < 10_000, "it is on time, neither early nor late, before the stall"
    assert late.min() >= 0
    assert (late[11:60] > MS).sum() >= 48
    assert late[70:].max() < 10_000, "it has caught up"
    assert len(went) == 100
    np.testing.assert_array_equal(np.array(went[11:20]), np.sort(went[11:20]))


def test_messages_carry_on_from_each_other_singly_and_in_blocks(sender: Any) -> None:
    from stream_lstm.feed.wire import MessageDecoder

    decode = MessageDecoder(("bid", "ask")).decode
    singles = [decode(*message) for message in sender.messages(12, 1)]
    blocks = [decode(*message) for message in sender.messages(3, 4)]
    assert [ticks.seq for ticks in singles] == list(range(1, 13))
    assert [ticks.seq for ticks in blocks] == [1, 5, 9]
    np.testing.assert_array_equal(
        np.concatenate([ticks.values for ticks in singles]),
        np.concatenate([ticks.values for ticks in blocks]),
    )
