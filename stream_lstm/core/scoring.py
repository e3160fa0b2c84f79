"""Prequential scores: each prediction is scored once, when its label comes, and never again.

Two plain forecasters are scored beside the model on the same labels, each knowing only what was
known when the prediction was made:

* base rate: the share of positive labels so far, (k + 1/2) / (m + 1);
* last label: what came last will come again. Its accuracy is that of the bare repetition; its
  probability is the share of labels so far that did repeat, (r + 1/2) / (m + 1), or one minus it.

Scores are over all labels, and once more over the last `window` of them. Sums are float64 in the
order of the labels: the same bits however the elements came.

Sources: Dawid, "Prequential analysis", 1984; Krichevsky and Trofimov, 1981, for the half counts.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from .grades import Aside, Grades
from .rolling import Ring
from .skill import Evidence
from .tally import EPSILON, Tally, log_loss

__all__ = ["EPSILON", "NAMES", "Scoreboard", "Tally", "log_loss"]

NAMES = ("raw", "frozen", "stateless")
"""Further forecasts that may be scored beside the one that was published: before it was
recalibrated; of a twin that does not learn; of a twin that sees the last W elements alone."""


class Scoreboard(msgspec.Struct):
    """The scores of one stream, or of several together.

    `names` are those of `NAMES` whose forecasts come with the labels, in the order of `others`.
    """

    labels: int = 0
    positives: int = 0
    repeats: int = 0
    model: Grades = msgspec.field(default_factory=Grades)
    base: Grades = msgspec.field(default_factory=Grades)
    last: Grades = msgspec.field(default_factory=Grades)
    evidence: Evidence = msgspec.field(default_factory=Evidence)
    recent: Ring = msgspec.field(default_factory=Ring)
    names: tuple[str, ...] = ()
    asides: tuple[Aside, ...] = ()

    @classmethod
    def empty(cls, window: int = 0, names: tuple[str, ...] = ()) -> Scoreboard:
        """Return a scoreboard without labels, with a ring of `window` labels (0 for none)."""
        asides = tuple(Aside() for _ in names)
        return cls(recent=Ring(window), names=names, asides=asides)

    def base_rate_p(self) -> float:
        """Return what the base rate gives for the next label."""
        return (self.positives + 0.5) / (self.labels + 1.0)

    def last_label_p(self, last: int) -> float:
        """Return what repetition gives for the next label; `last` is -1 where none is known."""
        if last < 0:
            return 0.5
        repeat = (self.repeats + 0.5) / (self.labels + 1.0)
        return repeat if last else 1.0 - repeat

    def add(
        self,
        label: int,
        last: int,
        p: float,
        base_p: float,
        last_p: float,
        others: tuple[float | None, ...] = (),
    ) -> float:
        """Score one label against the probabilities given for it; return the model's log loss.

        `last` is the last label known when the prediction was made, -1 where there was none.
        `others` are the forecasts of `names`, None for one that lacks; empty where all do.
        """
        loss, correct = log_loss(p, label), (p > 0.5) == label
        base_loss, last_loss = log_loss(base_p, label), log_loss(last_p, label)
        self.labels += 1
        self.positives += label
        self.repeats += label == last
        self.model.add(p, label, loss, correct)
        self.base.add(base_p, label, base_loss, (base_p > 0.5) == label)
        self.last.add(last_p, label, last_loss, max(last, 0) == label)
        self.evidence.add(correct, loss, base_loss, last_loss)
        known = self._aside(label, others) if self.names else ()
        if self.recent.window:
            self.recent.add(
                label, last, (p, base_p, last_p, *known) if known else (p, base_p, last_p)
            )
        return loss

    def _aside(self, label: int, others: tuple[float | None, ...]) -> tuple[float, ...]:
        """Score the further forecasts; return them, NaN for one that lacks."""
        others = others or (None,) * len(self.names)
        for aside, other in zip(self.asides, others, strict=True):
            if other is not None:
                aside.score(other, label, log_loss(other, label))
        return tuple(math.nan if other is None else other for other in others)

    def merge(self, other: Scoreboard) -> None:
        """Add the scores of another stream; what comes of it takes no more labels."""
        if self.names != other.names and not self.labels:
            self.names, self.asides = other.names, tuple(Aside() for _ in other.names)
        self.labels += other.labels
        self.positives += other.positives
        self.repeats += other.repeats
        self.model.merge(other.model)
        self.base.merge(other.base)
        self.last.merge(other.last)
        self.evidence.merge(other.evidence)
        self.recent.merge(other.recent)
        for aside, more in zip(self.asides, other.asides, strict=True):
            aside.merge(more)

    def means(self) -> dict[str, float | None]:
        """Return accuracy, log loss and Brier score of model and plain forecasters, at once."""
        n = self.labels
        return {
            **self.model.means(n),
            "base_rate": self.positives / n if n else None,
            **self.base.means(n, "base_rate_"),
            **self.last.means(n, "last_label_"),
        }

    def figures(self) -> dict[str, Any]:
        """Return {name: figure} over all labels; None where there was no label.

        `rolling` holds the figures over the last labels, `evidence` what `skill` has to say,
        `reliability` the bins of the model.
        """
        counts = self.labels, self.positives, self.last.correct
        figures: dict[str, Any] = {
            **self.means(),
            **self.model.figures(*counts),
            **self.base.figures(*counts, "base_rate_"),
            **self.last.figures(*counts, "last_label_"),
        }
        for name, aside in zip(self.names, self.asides, strict=True):
            figures |= aside.figures(name)
        return figures | {
            "accuracy_band": self.evidence.accuracy_band(),
            "evidence": self.evidence.figures(),
            "reliability": self.model.reliability.bins(),
            "rolling": self.recent.figures(self.names),
        }
