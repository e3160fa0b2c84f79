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
from .reliability import bins_of
from .tally import EPSILON, Bools, Doubles

PLAIN = 3
"""Forecasts of each row, of the model, the base rate and the last label; others come after."""

ROWS = tuple(struct.Struct(f"<bb{PLAIN + others}d") for others in range(4))
"""The layout of a row, by its number of further forecasts: label, last label, forecasts."""


def layout(others: int) -> npt.DTypeLike:
    """Return that of `ROWS` for NumPy, with the forecasts as `p` (PLAIN + others,)."""
    return [("label", "i1"), ("last", "i1"), ("p", "<f8", (PLAIN + others,))]


def table_of(rows: bytes | bytearray, others: int) -> npt.NDArray[Any]:
    """Return rows as an array (n,) of `layout`."""
    return np.frombuffer(bytes(rows), layout(others))


class Ring(msgspec.Struct, gc=False):
    """The rows of the last `window` labels, 26 bytes each and 8 for each further forecast.

    It grows as labels come. `slot` is where the next row goes. After `merge` it
    holds the last rows of each stream, and takes no more.
    """

    window: int = 0
    slot: int = 0
    rows: bytearray = msgspec.field(default_factory=bytearray)

    def extend(self, rows: bytes | bytearray, size: int) -> None:
        """Take rows of `size` bytes each."""
        width, at = self.window * size, self.slot * size
        while width and rows:
            part, rows = rows[: width - at], rows[width - at :]
            self.rows[at : at + len(part)] = part
            at = (at + len(part)) % width
        self.slot = at // size

    def merge(self, other: Ring) -> None:
        """Add the last labels of another stream."""
        self.window = max(self.window, other.window)
        self.rows += other.rows

    def figures(self, names: tuple[str, ...]) -> dict[str, Any] | None:
        """Return the figures of `Scoreboard.figures` over these labels; None without any."""
        if not self.rows:
            return None
        table = table_of(self.rows, len(names))
        label, (p, base, repeat, *others) = table["label"] == 1, table["p"].T
        repeated = np.maximum(table["last"], 0) == table["label"]
        truth = label, int(repeated.sum())
        told = {
            "window": self.window,
            "labels": len(table),
            **_grades(p, *truth, p > 0.5, ""),
            "base_rate": float(label.mean()),
            **_grades(base, *truth, base > 0.5, "base_rate_"),
            **_grades(repeat, *truth, repeated == label, "last_label_"),
        }
        for name, other in zip(names, others, strict=True):
            told |= _aside(other, label, name)
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
    return float(np.abs(np.bincount(bins_of(p), label - p)).sum() / len(p))
