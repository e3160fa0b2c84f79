"""Prequential scores: each prediction is scored once, when its label comes, and never again.

Two plain forecasters are scored beside the model on the same labels, each knowing only what was
known when the prediction was made:

* base rate: the share of positive labels so far, (k + 1/2) / (m + 1);
* last label: what came last will come again. Its accuracy is that of the bare repetition; its
  probability is the share of labels so far that did repeat, (r + 1/2) / (m + 1), or one minus it.

A probability of exactly 0 or 1 has an infinite loss when wrong, so losses take probabilities
within `EPSILON` of them for that. Sums are float64 in the order of the labels: the same bits
however the elements came.

Sources: Dawid, "Prequential analysis", 1984; Krichevsky and Trofimov, 1981, for the half counts.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

EPSILON = 2.0**-24
"""Half the spacing of float32 below 1: a published p of exactly 1 may be rounded by as much."""


def log_loss(p: float, label: int) -> float:
    """Return the loss in nats of giving probability `p` to a label of 1."""
    q = p if label else 1.0 - p
    return abs(math.log(max(q, EPSILON)))  # the log of 1 is 0, not minus 0


class Tally(msgspec.Struct):
    """Sums over the labels that one forecaster was scored on."""

    correct: int = 0
    log_loss: float = 0.0
    brier: float = 0.0

    def add(self, p: float, label: int, loss: float, correct: bool) -> None:
        """Count one label; `loss` is its log loss in nats."""
        self.correct += correct
        self.log_loss += loss
        self.brier += (p - label) ** 2

    def merge(self, other: Tally) -> None:
        """Add the sums of another stream."""
        self.correct += other.correct
        self.log_loss += other.log_loss
        self.brier += other.brier

    def means(self, labels: int, prefix: str = "") -> dict[str, float | None]:
        """Return accuracy, log loss (nats) and Brier score over `labels`; None without any."""
        sums = {"accuracy": self.correct, "log_loss": self.log_loss, "brier": self.brier}
        return {prefix + k: (v / labels if labels else None) for k, v in sums.items()}


class Scoreboard(msgspec.Struct):
    """The scores of one stream, or of several together."""

    labels: int = 0
    positives: int = 0
    repeats: int = 0
    model: Tally = msgspec.field(default_factory=Tally)
    base: Tally = msgspec.field(default_factory=Tally)
    last: Tally = msgspec.field(default_factory=Tally)

    def base_rate_p(self) -> float:
        """Return what the base rate gives for the next label."""
        return (self.positives + 0.5) / (self.labels + 1.0)

    def last_label_p(self, last: int) -> float:
        """Return what repetition gives for the next label; `last` is -1 where none is known."""
        if last < 0:
            return 0.5
        repeat = (self.repeats + 0.5) / (self.labels + 1.0)
        return repeat if last else 1.0 - repeat

    def add(self, label: int, last: int, p: float, base_p: float, last_p: float) -> float:
        """Score one label against the probabilities given for it; return the model's log loss.

        `last` is the last label known when the prediction was made, -1 where there was none.
        """
        loss = log_loss(p, label)
        self.labels += 1
        self.positives += label
        self.repeats += label == last
        self.model.add(p, label, loss, (p > 0.5) == label)
        self.base.add(base_p, label, log_loss(base_p, label), (base_p > 0.5) == label)
        self.last.add(last_p, label, log_loss(last_p, label), max(last, 0) == label)
        return loss

    def merge(self, other: Scoreboard) -> None:
        """Add the scores of another stream."""
        self.labels += other.labels
        self.positives += other.positives
        self.repeats += other.repeats
        self.model.merge(other.model)
        self.base.merge(other.base)
        self.last.merge(other.last)

    def figures(self) -> dict[str, Any]:
        """Return {name: figure} over all labels; None where there was no label."""
        n = self.labels
        return {
            **self.model.means(n),
            "base_rate": self.positives / n if n else None,
            **self.base.means(n, "base_rate_"),
            **self.last.means(n, "last_label_"),
        }
