"""Sums over labels from which accuracy, log loss and Brier score are means.

A probability of exactly 0 or 1 has an infinite loss when wrong, so losses take probabilities
within `EPSILON` of them for that.
"""

from __future__ import annotations

from math import log

import msgspec
import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

EPSILON = 2.0**-24
"""Half the spacing of float32 below 1: a published p of exactly 1 may be rounded by as much."""


def log_loss(p: float, label: int) -> float:
    """Return the loss in nats of giving probability `p` to a label of 1."""
    q = p if label else 1.0 - p
    return 0.0 - log(q if q > EPSILON else EPSILON)  # of 1 it is 0, not minus 0


def log_losses(p: Doubles, positive: Bools) -> Doubles:
    """Return the `log_loss` of probabilities (..., n) given to labels (n,), to the same bits."""
    return 0.0 - logs(np.maximum(np.where(positive, p, 1.0 - p), EPSILON))


def logs(x: Doubles) -> Doubles:
    """Return logarithms of the C library: NumPy's own have other bits on other processors."""
    return np.fromiter(map(log, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


def running(start: list[float], x: Doubles) -> Doubles:
    """Return the sums (k, n + 1) from `start` (k,) on over x (k, n), added one after the other."""
    return np.add.accumulate(np.concatenate([np.array(start)[:, None], x], axis=1), axis=1)


class Tally(msgspec.Struct):
    """Sums over the labels that one forecaster was scored on."""

    correct: int = 0
    log_loss: float = 0.0
    brier: float = 0.0

    def add(self, p: float, label: int, loss: float, correct: bool) -> None:
        """Count one label; `loss` is its log loss in nats."""
        self.correct += correct
        self.log_loss += loss
        off = p - label
        self.brier += off * off

    def means(self, labels: int, prefix: str = "") -> dict[str, float | None]:
        """Return accuracy, log loss (nats) and Brier score over `labels`; None without any."""
        sums = {"accuracy": self.correct, "log_loss": self.log_loss, "brier": self.brier}
        return {prefix + k: (v / labels if labels else None) for k, v in sums.items()}
