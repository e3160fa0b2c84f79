"""Cutting series into lanes of equal length, none across two series.

A series of which N elements are trained on gets lanes in proportion to N, one at least, and of
each lane as many whole segments as there is room for. What is left over stands at the start of
the series and is not trained on: less than one segment a lane. Where there are few elements there
are fewer lanes than asked for, so that a lane keeps `LEAST` segments, and an epoch as many
updates.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from ..model.trainer import Lanes
from .series import Series

LEAST = 16
"""Segments of a lane before the series is cut into more of them."""


def plan(trained: Sequence[int], lanes: int, segment: int) -> list[tuple[int, int]]:
    """Return (lanes, segments of each) for every series of `trained` elements.

    `lanes` are the most in all, but that every series has one.
    """
    whole = [count // segment for count in trained]
    length = max(sum(whole) // lanes, LEAST)
    while sum(count // length for count in whole) > lanes:
        length += 1
    cut = [max(count // length, 1) for count in whole]
    return [(parts, count // parts) for parts, count in zip(cut, whole, strict=True)]


def cut_lanes(series: Sequence[Series], *, lanes: int, segment: int, horizon: int) -> Lanes:
    """Return the lanes of all series side by side, those of a series in their order."""
    planned = plan([one.train for one in series], lanes, segment)
    total, longest = sum(parts for parts, _ in planned), max(length for _, length in planned)
    features = series[0].scaled.shape[1]
    xs = np.zeros((longest, segment, total, features), np.float32)
    labels = np.full((longest, segment, total), -1, np.int8)
    lengths, before = np.zeros(total, np.int32), np.full(total, -1, np.int32)
    first = 0
    for one, (parts, length) in zip(series, planned, strict=True):
        mine = slice(first, first + parts)
        xs[:length, :, mine] = _side_by_side(one.scaled[: one.train], parts, length, segment)
        labels[:length, :, mine] = _side_by_side(one.labels(horizon), parts, length, segment)
        lengths[mine] = length
        before[first + 1 : first + parts] = np.arange(first, first + parts - 1)
        first += parts
    return Lanes(*map(jnp.asarray, (xs, labels, lengths, before)))


def last_lanes(lanes: Lanes) -> list[int]:
    """Return the index of the last lane of each series."""
    first = np.flatnonzero(np.asarray(lanes.before) < 0)
    return [*(int(k) - 1 for k in first[1:]), len(lanes.before) - 1]


def _side_by_side(array: np.ndarray, parts: int, length: int, segment: int) -> np.ndarray:
    """Return the end of an array (n, ...) as (length, segment, parts, ...)."""
    kept = array[len(array) - parts * length * segment :]
    return np.moveaxis(kept.reshape(parts, length, segment, *array.shape[1:]), 0, 2)
