"""The predictions that are held out, scored together: beside a coin and beside the base rate.

The base rate of a series is the share of positive targets among those trained on, with half a
count on either side, so it too knows nothing of what is held out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..tables import StreamConfig
from .losses import EPSILON
from .series import Series

Probabilities = Sequence[npt.NDArray[Any]]


class Truth(msgspec.Struct, frozen=True):
    """What is to be foretold: `label` bool (m,), and `base_rate_p` float64 (m,)."""

    label: npt.NDArray[np.bool_]
    base_rate_p: npt.NDArray[np.float64]


def truth_of(series: Sequence[Series], stream: StreamConfig) -> Truth:
    """Return the truth of all series, one after the other."""
    label = [one.truth(stream) for one in series]
    rate = [base_rate(one, stream) for one in series]
    return Truth(np.concatenate(label), np.repeat(rate, [len(part) for part in label]))


def base_rate(series: Series, stream: StreamConfig) -> float:
    """Return the share of positive targets that were trained on."""
    known = series.labels(stream.horizon)
    return (int((known == 1).sum()) + 0.5) / (int((known >= 0).sum()) + 1.0)


def figures(truth: Truth, p: npt.NDArray[Any]) -> dict[str, Any]:
    """Return the scores of forecasts p (m,), log losses in nats, beside the plain ones."""
    base = truth.base_rate_p
    return {
        "labels": len(truth.label),
        "log_loss": log_loss(p, truth.label),
        "accuracy": accuracy(p, truth.label),
        "brier": float(np.mean((np.asarray(p, np.float64) - truth.label) ** 2)),
        "positive": float(truth.label.mean()),
        "base_rate_log_loss": log_loss(base, truth.label),
        "base_rate_accuracy": accuracy(base, truth.label),
        "coin_log_loss": math.log(2.0),
    }


def log_loss(p: npt.NDArray[Any], label: npt.NDArray[np.bool_]) -> float:
    """Return the mean log loss in nats; a NaN stays one."""
    p = np.asarray(p, np.float64)
    return float(-np.log(np.maximum(np.where(label, p, 1.0 - p), EPSILON)).mean())


def accuracy(p: npt.NDArray[Any], label: npt.NDArray[np.bool_]) -> float:
    """Return the share of labels that were foretold."""
    return float(((p > 0.5) == label).mean())
