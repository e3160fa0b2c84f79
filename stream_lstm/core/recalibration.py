"""Online recalibration of the published probability: slope and offset of its logit.

```
p = sigmoid(a z + b),  z = logit(raw p)
```

(a, b) starts at (1, 0) and is followed by an extended Kalman filter for a Bernoulli label, the
one of `model.kalman` with two weights: with g = (z, 1), v = p (1 - p) no less than `LEAST`, and
s = 1/v + g.Pg,

```
(a, b) <- (a, b) + Pg (y - p) / (v s)
P      <- P - Pg (Pg)' / s + q I
```

It learns from published predictions and their labels as these come, so it is as honest as the
scores are: no prediction is recalibrated by its own label. P starts at `P0`: with few labels the
probability stays what it was. q = `DRIFT` lets it follow a model that learns.

Source: Platt, "Probabilistic outputs for support vector machines", 1999, for the form; Puskorius
and Feldkamp, 1994, for the filter.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from .losses import EPSILON

P0 = 0.01
"""A slope within 0.2 of 1 and an offset within 0.2 of 0, before anything is known."""

DRIFT = 1e-7
"""Forgets over some ten thousand labels."""

LEAST = 0.02
"""As in the network's filter: one label that was thought impossible must not move everything."""


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
        """Take the label of the prediction that was `raw` before recalibration."""
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
