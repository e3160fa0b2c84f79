"""Records of one stream as columns, the form in which a track takes them, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.tally import Bools, Doubles
from ..events import Prediction, Score

Ints = npt.NDArray[np.int64]


class Predictions(NamedTuple):
    """n predictions in their order; `flagged` says that ticks were lost shortly before."""

    n: Ints
    t_ns: Ints
    p: Doubles
    flagged: Bools

    @classmethod
    def of(cls, events: Sequence[Prediction]) -> Predictions:
        """Return records of one stream as columns."""
        return cls(
            np.array([event.n for event in events], np.int64),
            np.array([event.t_ns for event in events], np.int64),
            np.array([event.p for event in events], np.float64),
            np.array([event.after_gap for event in events], np.bool_),
        )

    def at(self, rows: Bools | slice) -> Predictions:
        """Return some of the rows."""
        return Predictions(self.n[rows], self.t_ns[rows], self.p[rows], self.flagged[rows])


class Scores(NamedTuple):
    """n scores in the order of their labels.

    `p` is float64 (3, n), of model, base rate and last label; `evidence` float64 (n, 3), the log W
    against coin, base rate and last label in nats.
    """

    n: Ints
    t_ns: Ints
    label: npt.NDArray[np.int8]
    p: Doubles
    evidence: Doubles

    @classmethod
    def of(cls, events: Sequence[Score]) -> Scores:
        """Return records of one stream as columns."""
        p = [(event.p, event.base_rate_p, event.last_label_p) for event in events]
        evidence = [
            (event.coin_evidence, event.base_rate_evidence, event.last_label_evidence)
            for event in events
        ]
        return cls(
            np.array([event.n for event in events], np.int64),
            np.array([event.t_ns for event in events], np.int64),
            np.array([event.label for event in events], np.int8),
            np.array(p, np.float64).reshape(-1, 3).T,
            np.array(evidence, np.float64).reshape(-1, 3),
        )

    def at(self, rows: Bools | slice) -> Scores:
        """Return some of the rows."""
        return Scores(
            self.n[rows],
            self.t_ns[rows],
            self.label[rows],
            self.p[:, rows],
            self.evidence[rows],
        )


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
