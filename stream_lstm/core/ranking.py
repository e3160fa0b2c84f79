"""The area under the ROC curve, over any number of labels in bounded memory.

It is the chance that a positive label had the higher probability than a negative one, ties
counting half. Labels are counted by class in narrow bins of the logit, and those in one bin are
ties: so it is off by no more than half the share of such pairs. Bins are 2e-6 wide near a logit
of 0, where weak forecasts crowd, and wider in proportion from 1e-3 on, 1e-3 at a logit of 1.
There are 21,000 at most, and only those in use are kept.
"""

from __future__ import annotations

from math import asinh, floor, log

import msgspec

from .tally import EPSILON

FINE = 1e-3
"""Logits below which bins are of one width."""

CERTAIN = 1.0 - EPSILON

BINS = 1024.0
"""Bins to a factor of e beyond that."""


class Ranking(msgspec.Struct):
    """{bin: labels in it} of each class."""

    negative: dict[int, int] = msgspec.field(default_factory=dict)
    positive: dict[int, int] = msgspec.field(default_factory=dict)

    def add(self, p: float, label: int) -> None:
        """Count one label."""
        counts = self.positive if label else self.negative
        k = bin_of(p)
        counts[k] = counts.get(k, 0) + 1

    def merge(self, other: Ranking) -> None:
        """Add the counts of another stream."""
        for own, others in ((self.negative, other.negative), (self.positive, other.positive)):
            for k, count in others.items():
                own[k] = own.get(k, 0) + count

    def auc(self) -> float | None:
        """Return the area; None where a class has no label."""
        pairs = sum(self.positive.values()) * sum(self.negative.values())
        if not pairs:
            return None
        twice = below = 0  # whole numbers: exact whatever the count
        for k in sorted(self.negative.keys() | self.positive.keys()):
            negative = self.negative.get(k, 0)
            twice += self.positive.get(k, 0) * (2 * below + negative)
            below += negative
        return twice / (2 * pairs)

    def tied(self) -> float:
        """Return the share of pairs that are in one bin: twice the most that `auc` is off."""
        pairs = sum(self.positive.values()) * sum(self.negative.values())
        same = sum(n * self.negative.get(k, 0) for k, n in self.positive.items())
        return same / pairs if pairs else 0.0


def bin_of(p: float) -> int:
    """Return the number of the bin of a probability; higher for a higher one."""
    if p < EPSILON:
        p = EPSILON
    elif p > CERTAIN:
        p = CERTAIN
    return floor(asinh(log(p / (1.0 - p)) / FINE) * BINS)
