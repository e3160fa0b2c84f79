"""What a track takes beside predictions and scores, as columns, and the fields that it shows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.losses import Bools, Doubles
from ..events import Prediction, Score
from ..records import Batch, fields_of

Ints = npt.NDArray[np.int64]


FORECASTS = ("p", "base_rate_p", "last_label_p")
"""Fields of a score that are forecasts: of model, base rate and last label."""

EVIDENCE = ("coin_evidence", "base_rate_evidence", "last_label_evidence")
"""Fields of a score that are log W in nats, against coin, base rate and last label."""

NEEDED = tuple(
    dict.fromkeys(
        [field.name for kind in (Prediction, Score) for field in fields_of(kind) if field.required]
        + ["after_gap", *EVIDENCE]
    )
)
"""Fields without which there are no figures."""


def forecasts(scores: Batch[Score]) -> Doubles:
    """Return the `FORECASTS` of n scores, float64 (3, n)."""
    return np.stack([scores[name] for name in FORECASTS])


class Updates(NamedTuple):
    """n optimiser updates; `t_ns` is the time of the prediction that each came of.

    `reasons` are those of the refused ones, in their order; "" where it is not known.
    """

    n: Ints
    t_ns: Ints
    loss: Doubles
    grad_norm: Doubles
    accepted: Bools
    reasons: list[str]


class Targets(NamedTuple):
    """The target of n elements."""

    n: Ints
    t_ns: Ints
    value: Doubles

    @classmethod
    def none(cls) -> Targets:
        """Return those of no element."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))

    def joined(self, other: Targets) -> Targets:
        """Return these and those of later elements."""
        return Targets(
            np.concatenate([self.n, other.n]),
            np.concatenate([self.t_ns, other.t_ns]),
            np.concatenate([self.value, other.value]),
        )

    def at(self, rows: Bools | slice) -> Targets:
        """Return some of the rows."""
        return Targets(self.n[rows], self.t_ns[rows], self.value[rows])
