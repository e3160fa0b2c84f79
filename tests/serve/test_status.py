"""The usual interval of a stream, and when it is late."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.serve.status import (
    COLOURS,
    FLOOR_S,
    LATE_AFTER,
    UNKNOWN_S,
    Arrivals,
    late_after_s,
    learned,
    words,
)

gaps = st.floats(0.01, 1e5)


@given(gaps, gaps)
def test_an_interval_moves_towards_a_gap_and_one_gap_moves_it_little(interval, gap):
    moved = float(learned(interval, gap))
    assert min(interval, gap) * (1 - 1e-9) <= moved <= max(interval, gap) * (1 + 1e-9)
    assert moved <= 1.4 * interval


@given(gaps, gaps)
def test_an_interval_settles_at_a_constant_gap(first, gap):
    interval = first
    for _ in range(1_000):
        interval = float(learned(interval, gap))
    assert math.isclose(interval, gap, rel_tol=1e-3)


@given(st.lists(st.tuples(st.floats(0.5, 50), gaps), min_size=1, max_size=9))
def test_arrays_learn_as_single_numbers(pairs):
    intervals, new = np.array(pairs).T
    alone = [float(learned(a, b)) for a, b in pairs]
    np.testing.assert_allclose(learned(intervals, new), alone, rtol=1e-12)


@given(st.integers(0, 2**32), st.floats(0.2, 60))
def test_a_stream_with_random_gaps_is_rarely_late(seed, mean):
    random = np.random.default_rng(seed)
    interval, late = math.nan, 0
    for gap in random.exponential(mean, 500) + 0.01:
        late += gap > late_after_s(interval)
        interval = float(learned(interval, gap))
    assert late < 25


def test_bursts_do_not_hide_the_pauses_between_them():
    arrivals, row = Arrivals(), np.array([0])
    arrivals.grow(1)
    for burst in range(50):
        for tick in range(100):
            now = 20.0 * burst + 0.005 * tick
            assert burst < 2 or now - arrivals.last_s[0] < late_after_s(arrivals.interval_s[0])
            arrivals.arrive(row, now)
    assert 59 < late_after_s(arrivals.interval_s[0]) < 61


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), max_size=30))
def test_rows_learn_alone_as_together(turns):
    together, alone = Arrivals(), [Arrivals() for _ in range(3)]
    together.grow(3)
    for one in alone:
        one.grow(1)
    for k, came in enumerate(turns):
        together.arrive(np.flatnonzero(came), 0.7 * k)
        for one, arrived in zip(alone, came, strict=True):
            one.arrive(np.arange(int(arrived)), 0.7 * k)
    np.testing.assert_array_equal(together.interval_s, [one.interval_s[0] for one in alone])


def test_the_limits_of_fast_and_of_unknown_streams():
    np.testing.assert_array_equal(
        late_after_s(np.array([0.001, 10.0, np.nan])), [FLOOR_S, 10 * LATE_AFTER, UNKNOWN_S]
    )


def test_each_status_has_a_colour():
    assert COLOURS == {
        "waiting": "grey", "live": "green", "late": "amber", "ended": "grey", "lost": "red",
    }  # fmt: skip


def test_times_in_words():
    assert [words(s) for s in (1.2, 119, 120, 7_300)] == [
        "1 second", "119 seconds", "2 minutes", "2 hours",
    ]  # fmt: skip
