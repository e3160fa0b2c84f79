"""Lanes: whole segments, in order, each of one series, the last of them at its end."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.core.training import LEAST, TrainingSeries, cut_lanes, last_lanes, plan


def series(count: int, held_out: int = 3, seed: int = 0) -> TrainingSeries:
    """A series whose scaled input is its own number, counted from 1."""
    scaled = np.arange(1, count + held_out + 1, dtype=np.float32)[:, None]
    positive = np.random.default_rng(seed).random(len(scaled)) < 0.5
    return TrainingSeries(f"s{seed}", scaled, positive, np.zeros(3, np.float32), count, "")


counts = st.lists(st.integers(3, 3000), min_size=1, max_size=4)


@given(counts, st.integers(1, 20), st.integers(1, 3))
def test_a_plan_fits_and_leaves_less_than_a_segment_of_each_lane(
    trained: list[int], lanes: int, segment: int
) -> None:
    planned = plan(trained, lanes, segment)
    for count, (parts, length) in zip(trained, planned, strict=True):
        left = count - parts * length * segment
        assert parts >= 1
        assert length >= 1
        assert 0 <= left < parts * segment
        assert length >= LEAST or parts == 1
    assert sum(parts for parts, _ in planned) <= max(lanes, 0) + len(trained)
    if len(trained) == 1:
        assert planned[0][0] <= lanes


def test_a_long_series_gets_the_lanes_that_were_asked_for() -> None:
    assert plan([942_929], 64, 100) == [(64, 147)]
    assert plan([6400, 3200], 3, 100) == [(2, 32), (1, 32)]
    assert plan([170_000, 100], 4, 100)[1] == (1, 1)


@settings(max_examples=40)
@given(counts, st.integers(1, 20), st.integers(1, 3), st.integers(1, 2))
def test_lanes_hold_the_end_of_each_series_in_order(
    trained: list[int], lanes: int, segment: int, horizon: int
) -> None:
    many = [series(count, seed=k) for k, count in enumerate(trained)]
    cut = cut_lanes(many, lanes=lanes, segment=segment, horizon=horizon)
    xs, labels = np.asarray(cut.xs)[..., 0], np.asarray(cut.labels)
    first = 0
    for one, last in zip(many, last_lanes(cut), strict=True):
        mine = range(first, last + 1)
        assert [int(b) for b in cut.before[first : last + 1]] == [-1, *mine[:-1]]
        length = int(cut.lengths[first])
        joined = np.concatenate([xs[:length, :, lane].ravel() for lane in mine])
        assert joined.tolist() == list(range(one.train - len(joined) + 1, one.train + 1))
        told = np.concatenate([labels[:length, :, lane].ravel() for lane in mine])
        for n, label in zip(joined.astype(int), told, strict=True):
            known = n + horizon <= one.train
            assert label == (int(one.positive[n + horizon - 1]) if known else -1)
        assert (labels[length:, :, first : last + 1] == -1).all()
        first = last + 1
    assert first == xs.shape[2]
