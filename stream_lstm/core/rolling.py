"""The scores of the last labels alone: a ring of them, from which figures are made when asked for.

A label costs a copy of its row into the ring, and the figures are exact: nothing is ever taken
off a running sum, so nothing of old labels is left in it. The area under the curve is that of
the very probabilities.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from .grades import blind, kappa
from .reliability import BINS
from .tally import EPSILON

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


ROWS = tuple(struct.Struct(f"<bb{forecasts}d") for forecasts in range(8))
"""The layout of a row, by its number of forecasts: three, and the further ones."""


class Ring(msgspec.Struct):
    """The rows of the last `window` labels, 26 bytes each and 8 for each further forecast.

    It grows as labels come. `slot` is where the next row goes. After `merge` it
    holds the last rows of each stream, and takes no more.
    """

    window: int = 0
    slot: int = 0
    rows: bytearray = msgspec.field(default_factory=bytearray)

    def add(self, label: int, last: int, forecasts: tuple[float, ...]) -> None:
        """Take one label with the probabilities given for it: the model's, the plain, others."""
        kind = ROWS[len(forecasts)]
        rows, size = self.rows, kind.size
        start = self.slot * size
        if start == len(rows):
            rows += bytes(size)
        kind.pack_into(rows, start, label, last, *forecasts)
        self.slot = (self.slot + 1) % self.window

    def merge(self, other: Ring) -> None:
        """Add the last labels of another stream."""
        self.window = max(self.window, other.window)
        self.rows = self.rows + other.rows

    def figures(self, names: tuple[str, ...]) -> dict[str, Any] | None:
        """Return the figures of `Scoreboard.figures` over these labels; None without any."""
        if not self.rows:
            return None
        kind = [("label", "i1"), ("last", "i1"), ("p", "<f8"), ("base", "<f8"), ("repeat", "<f8")]
        table = np.frombuffer(bytes(self.rows), [*kind, *((name, "<f8") for name in names)])
        label = table["label"] == 1
        repeated = np.maximum(table["last"], 0) == table["label"]
        truth = label, int(repeated.sum())
        told = {
            "window": self.window,
            "labels": len(table),
            **_grades(table["p"], *truth, table["p"] > 0.5, ""),
            "base_rate": float(label.mean()),
            **_grades(table["base"], *truth, table["base"] > 0.5, "base_rate_"),
            **_grades(table["repeat"], *truth, repeated == label, "last_label_"),
        }
        for name in names:
            told |= _aside(table[name], label, name)
        return told


def _grades(
    p: Doubles, label: Bools, repeated: int, call: Bools, prefix: str
) -> dict[str, float | None]:
    n, correct = len(p), int((call == label).sum())
    by_chance = blind(int(call.sum()), int(label.sum()), n)
    return {
        **_means(p, label, correct, prefix),
        prefix + "auc": auc(p, label),
        prefix + "kappa": kappa(correct, by_chance, n),
        prefix + "kappa_temporal": kappa(correct, repeated, n),
        prefix + "ece": calibration_error(p, label),
    }


def _aside(p: Doubles, label: Bools, name: str) -> dict[str, float | None]:
    there = ~np.isnan(p)
    p, label = p[there], label[there]
    told = _means(p, label, int(((p > 0.5) == label).sum()), name + "_")
    return told | ({"raw_ece": calibration_error(p, label)} if name == "raw" else {})


def _means(p: Doubles, label: Bools, correct: int, prefix: str) -> dict[str, float | None]:
    names = prefix + "accuracy", prefix + "log_loss", prefix + "brier"
    if not len(p):
        return dict.fromkeys(names)
    loss = np.abs(np.log(np.maximum(np.where(label, p, 1.0 - p), EPSILON)))
    means = correct / len(p), float(loss.mean()), float(((p - label) ** 2).mean())
    return dict(zip(names, means, strict=True))


def auc(p: Doubles, label: Bools) -> float | None:
    """Return the area under the ROC curve, ties counting half; None where a class lacks."""
    _, rank = np.unique(p, return_inverse=True)
    positive, negative = np.bincount(rank[label]), np.bincount(rank[~label])
    pairs = int(label.sum()) * int((~label).sum())
    if not pairs:
        return None
    size = max(len(positive), len(negative))
    positive = np.pad(positive, (0, size - len(positive)))
    negative = np.pad(negative, (0, size - len(negative)))
    twice = positive * (2 * np.cumsum(negative) - negative)
    return float(twice.sum() / (2 * pairs))


def calibration_error(p: Doubles, label: Bools) -> float | None:
    """Return the expected calibration error over equal bins; None without labels."""
    if not len(p):
        return None
    k = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(k, label - p)).sum() / len(p))
