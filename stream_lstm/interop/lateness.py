"""Notices labels that come late, from the values of what was asked about and what is learned.

A transformer that learns changes the values of an x between the question and its label, but less
than the series does meanwhile. So the distance of each label's values to those of the last
question, the one before it, and so on, is averaged for each lag. Labels are late where the values
of an older question are far nearer than those of the last.
"""

from __future__ import annotations

import numpy as np

RECENT = 100
"""Questions whose values are kept, and so the latest labels that are noticed."""

LEAST = 20
"""Labels, after a question each, before the distances tell anything; they fade over as many."""

NEARER = 0.25
"""Distance of the question that is meant, at most, as part of that of the last question."""

Values = tuple[float, ...]


class Lateness:
    """The questions since the last label, and the values of the last ones.

    `unanswered` counts the questions since the last label.
    """

    def __init__(self, columns: int) -> None:
        self.unanswered = 0
        self._recent = np.zeros((RECENT, columns))
        self._count = 0  # of all questions
        self._since: dict[Values, None] = {}  # since the last label, the newest one last
        self._away = np.zeros(RECENT)  # by lag
        self._labels = 0

    def asked(self, values: Values) -> None:
        """Take a question."""
        self.unanswered += 1
        if self._since and next(reversed(self._since)) == values:
            return  # asked once more
        self._since.pop(values, None)
        self._since[values] = None
        if len(self._since) > RECENT:
            del self._since[next(iter(self._since))]
        self._recent[self._count % RECENT] = values
        self._count += 1

    def is_late(self, values: Values) -> bool:
        """Return whether a label belongs to an older question than the last."""
        if not self.unanswered:
            return False  # nobody asks before each label: the last question is not of this one
        if values in self._since:
            return next(reversed(self._since)) != values
        return self._by_distance(values)

    def _by_distance(self, values: Values) -> bool:
        lags = (self._count - 1 - np.arange(RECENT)) % RECENT
        with np.errstate(invalid="ignore", over="ignore"):
            away = np.abs(self._recent[lags] - values).sum(1)
        away[self._count :] = away[: self._count].max()
        self._labels += 1
        self._away += (away - self._away) / min(self._labels, LEAST)
        late = self._away.min() < NEARER * self._away[0]
        return self._labels >= LEAST and bool(late)

    def answered(self) -> None:
        """Take the label: what is asked from now on is about a later x."""
        self.unanswered = 0
        self._since.clear()
