"""When a prediction is due, and counters."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.core.stream import Counters, first_due


@given(fresh=st.integers(0, 200), window=st.integers(1, 60), stride=st.integers(1, 25))
def test_first_due_is_found_by_trying_every_n(fresh: int, window: int, stride: int) -> None:
    due = (n for n in itertools.count(1) if n >= fresh + window and (n - window) % stride == 0)
    assert first_due(fresh, window, stride) == next(due)


def test_counters_add_up() -> None:
    one, two = Counters(ticks=3, gaps=1), Counters(ticks=4, missed=9)
    one.merge(two)
    assert (one.ticks, one.gaps, one.missed, two.ticks) == (7, 1, 9, 4)
