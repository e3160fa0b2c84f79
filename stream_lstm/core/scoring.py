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
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .counts import Counts
from .grades import Grades
from .rolling import PLAIN, ROWS, layout, table_of
from .skill import Evidence
from .tally import EPSILON, Doubles, Tally, log_loss, log_losses, running

__all__ = ["EPSILON", "NAMES", "Scoreboard", "Tally", "log_loss"]

NAMES = ("raw", "frozen", "stateless")
"""Further forecasts that may be scored beside the one that was published: before it was
recalibrated; of a twin that does not learn; of a twin that sees the last W elements alone."""

BATCH = 128
"""Labels that are counted in one go."""


@dataclass(slots=True)
class Scoreboard:
    """The scores of one stream, or of several together.

    `names` are those of `NAMES` whose forecasts come with the labels, in the order of `others`.
    The evidence is that of all labels; `counts` lack the last of them, of which there are less
    than `BATCH` and whose rows, laid out as `rolling.ROWS`, are in `rows`. Both are None before
    there is something in them. What is asked for counts the rest apart: a look changes nothing.
    """

    labels: int = 0
    positives: int = 0
    repeats: int = 0
    window: int = 0
    names: tuple[str, ...] = ()
    losses: list[float] = field(default_factory=lambda: [0.0] * PLAIN)
    bets: Evidence | None = None
    counts: Counts | None = None
    rows: bytearray = field(default_factory=bytearray)

    @classmethod
    def empty(cls, window: int = 0, names: tuple[str, ...] = ()) -> Scoreboard:
        """Return a scoreboard without labels, with a ring of `window` labels (0 for none)."""
        return cls(window=window, names=names, losses=[0.0] * (PLAIN + len(names)))

    @property
    def evidence(self) -> Evidence:
        """The model against a coin, the base rate and the last label."""
        return self.bets or Evidence()

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
        Raises ValueError where they are more or fewer than the names.
        """
        loss, base_loss = log_loss(p, label), log_loss(base_p, label)
        last_loss = log_loss(last_p, label)
        known = self._known(label, others) if self.names else ()
        bets = self.bets
        if bets is None:
            bets = self.bets = Evidence()
        bets.add((p > 0.5) == label, loss, base_loss, last_loss)
        losses = self.losses
        losses[0] += loss
        losses[1] += base_loss
        losses[2] += last_loss
        self.labels = labels = self.labels + 1
        self.positives += label
        self.repeats += label == last
        self.rows += ROWS[len(known)].pack(label, last, p, base_p, last_p, *known)
        if not labels % BATCH:
            self.counts = self._counted(self.counts)
            self.rows.clear()
        return loss

    def extend(
        self, labels: npt.NDArray[np.int8], lasts: npt.NDArray[np.int8], p: Doubles
    ) -> tuple[Doubles, Doubles]:
        """Score n labels as `add` would one by one, to the same bits, faster from some 100 on.

        `p` (PLAIN + names, n) are the forecasts of the model, the base rate, the last label and
        `names`, NaN for one that lacks; n >= 1. Returns the model's log losses (n,), and (n, 3)
        what the evidence's `log_e` is after each label.
        """
        positive = labels == 1
        losses = log_losses(p, positive)
        self.losses = running(self.losses, np.where(np.isnan(p), 0.0, losses))[:, -1].tolist()
        self.bets = self.evidence
        log_e = self.bets.extend((p[0] > 0.5) == positive, losses[:PLAIN])
        self.labels += len(labels)
        self.positives += int(positive.sum())
        self.repeats += int((labels == lasts).sum())
        table = np.empty(len(labels), layout(len(self.names)))
        table["label"], table["last"], table["p"] = labels, lasts, p.T
        rows = self.rows + table.tobytes()
        whole = len(rows) - self.labels % BATCH * table.itemsize
        if whole:
            self.rows = rows[:whole]
            self.counts = self._counted(self.counts)
        self.rows = rows[whole:]
        return losses[0], log_e

    def _known(self, label: int, others: tuple[float | None, ...]) -> tuple[float, ...]:
        """Score the further forecasts; return them, NaN for one that lacks."""
        others = others or (None,) * len(self.names)
        if len(others) != len(self.names):
            raise ValueError(f"{len(others)} further forecasts come for {', '.join(self.names)}")
        for k, other in enumerate(others, PLAIN):
            if other is not None:
                self.losses[k] += log_loss(other, label)
        return tuple(math.nan if other is None else other for other in others)

    def _counted(self, counts: Counts | None) -> Counts:
        """Return `counts` with the rows."""
        counts = counts or Counts.empty(self.window, len(self.names))
        if self.rows:
            counts.extend(table_of(self.rows, len(self.names)))
        return counts

    def so_far(self) -> Counts:
        """Return the counts of all labels, which no further label changes."""
        return self._counted(self.counts and self.counts.copy())

    def merge(self, other: Scoreboard) -> None:
        """Add the scores of another stream; what comes of it takes no more labels."""
        if self.names != other.names and not self.labels:
            self.names, self.losses = other.names, [0.0] * len(other.losses)
        self.window = max(self.window, other.window)
        if not other.labels:
            return
        self.labels += other.labels
        self.positives += other.positives
        self.repeats += other.repeats
        self.losses = [a + b for a, b in zip(self.losses, other.losses, strict=True)]
        self.bets = self.evidence
        self.bets.merge(other.evidence)
        self.counts, self.rows = self._counted(self.counts), bytearray()
        self.counts.merge(other.so_far())

    def grades(self) -> list[Grades]:
        """Return what is scored of the model, the base rate and the last label."""
        return self.so_far().grades(self.losses)

    def means(self) -> dict[str, float | None]:
        """Return accuracy, log loss and Brier score of model and plain forecasters, at once."""
        return self._means(*self.grades())

    def _means(self, model: Grades, base: Grades, last: Grades) -> dict[str, float | None]:
        n = self.labels
        return {
            **model.means(n),
            "base_rate": self.positives / n if n else None,
            **base.means(n, "base_rate_"),
            **last.means(n, "last_label_"),
        }

    def figures(self) -> dict[str, Any]:
        """Return {name: figure} over all labels; None where there was no label.

        `rolling` holds the figures over the last labels, `evidence` what `skill` has to say,
        `reliability` the bins of the model.
        """
        counts = self.so_far()
        model, base, last = counts.grades(self.losses)
        truth = self.labels, self.positives, last.correct
        figures: dict[str, Any] = {
            **self._means(model, base, last),
            **model.figures(*truth),
            **base.figures(*truth, "base_rate_"),
            **last.figures(*truth, "last_label_"),
        }
        for name, aside in zip(self.names, counts.asides(self.losses[PLAIN:]), strict=True):
            figures |= aside.figures(name)
        return figures | {
            "accuracy_band": self.evidence.accuracy_band(),
            "evidence": self.evidence.figures(),
            "reliability": model.reliability.bins(),
            "rolling": counts.recent.figures(self.names),
        }
