"""The area under the ROC curve, over any number of labels in bounded memory.

It is the chance that a positive label had the higher probability than a negative one, ties
counting half. Labels are counted by class in narrow bins of the logit, and those in one bin are
ties: so it is off by no more than half the share of such pairs. Bins are 2e-6 wide near a logit
of 0, where weak forecasts crowd, and wider in proportion from 1e-3 on, 1e-3 at a logit of 1.
There are 21,000 at most, and only those in use are kept.
"""

from __future__ import annotations

from operator import mul

import msgspec
import numpy as np
import numpy.typing as npt

from .tally import EPSILON, Doubles

Counts = npt.NDArray[np.int64]

FINE = 1e-3
"""Logits below which bins are of one width."""

CERTAIN = 1.0 - EPSILON

BINS = 1024.0
"""Bins to a factor of e beyond that."""

MIDDLE = 10_700
"""The number of the bin of 1/2 where the lowest has the number 0."""

KEYS = 4 * MIDDLE
"""Keys of a bin and a class: twice the number of the bin, and 1 more for positive labels."""

FRESH = 1024
"""Labels that wait as they came, at 2 bytes each, until a table is made of them."""


class Ranking(msgspec.Struct, gc=False):
    """How many labels each bin has, by class.

    `keys` (uint16, ascending) and `counts` (int64) are a table of labels, `fresh` (uint16) the
    keys of those since. Their values are never changed in place, so copies may share them.
    """

    keys: bytes = b""
    counts: bytes = b""
    fresh: bytes = b""

    @classmethod
    def tabulated(cls, dense: Counts) -> Ranking:
        """Return the ranking of labels counted by key, (KEYS,)."""
        ranking = cls()
        ranking._tabulate(dense)
        return ranking

    def extend(self, keys: npt.NDArray[np.uint16]) -> None:
        """Count labels by their `keys_of`."""
        fresh = self.fresh + keys.tobytes()
        whole = len(fresh) // (2 * FRESH) * (2 * FRESH)
        self.fresh = fresh[whole:]
        if whole:
            self._tabulate(self._dense(fresh[:whole]))

    def merge(self, other: Ranking) -> None:
        """Add the counts of another stream."""
        if other.keys:
            self._tabulate(self._dense(b"") + other._dense(b""))
        self.extend(np.frombuffer(other.fresh, np.uint16))

    def auc(self) -> float | None:
        """Return the area; None where a class has no label."""
        negative, positive = self._classes()
        pairs = int(positive.sum()) * int(negative.sum())
        if not pairs:
            return None
        beaten = 2 * np.cumsum(negative) - negative
        # Whole numbers without bound: exact whatever the count.
        twice: int = sum(map(mul, positive.tolist(), beaten.tolist()))
        return twice / (2 * pairs)

    def tied(self) -> float:
        """Return the share of pairs that are in one bin: twice the most that `auc` is off."""
        negative, positive = self._classes()
        pairs = int(positive.sum()) * int(negative.sum())
        same: int = sum(map(mul, positive.tolist(), negative.tolist()))
        return same / pairs if pairs else 0.0

    def _classes(self) -> tuple[Counts, Counts]:
        """Return the labels of either class in the bins that have any, in ascending order."""
        counts = self._dense(self.fresh).reshape(-1, 2)
        counts = counts[counts.any(axis=1)]
        return counts[:, 0], counts[:, 1]

    def _dense(self, fresh: bytes) -> Counts:
        """Return the counts (KEYS,) of the table and of further keys."""
        dense = np.bincount(np.frombuffer(fresh, np.uint16), minlength=KEYS)
        dense[np.frombuffer(self.keys, np.uint16).astype(np.intp)] += np.frombuffer(
            self.counts, np.int64
        )
        return dense

    def _tabulate(self, dense: Counts) -> None:
        keys = np.flatnonzero(dense != 0)  # five times as fast as of the numbers themselves
        self.keys, self.counts = keys.astype(np.uint16).tobytes(), dense[keys].tobytes()


def keys_of(p: Doubles, positive: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint16]:
    """Return the keys (..., n) of probabilities (..., n) for labels (n,)."""
    p = np.minimum(np.maximum(p, EPSILON), CERTAIN)
    bins = np.floor(np.arcsinh(np.log(p / (1.0 - p)) / FINE) * BINS)
    return (2.0 * (bins + MIDDLE) + positive).astype(np.uint16)
