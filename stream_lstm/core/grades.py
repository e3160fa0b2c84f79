"""All that is scored of one forecaster.

Cohen's kappa is the accuracy above that of calls dealt out blindly in the same shares, as a part
of what was left above it; kappa-temporal is the same above a repetition of the last label. Both
are 1 for perfect calls and 0 for what needs no skill.

Sources: Cohen, "A coefficient of agreement for nominal scales", 1960; Zliobaite et al.,
"Evaluation methods and decision theory for classification of streaming data", 2015.
"""

from __future__ import annotations

from .ranking import Ranking
from .reliability import Reliability
from .tally import Tally


class Grades(Tally, kw_only=True):
    """The sums of a `Tally`, how often 1 was called, the ranking and the reliability."""

    calls: int
    ranking: Ranking
    reliability: Reliability

    def figures(
        self, labels: int, positives: int, repeated: int, prefix: str = ""
    ) -> dict[str, float | None]:
        """Return {prefix + name: figure}; `repeated` labels were right by repetition alone."""
        return {
            **self.means(labels, prefix),
            prefix + "auc": self.ranking.auc(),
            prefix + "kappa": kappa(self.correct, blind(self.calls, positives, labels), labels),
            prefix + "kappa_temporal": kappa(self.correct, repeated, labels),
            prefix + "ece": self.reliability.error(),
        }


class Aside(Tally, kw_only=True):
    """A further forecast of the same labels, which may lack for some: so it counts its own."""

    labels: int
    reliability: Reliability

    def figures(self, name: str) -> dict[str, float | None]:
        """Return {name_figure: figure}, of `raw` the calibration error too."""
        error = {"raw_ece": self.reliability.error()} if name == "raw" else {}
        return self.means(self.labels, name + "_") | error


def blind(calls: int, positives: int, labels: int) -> float:
    """Return how many of the labels that many calls of 1 would hit if dealt out blindly."""
    if not labels:
        return 0.0
    return (calls * positives + (labels - calls) * (labels - positives)) / labels


def kappa(correct: int, without: float, labels: int) -> float | None:
    """Return the part of what was left that was gained; None where nothing was left."""
    return (correct - without) / (labels - without) if without < labels else None
