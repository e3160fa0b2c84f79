"""A mixture of forecasters by fixed share, in float64.

```
p = sum_i w_i p_i                                       the published probability
w_i <- w_i (p_i if the label is 1, else 1 - p_i), normalised
w_i <- (1 - share) w_i + share / M                      so that it can follow a change
```

Over any labels whatever, the total log loss is at most that of the best of the M members plus
ln M nats plus -ln(1 - share + share / M) for each label: the weight of a member is multiplied by
no less than that by sharing. With a share of 1e-5 that is 1 nat over 100,000 labels.

Members' probabilities are kept within `EPSILON` of 0 and 1, as in scoring, so that one member's
certainty cannot end it for ever.

Source: Vovk, "Aggregating strategies", 1990; Herbster and Warmuth, "Tracking the best expert",
1998.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from ..events import Expert
from .losses import EPSILON

Doubles = npt.NDArray[np.float64]


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
        # An exact sum: what a library makes of a dot product depends on the machine.
        return float(np.float32(math.fsum(self.weights * _bounded(members))))

    def update(self, members: npt.ArrayLike, label: int) -> None:
        """Take the label that the members' probabilities (M,) were about."""
        p = _bounded(members)
        given = p if label else 1.0 - p
        self.losses = self.losses - np.log(given)
        self.labels += 1
        self.weights = self.weights * given
        self.weights /= math.fsum(self.weights)
        self.weights = (1.0 - self.share) * self.weights + self.share / len(p)

    def experts(self, names: Sequence[str], members: npt.ArrayLike) -> tuple[Expert, ...]:
        """Return each member by name, with its weight and its probability."""
        given = zip(names, self.weights, np.asarray(members), strict=True)
        return tuple(Expert(name, float(weight), float(p)) for name, weight, p in given)

    def sharing_cost(self, labels: int) -> float:
        """Return the most, in nats, that sharing can cost over that many labels."""
        return -labels * math.log1p(self.share / len(self.weights) - self.share)


def _bounded(members: npt.ArrayLike) -> Doubles:
    return np.clip(np.asarray(members, np.float64), EPSILON, 1.0 - EPSILON)
