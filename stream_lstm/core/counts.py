"""Counts of all streams of a session: reliability, ranking and the last labels.

Labels wait as rows of bytes and are counted in batches, in the order of arrival. Every sum
continues from label to label, so its bits do not depend on the batches.

**Reliability**: labels by the given probability, in 15 equal bins. The expected calibration error
is the mean over the labels of |share of positive labels in their bin - mean probability there|.
Chance alone makes it some sqrt(15 / labels) / 4 for forecasts spread over all bins.

**Ranking**: the area under the ROC curve is the probability that a positive label had the higher
forecast than a negative one, ties counting half. Labels are counted by class in narrow bins of the
logit, and labels in one bin are ties, so the area is off by at most half the share of such pairs.
Bins are 2e-6 wide near a logit of 0, where weak forecasts crowd, and proportionally wider from
1e-3 on: 1e-3 at a logit of 1. There are 21,000 at most, and only bins in use are stored.

**Agreement**: Cohen's kappa is the accuracy above that of blind calls in the same shares, as a
part of what remained above it; kappa-temporal is the same above a repetition of the last label.
Both are 1 for perfect calls and 0 for calls without skill.

**Last labels**: figures over the last `window` labels of all streams, from a ring of their rows.
They are exact: nothing is subtracted from a running sum, and the area uses the probabilities.

Sources: Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
binning", 2015; Murphy and Winkler, "Reliability of subjective probability forecasts", 1977;
Cohen, "A coefficient of agreement for nominal scales", 1960; Zliobaite et al., "Evaluation methods
and decision theory for classification of streaming data", 2015.
"""

from __future__ import annotations

import struct
from operator import mul
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..typing import Bools, Float64s, Int8s, Int64s
from .losses import EPSILON, means

FORECASTERS = ("", "base_rate_", "last_label_")
"""Prefixes of the figures of model and plain forecasters, in the order of every axis."""

PLAIN = len(FORECASTERS)

ROWS = tuple(struct.Struct(f"<bb{PLAIN + others}d") for others in range(4))
"""The layout of a row by its number of further forecasts: label, last label, forecasts."""

BATCH = 128
"""Labels that are counted together."""

BINS = 15
"""Bins of the reliability."""

FINE = 1e-3
"""Logits below which the bins of the ranking are equally wide."""

CERTAIN = 1.0 - EPSILON

BINS_A_FACTOR = 1024.0
"""Bins of the ranking per factor of e beyond that."""

MIDDLE = 10_700
"""The number of the bin of 1/2, counted from the lowest."""

KEYS = 4 * MIDDLE
"""Keys of bin and class: twice the number of the bin, plus 1 for positive labels."""

FRESH = 1024
"""Labels that wait as keys of 2 bytes each, until they enter the table."""


class Ranking(msgspec.Struct, gc=False):
    """The number of labels in each bin, by class.

    `keys` (uint16, ascending) and `counts` (int64) are a table of labels, and `fresh` (uint16) the
    keys of those since. They are never changed in place, so copies may share them.
    """

    keys: bytes = b""
    counts: bytes = b""
    fresh: bytes = b""

    def extend(self, keys: npt.NDArray[np.uint16]) -> None:
        """Count labels by their `keys_of`."""
        fresh = self.fresh + keys.tobytes()
        whole = len(fresh) // (2 * FRESH) * (2 * FRESH)
        self.fresh = fresh[whole:]
        if whole:
            dense = self._dense(fresh[:whole])
            used = np.flatnonzero(dense != 0)  # five times as fast as without the comparison
            self.keys, self.counts = used.astype(np.uint16).tobytes(), dense[used].tobytes()

    def auc(self) -> float | None:
        """Return the area; None if a class has no label."""
        negative, positive = self._classes()
        pairs = int(positive.sum()) * int(negative.sum())
        if not pairs:
            return None
        beaten = 2 * np.cumsum(negative) - negative
        # Python integers have no bound: exact for any count.
        twice: int = sum(map(mul, positive.tolist(), beaten.tolist()))
        return twice / (2 * pairs)

    def tied(self) -> float:
        """Return the share of pairs in one bin: twice the largest error of `auc`."""
        negative, positive = self._classes()
        pairs = int(positive.sum()) * int(negative.sum())
        same: int = sum(map(mul, positive.tolist(), negative.tolist()))
        return same / pairs if pairs else 0.0

    def _classes(self) -> tuple[Int64s, Int64s]:
        """Return the labels of each class in the bins in use, in ascending order."""
        counts = self._dense(self.fresh).reshape(-1, 2)
        counts = counts[counts.any(axis=1)]
        return counts[:, 0], counts[:, 1]

    def _dense(self, fresh: bytes) -> Int64s:
        """Return the counts (KEYS,) of the table and further keys."""
        dense = np.bincount(np.frombuffer(fresh, np.uint16), minlength=KEYS)
        dense[np.frombuffer(self.keys, np.uint16).astype(np.intp)] += np.frombuffer(
            self.counts, np.int64
        )
        return dense


def keys_of(p: Float64s, positive: Bools) -> npt.NDArray[np.uint16]:
    """Return the keys (..., n) of probabilities (..., n) for labels (n,)."""
    p = np.minimum(np.maximum(p, EPSILON), CERTAIN)
    bins = np.floor(np.arcsinh(np.log(p / (1.0 - p)) / FINE) * BINS_A_FACTOR)
    return (2.0 * (bins + MIDDLE) + positive).astype(np.uint16)


class Counts(msgspec.Struct, gc=False):
    """The counts of `labels` labels; further ones wait in `waiting`, laid out as `ROWS`.

    `bins` float64 (forecasters, 3, BINS) are labels, positive labels and the sum of the given
    probabilities, of `PLAIN` and further forecasters. `last` is the ring of the last `window`
    rows.
    """

    window: int
    bins: np.ndarray
    rankings: list[Ranking]
    labels: int = 0
    last: bytearray = msgspec.field(default_factory=bytearray)
    waiting: bytearray = msgspec.field(default_factory=bytearray)

    @classmethod
    def empty(cls, window: int, others: int) -> Counts:
        """Return counts without labels, with `others` further forecasters."""
        bins = np.zeros((PLAIN + others, 3, BINS))
        return cls(window, bins, [Ranking() for _ in range(PLAIN)])

    @property
    def row_size(self) -> int:
        """Bytes of a row."""
        return 2 + 8 * len(self.bins)

    def copy(self) -> Counts:
        """Return an independent copy."""
        rankings = [Ranking(r.keys, r.counts, r.fresh) for r in self.rankings]
        rows = bytearray(self.last), bytearray(self.waiting)
        return Counts(self.window, self.bins.copy(), rankings, self.labels, *rows)

    def extend(self, labels: Int8s, lasts: Int8s, p: Float64s) -> None:
        """Take n labels in order of arrival; p (forecasters, n), NaN for a missing one."""
        table = np.empty(len(labels), _layout(len(p)))
        table["label"], table["last"], table["p"] = labels, lasts, p.T
        self.waiting += table.tobytes()
        if len(self.waiting) >= BATCH * self.row_size:
            self.settle()

    def settle(self) -> None:
        """Count the waiting labels."""
        if not self.waiting:
            return
        table = np.frombuffer(bytes(self.waiting), _layout(len(self.bins)))
        label, p = table["label"] == 1, np.array(table["p"].T, order="C")
        for ranking, keys in zip(self.rankings, keys_of(p[:PLAIN], label), strict=True):
            ranking.extend(keys)
        self._bin(p, label)
        self._roll()
        self.labels += len(label)
        self.waiting = bytearray()

    def _bin(self, p: Float64s, label: Bools) -> None:
        missing = np.isnan(p)
        p = np.where(missing, 0.0, p)
        beyond = BINS * len(p)
        bins = _bins_of(p) + BINS * np.arange(len(p))[:, None]
        bins[missing] = beyond
        by_class = np.bincount((2 * bins + label).ravel(), minlength=2 * beyond)[: 2 * beyond]
        negative, positive = by_class.reshape(len(p), BINS, 2).transpose(2, 0, 1)
        self.bins[:, 0] += negative + positive
        self.bins[:, 1] += positive
        # The present sums come first: sums continue in the order of the labels.
        bins = np.concatenate([np.arange(beyond), bins.ravel()])
        given = np.concatenate([self.bins[:, 2].ravel(), p.ravel()])
        self.bins[:, 2] = np.bincount(bins, given)[:beyond].reshape(-1, BINS)

    def _roll(self) -> None:
        """Put the waiting rows into the ring, the row of label k at place k % window."""
        width = self.window * self.row_size
        if not width:
            return
        rows, at = memoryview(self.waiting), self.labels * self.row_size % width
        while rows:
            part, rows = rows[: width - at], rows[width - at :]
            self.last[at : at + len(part)] = part
            at = 0

    def calibration_error(self, forecaster: int) -> float | None:
        """Return the expected calibration error; None without labels."""
        labels, positives, given = self.bins[forecaster].tolist()
        if not any(labels):
            return None
        pairs = zip(positives, given, strict=True)
        error: float = sum(abs(positive - p) for positive, p in pairs) / sum(labels)
        return error

    def reliability(self) -> list[dict[str, float | int | None]] | None:
        """Return bounds, labels, mean probability and share of positive labels of each bin.

        The figures are the model's. Mean and share of an empty bin are None, and so is the list
        without labels.
        """
        if not self.bins[0, 0].any():
            return None
        return [
            {
                "low": k / BINS,
                "high": (k + 1) / BINS,
                "labels": int(n),
                "mean_p": given / n if n else None,
                "positive": positives / n if n else None,
            }
            for k, (n, positives, given) in enumerate(self.bins[0].T.tolist())
        ]

    def rolling(self, names: tuple[str, ...]) -> dict[str, Any] | None:
        """Return the figures over the last labels; None without labels."""
        if not self.last:
            return None
        table = np.frombuffer(bytes(self.last), _layout(len(self.bins)))
        label, p = table["label"] == 1, table["p"].T
        repeated = np.maximum(table["last"], 0) == table["label"]
        calls = p[0] > 0.5, p[1] > 0.5, repeated == label
        figures: dict[str, Any] = {"window": self.window, "labels": len(table)}
        for prefix, given, call in zip(FORECASTERS, p, calls, strict=False):
            figures |= grades(
                len(label),
                int(label.sum()),
                int(repeated.sum()),
                int(call.sum()),
                *_sums(given, label, call == label),
                prefix=prefix,
                auc=auc(given, label),
                ece=calibration_error(given, label),
            )
            if not prefix:
                figures["base_rate"] = float(label.mean())
        for name, given in zip(names, p[PLAIN:], strict=True):
            there = ~np.isnan(given)
            given, known = given[there], label[there]
            sums = _sums(given, known, (given > 0.5) == known)
            figures |= means(len(known), *sums, name + "_")
            if name == "raw":
                figures["raw_ece"] = calibration_error(given, known)
        return figures


def _layout(forecasters: int) -> npt.DTypeLike:
    """Return the layout of `ROWS` for NumPy, with the forecasts as `p`."""
    return [("label", "i1"), ("last", "i1"), ("p", "<f8", (forecasters,))]


def _sums(p: Float64s, label: Bools, right: Bools) -> tuple[int, float, float]:
    """Return right calls, sum of log losses (nats) and sum of squared errors."""
    losses = np.abs(np.log(np.maximum(np.where(label, p, 1.0 - p), EPSILON)))
    return int(right.sum()), float(losses.sum()), float(((p - label) ** 2).sum())


def grades(
    labels: int,
    positives: int,
    repeated: int,
    calls: int,
    correct: int,
    log_loss: float,
    brier: float,
    *,
    prefix: str,
    auc: float | None,
    ece: float | None,
) -> dict[str, float | None]:
    """Return {prefix + name: figure} of one forecaster.

    calls: calls of 1. repeated: labels that equal the one before. log_loss (nats) and brier are
    sums.
    """
    return {
        **means(labels, correct, log_loss, brier, prefix),
        prefix + "auc": auc,
        prefix + "kappa": kappa(correct, blind(calls, positives, labels), labels),
        prefix + "kappa_temporal": kappa(correct, repeated, labels),
        prefix + "ece": ece,
    }


def blind(calls: int, positives: int, labels: int) -> float:
    """Return how many labels that many calls of 1 would hit at random."""
    if not labels:
        return 0.0
    return (calls * positives + (labels - calls) * (labels - positives)) / labels


def kappa(correct: int, without: float, labels: int) -> float | None:
    """Return the gain above `without` as a part of the possible one; None if that is 0."""
    return (correct - without) / (labels - without) if without < labels else None


def auc(p: Float64s, label: Bools) -> float | None:
    """Return the area under the ROC curve, ties counting half; None without one class."""
    _, rank = np.unique(p, return_inverse=True)
    negative, positive = np.bincount(2 * rank + label, minlength=2 * len(p)).reshape(-1, 2).T
    pairs = int(label.sum()) * int((~label).sum())
    if not pairs:
        return None
    twice = positive * (2 * np.cumsum(negative) - negative)
    return float(twice.sum() / (2 * pairs))


def calibration_error(p: Float64s, label: Bools) -> float | None:
    """Return the expected calibration error over equal bins; None without labels."""
    if not len(p):
        return None
    return float(np.abs(np.bincount(_bins_of(p), label - p)).sum() / len(p))


def _bins_of(p: Float64s) -> Int64s:
    """Return the bin of each probability."""
    return np.minimum((p * BINS).astype(np.int64), BINS - 1)
