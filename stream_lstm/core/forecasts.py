"""How forecasts become the published probability: a mixture of members, and recalibration.

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

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from ..events import Expert
from ..typing import Float64s
from .losses import EPSILON


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
