"""What of a label need not be known at once, counted for many labels in one go.

All forecasters are counted together: those of `rolling.PLAIN`, and the further ones, whose
probabilities are NaN where they lack. Every sum is float64 in the order of the labels, so it
has the same bits however many labels are counted at a time.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from .grades import Aside, Grades
from .ranking import Ranking, keys_of
from .reliability import BINS, Reliability, bins_of
from .rolling import PLAIN, Ring
from .tally import Bools, Doubles

TERMS = 4
"""Of each forecaster: labels, right calls, calls of 1, squared errors."""

WIDTH = TERMS + 3 * BINS
"""Those and, of each bin, labels, positive labels and probabilities."""


class Counts(msgspec.Struct, gc=False):
    """The sums over `labels` labels, float64 (forecasters, WIDTH), and what is kept of each.

    Whole numbers are exact in them up to 2^53.
    """

    sums: bytearray
    rankings: list[Ranking]
    recent: Ring
    labels: int = 0

    @classmethod
    def empty(cls, window: int, others: int) -> Counts:
        """Return counts without labels, with `others` further forecasters."""
        sums = bytearray(8 * WIDTH * (PLAIN + others))
        return cls(sums, [Ranking() for _ in range(PLAIN)], Ring(window))

    def copy(self) -> Counts:
        """Return counts that change apart from these."""
        rankings = [Ranking(r.keys, r.counts, r.fresh) for r in self.rankings]
        recent = Ring(self.recent.window, self.recent.slot, bytearray(self.recent.rows))
        return Counts(bytearray(self.sums), rankings, recent, self.labels)

    def extend(self, table: npt.NDArray[Any]) -> None:
        """Count the labels of a `rolling.table_of`, of which there is one at least."""
        label, p = table["label"] == 1, np.array(table["p"].T, order="C")
        self.labels += len(label)
        self.recent.extend(table.tobytes(), table.itemsize)
        for ranking, keys in zip(self.rankings, keys_of(p[:PLAIN], label), strict=True):
            ranking.extend(keys)
        lacks = np.isnan(p)
        p[lacks] = 0.0
        right = (p > 0.5) == label
        right[PLAIN - 1] = np.maximum(table["last"], 0) == label
        terms = np.empty((TERMS, *p.shape))
        terms[0], terms[1], terms[2], terms[3] = 1.0, right, right == label, np.square(p - label)
        terms[:, lacks] = 0.0
        sums = self._sums()
        terms[:, :, 0] += sums[:, :TERMS].T
        sums[:, :TERMS] = np.cumsum(terms, axis=2)[:, :, -1].T
        self._bin(p, lacks, label)

    def _bin(self, p: Doubles, lacks: Bools, label: Bools) -> None:
        sums = self._sums()[:, TERMS:].reshape(-1, 3, BINS)
        beyond = BINS * len(p)
        bins = bins_of(p) + BINS * np.arange(len(p))[:, None]
        bins[lacks] = beyond
        by_class = np.bincount((2 * bins + label).ravel(), minlength=2 * beyond)[: 2 * beyond]
        negative, positive = by_class.reshape(len(p), BINS, 2).transpose(2, 0, 1)
        sums[:, 0] += negative + positive
        sums[:, 1] += positive
        # What is there comes first, so that sums go on in the order of the labels.
        bins = np.concatenate([np.arange(beyond), bins.ravel()])
        given = np.concatenate([sums[:, 2].ravel(), p.ravel()])
        sums[:, 2] = np.bincount(bins, given)[:beyond].reshape(-1, BINS)

    def merge(self, other: Counts) -> None:
        """Add the counts of another stream."""
        self.labels += other.labels
        self._sums()[:] += other._sums()
        for ranking, more in zip(self.rankings, other.rankings, strict=True):
            ranking.merge(more)
        self.recent.merge(other.recent)

    def _sums(self) -> Doubles:
        """Return the sums as an array that writes into them."""
        return np.frombuffer(self.sums, np.float64).reshape(-1, WIDTH)

    def grades(self, losses: list[float]) -> list[Grades]:
        """Return what is scored of model, base rate and last label, with their log losses."""
        rows = zip(self._sums().tolist(), losses, self.rankings, strict=False)
        return [
            Grades(
                int(right),
                loss,
                brier,
                calls=int(calls),
                ranking=ranking,
                reliability=_reliability(bins),
            )
            for (_, right, calls, brier, *bins), loss, ranking in rows
        ]

    def asides(self, losses: list[float]) -> list[Aside]:
        """Return what is scored of the further forecasters, with their log losses."""
        rows = zip(self._sums()[PLAIN:].tolist(), losses, strict=True)
        return [
            Aside(int(right), loss, brier, labels=int(labels), reliability=_reliability(bins))
            for (labels, right, _, brier, *bins), loss in rows
        ]


def _reliability(bins: list[float]) -> Reliability:
    labels, positives, given = bins[:BINS], bins[BINS : 2 * BINS], bins[2 * BINS :]
    return Reliability([int(n) for n in labels], [int(n) for n in positives], given)
