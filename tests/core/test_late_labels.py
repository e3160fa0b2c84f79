"""A file's own labels in their own time, against where each row's label must turn up."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.core.replay import LateLabels
from stream_lstm.events import Output, Prediction, Score, Ticks

from ..engines import settings as configuration
from .driving import open_session

SIZE = 90


def run(
    cuts: list[int], *, bad: set[int] = frozenset(), config: Any = None, **options: Any
) -> tuple[list[Output], LateLabels, np.ndarray]:
    """Push SIZE rows in blocks; the rows of `bad` make no element."""
    config = config or configuration(labels="external", stride=5)
    events: list[Output] = []
    late = LateLabels(open_session(config, events.append), **options)
    xs = np.random.default_rng(0).normal(size=SIZE)
    xs[list(bad)] = np.nan
    truth = np.random.default_rng(1).integers(0, 2, SIZE).astype(np.float64)
    times = np.arange(SIZE, dtype=np.int64) * 10
    edges = sorted({0, SIZE, *cuts})
    for start, stop in itertools.pairwise(edges):
        part = slice(start, stop)
        late.push(Ticks("a", times[part], xs[part, None], seq=start), truth[part])
    made = np.delete(np.arange(SIZE), list(bad))
    return events, late, truth[made]


cuts = st.lists(st.integers(1, SIZE - 1), max_size=6)


@settings(max_examples=40, deadline=None)
@given(cuts=cuts, bad=st.sets(st.integers(0, SIZE - 1), max_size=9), delay=st.integers(0, 60))
def test_the_label_is_that_of_the_row_that_made_the_element(
    cuts: list[int], bad: set[int], delay: int
) -> None:
    events, late, truth = run(cuts, bad=bad, delay=delay)
    scores = [e for e in events if isinstance(e, Score)]
    due = range(12, len(truth) + 1, 5)
    # with the row of element n + 1 + delay, and before it is stepped
    wanted = [n for n in due if n + 1 + delay <= len(truth)]
    assert [(e.n, e.label) for e in scores] == [(n, truth[n]) for n in wanted]
    read = [n for n in due if n + 1 <= len(truth)]
    assert late.undelivered == len(read) - len(wanted)
    at = {e.n: k for k, e in enumerate(events) if isinstance(e, Prediction)}
    for score in scores:  # not before the last prediction that comes before it
        before = [n for n in due if n <= score.n + delay]
        assert events.index(score) > at[before[-1]]
        assert all(events.index(score) < at[n] for n in due if n > score.n + delay)


@settings(max_examples=20, deadline=None)
@given(one=cuts, two=cuts, seed=st.integers(0, 9))
def test_shuffled_labels_come_alike_however_rows_are_cut(
    one: list[int], two: list[int], seed: int
) -> None:
    runs = [run(at, delay=40, rng=np.random.default_rng(seed))[0] for at in (one, two)]
    assert runs[0] == runs[1]
    order = [e.n for e in runs[0] if isinstance(e, Score)]
    assert len(set(order)) == len(order) > 5


def test_shuffled_means_in_another_order() -> None:
    events, _, _ = run([], delay=60, rng=np.random.default_rng(2))
    order = [e.n for e in events if isinstance(e, Score)]
    assert order != sorted(order)


@pytest.mark.parametrize("delay_ns", [0, 1, 95, 400])
def test_a_delay_in_time_counts_from_the_row_of_the_label(delay_ns: int) -> None:
    events, _, truth = run([17, 40], delay_ns=delay_ns)
    scores = [e for e in events if isinstance(e, Score)]
    assert [e.t_ns for e in scores] == [10 * e.n + delay_ns for e in scores]
    # the row of element m has time 10 (m - 1); a label comes before the first row at its time
    wanted = [n for n in range(12, SIZE, 5) if 10 * n + delay_ns <= 10 * (SIZE - 1)]
    assert [e.n for e in scores] == wanted
    assert [e.label for e in scores] == [truth[n] for n in wanted]


def test_an_elements_own_label_comes_after_its_prediction_and_before_the_next() -> None:
    for delay in (0, 1):
        config = configuration(labels="external", stride=1, horizon=0)
        events, _, truth = run([33], config=config, delay=delay)
        kinds = [(type(e), e.n) for e in events]
        wanted = [(kind, n) for n in range(12, SIZE + 1) for kind in (Prediction, Score)]
        assert kinds == wanted[: len(wanted) - delay]  # the last row has none behind it
        assert [e.label for e in events if isinstance(e, Score)] == truth[
            11 : SIZE - delay
        ].tolist()


def test_what_comes_with_a_row_is_known_to_its_prediction() -> None:
    """A column that holds the signs of the series is scored as the series itself is."""
    config = configuration(labels="external", stride=1)
    events, _, _ = run([20, 21, 60], config=config)
    kinds = [(type(e), e.n) for e in events]
    assert kinds[:4] == [(Prediction, 12), (Score, 12), (Prediction, 13), (Score, 13)]
    late, _, _ = run([20, 21, 60], config=config, delay=1)
    kinds = [(type(e), e.n) for e in late]
    assert kinds[:4] == [(Prediction, 12), (Prediction, 13), (Score, 12), (Prediction, 14)]

    xs = np.random.default_rng(0).normal(size=SIZE)
    outcomes = []
    for labels in ("series", "external"):
        events = []
        session = open_session(configuration(labels=labels, stride=1), events.append)
        ticks = Ticks("a", np.zeros(SIZE, np.int64), xs[:, None], seq=0)
        if labels == "series":
            session.push(ticks)
        else:
            LateLabels(session).push(ticks, (xs > 0).astype(np.float64))
        scores = [e for e in events if isinstance(e, Score)]
        outcomes.append([(e.n, e.p, e.label, e.base_rate_p) for e in scores])
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0]) == SIZE - 12
