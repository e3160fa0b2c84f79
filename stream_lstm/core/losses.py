"""Log losses, and sums over labels from which accuracy, log loss and Brier score are means.

A probability of exactly 0 or 1 has an infinite loss when wrong. So a loss never takes less than
`EPSILON` for the probability of what happened.
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
    """Return logarithms of the C library: NumPy's have other bits on other processors."""
    return np.fromiter(map(log, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


def means(
    labels: int, correct: int, log_loss: float, brier: float, prefix: str = ""
) -> dict[str, float | None]:
    """Return {prefix + name: mean} of sums over `labels` labels; None without any."""
    sums = {"accuracy": correct, "log_loss": log_loss, "brier": brier}
    return {prefix + k: (v / labels if labels else None) for k, v in sums.items()}


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

    def means(self, labels: int) -> dict[str, float | None]:
        """Return accuracy, log loss (nats) and Brier score over `labels`; None without any."""
        return means(labels, self.correct, self.log_loss, self.brier)
