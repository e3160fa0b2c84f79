"""Log losses, and sums over the labels of many streams.

A probability of exactly 0 or 1 has an infinite loss if it is wrong. So a loss never uses less than
`EPSILON` for the probability of what happened.

The sums of a stream run over its own labels, each added after the one before it, so they have the
same bits for any order of arrival. `Grid.pad` lays values out as (streams, most labels of one
stream) with zeros behind the last label, `running` adds along a stream, and `Grid.real` removes
the padding.

How forecasts become the published probability: a mixture of members, and recalibration.

**Mixture** by fixed share, in float64:

```
p = sum_i w_i p_i                                       the published probability
w_i <- w_i (p_i if the label is 1, else 1 - p_i), normalised
w_i <- (1 - share) w_i + share / M                      to follow changes
```

Over any labels, the total log loss is at most that of the best of the M members plus ln M nats,
plus -ln(1 - share + share / M) for each label: sharing multiplies the weight of a member by no
less than that. With a share of 1e-5 that is 1 nat over 100,000 labels. Members' probabilities are
limited to `EPSILON` from 0 and 1, as in scoring, so that no certain member loses its weight
permanently.

**Recalibration** of slope and offset of the logit:

```
p = sigmoid(a z + b),  z = logit(raw p)
```

(a, b) starts at (1, 0) and follows an extended Kalman filter for a Bernoulli label, that of
`model.kalman` with two weights: with g = (z, 1), v = p (1 - p) no less than `LEAST`, and
s = 1/v + g.Pg,

```
(a, b) <- (a, b) + Pg (y - p) / (v s)
P      <- P - Pg (Pg)' / s + q I
```

It learns from published predictions and their labels, so it is as honest as the scores: no
prediction is recalibrated by its own label. P starts at `P0`, so with few labels the probability
hardly changes; q = `DRIFT` makes it follow a model that learns.

Sources: Vovk, "Aggregating strategies", 1990; Herbster and Warmuth, "Tracking the best expert",
1998; Platt, "Probabilistic outputs for support vector machines", 1999, for the form of the
recalibration; Puskorius and Feldkamp, 1994, for its filter.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from math import log
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..events import Expert
from ..typing import Bools, Float64s, Int64s

EPSILON = 2.0**-24
"""Half the spacing of float32 below 1: a published p of exactly 1 may be rounded by as much."""


def log_loss(p: float, label: int) -> float:
    """Return the loss in nats of giving probability `p` to a label of 1."""
    q = p if label else 1.0 - p
    return 0.0 - log(q if q > EPSILON else EPSILON)  # 0 for q = 1, not minus 0


def log_losses(p: Float64s, positive: Bools) -> Float64s:
    """Return the `log_loss` of probabilities (..., n) given to labels (n,), to the same bits."""
    return 0.0 - logs(np.maximum(np.where(positive, p, 1.0 - p), EPSILON))


def logs(x: Float64s) -> Float64s:
    """Return logarithms of the C library: the bits of NumPy's depend on the processor."""
    return np.fromiter(map(log, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


def means(
    labels: int, correct: int, log_loss: float, brier: float, prefix: str = ""
) -> dict[str, float | None]:
    """Return {prefix + name: mean} of sums over `labels` labels; None without labels."""
    sums = {"accuracy": correct, "log_loss": log_loss, "brier": brier}
    return {prefix + k: (v / labels if labels else None) for k, v in sums.items()}


class Tally(msgspec.Struct):
    """Sums over the labels of one forecaster."""

    correct: int = 0
    log_loss: float = 0.0
    brier: float = 0.0

    def add(self, p: float, label: int, loss: float, correct: bool) -> None:
        """Count one label; `loss` is its log loss in nats."""
        self.correct += correct
        self.log_loss += loss
        off = p - label
        self.brier += off * off

    def means(self, labels: int) -> dict[str, float | None]:
        """Return accuracy, log loss (nats) and Brier score over `labels`; None without labels."""
        return means(labels, self.correct, self.log_loss, self.brier)


Values = npt.NDArray[Any]

WASTE = 4
"""Entries per label at most: streams with many more labels than most get their own grids."""

TOGETHER = 1024
"""Streams of a grid at most: the results for them stay in the cache."""


class Grid:
    """Streams (u,) and their labels.

    Attributes: `order` (n,), the labels by stream, as indices in the order of arrival; values of
    the grid are in this order. `most`, the labels of the longest stream.
    """

    def __init__(self, streams: Int64s, order: Int64s, counts: Int64s) -> None:
        self.streams, self.order, self.most = streams, order, int(counts.max())
        self._shape = len(streams), self.most
        self._at: Int64s | None = None
        if len(streams) * self.most != len(order):
            starts = np.cumsum(counts) - counts
            shift = np.arange(len(streams)) * self.most - starts
            self._at = np.repeat(shift, counts) + np.arange(len(order))

    def pad(self, x: Values) -> Values:
        """Return x (..., n) as (..., u, most), zeros behind."""
        shape = *x.shape[:-1], *self._shape
        if self._at is None:
            return x.reshape(shape)
        padded = np.zeros((*x.shape[:-1], self._shape[0] * self._shape[1]), x.dtype)
        padded[..., self._at] = x
        return padded.reshape(shape)

    def real(self, x: Values) -> Values:
        """Return x (..., u, most) without padding, (..., n)."""
        flat = x.reshape(*x.shape[:-2], -1)
        return flat if self._at is None else flat[..., self._at]


def grids(rows: Int64s) -> Iterator[Grid]:
    """Yield grids of labels of the streams `rows` (n,); each stream is in one grid."""
    if len(rows):
        order = np.argsort(rows, kind="stable")
        sorted_rows = rows[order]
        begins = np.concatenate([[True], sorted_rows[1:] != sorted_rows[:-1]])
        starts = np.flatnonzero(begins)
        yield from _split(sorted_rows[starts], order, np.diff(starts, append=len(rows)))


def _split(streams: Int64s, order: Int64s, counts: Int64s) -> Iterator[Grid]:
    if len(streams) * int(counts.max()) <= WASTE * len(order):
        ends = np.cumsum(counts)
        for k in range(0, len(streams), TOGETHER):
            some = slice(k, k + TOGETHER)
            labels = slice(ends[k] - counts[k], ends[some][-1])
            yield Grid(streams[some], order[labels], counts[some])
        return
    many = counts * len(streams) > 2 * len(order)  # more than twice the mean
    for part in (many, ~many):
        yield from _split(streams[part], order[np.repeat(part, counts)], counts[part])


def running(start: Float64s, x: Float64s) -> Float64s:
    """Return the sums (..., u, m + 1) from `start` (..., u) on over x (..., u, m), in order."""
    sums = np.empty((*x.shape[:-1], x.shape[-1] + 1))
    sums[..., 0], sums[..., 1:] = start, x
    if x.shape[-1] > x.shape[-2]:
        return np.add.accumulate(sums, axis=-1)
    for k in range(x.shape[-1]):  # NumPy accumulates many short rows slowly
        sums[..., k + 1] += sums[..., k]
    return sums


def peak(x: Float64s) -> Float64s:
    """Return the highest of x (..., u, m) along each stream (..., u)."""
    if x.shape[-1] > x.shape[-2]:
        highest: Float64s = x.max(axis=-1)
        return highest
    return functools.reduce(np.maximum, np.moveaxis(x, -1, 0))


class Mixture(msgspec.Struct):
    """Weights (M,) float64 that sum to 1, and the share that moves at each label.

    `losses` (M,) are the members' total log losses in nats over the labels so far.
    """

    weights: np.ndarray
    losses: np.ndarray
    share: float
    labels: int = 0

    @classmethod
    def uniform(cls, members: int, share: float) -> Mixture:
        """Return equal weights for M members."""
        return cls(np.full(members, 1.0 / members), np.zeros(members), share)

    def mix(self, members: npt.ArrayLike) -> float:
        """Return the probability for the members' (M,), a float32 value."""
        # An exact sum: the dot product of a library depends on the machine.
        return float(np.float32(math.fsum(self.weights * _bounded(members))))

    def update(self, members: npt.ArrayLike, label: int) -> None:
        """Take the label of a forecast with the members' probabilities (M,)."""
        p = _bounded(members)
        given = p if label else 1.0 - p
        self.losses = self.losses - np.log(given)
        self.labels += 1
        self.weights = self.weights * given
        self.weights /= math.fsum(self.weights)
        self.weights = (1.0 - self.share) * self.weights + self.share / len(p)

    def experts(self, names: Sequence[str], members: npt.ArrayLike) -> tuple[Expert, ...]:
        """Return the members with their weights and probabilities."""
        given = zip(names, self.weights, np.asarray(members), strict=True)
        return tuple(Expert(name, float(weight), float(p)) for name, weight, p in given)

    def sharing_cost(self, labels: int) -> float:
        """Return the largest cost of sharing over that many labels, in nats."""
        return -labels * math.log1p(self.share / len(self.weights) - self.share)


def _bounded(members: npt.ArrayLike) -> Float64s:
    return np.clip(np.asarray(members, np.float64), EPSILON, 1.0 - EPSILON)


P0 = 0.01
"""A slope within 0.2 of 1 and an offset within 0.2 of 0, before the first label."""

DRIFT = 1e-7
"""Forgets over some ten thousand labels."""

LEAST = 0.02
"""As in the network's filter: a single surprising label must not move everything."""


class Recalibration(msgspec.Struct):
    """The slope a, the offset b and their covariance P, in float64."""

    slope: float = 1.0
    offset: float = 0.0
    p_aa: float = P0
    p_ab: float = 0.0
    p_bb: float = P0

    def apply(self, raw: float) -> float:
        """Return the recalibrated probability, a float32 value."""
        return float(np.float32(_sigmoid(self.slope * _logit(raw) + self.offset)))

    def update(self, raw: float, label: int) -> None:
        """Take the label of a prediction that was `raw` before recalibration."""
        z = _logit(raw)
        p = _sigmoid(self.slope * z + self.offset)
        v = max(p * (1.0 - p), LEAST)
        ga, gb = self.p_aa * z + self.p_ab, self.p_ab * z + self.p_bb
        s = 1.0 / v + z * ga + gb
        step = (label - p) / (v * s)
        self.slope += ga * step
        self.offset += gb * step
        self.p_aa += DRIFT - ga * ga / s
        self.p_ab -= ga * gb / s
        self.p_bb += DRIFT - gb * gb / s


def _logit(p: float) -> float:
    p = min(max(p, EPSILON), 1.0 - EPSILON)
    return math.log(p / (1.0 - p))


def _sigmoid(z: float) -> float:
    if z >= 0.0:
        return 1.0 / (1.0 + math.exp(-z))
    e = math.exp(z)
    return e / (1.0 + e)
