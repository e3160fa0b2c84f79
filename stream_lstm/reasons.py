"""Reasons of refusals, of which those count as the same that differ in numbers and names only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from .events import QUOTATION

MAX_REASONS = 16
"""Distinct reasons that are kept; further ones count together."""

MAX_TEXT = 120
"""Characters of a normalised reason."""

OTHERS = "other reasons"
"""The normalised reason of those beyond MAX_REASONS."""

VARIABLE = re.compile(r"'.*?'|(?:-?\d+(?:[.,:\d]*\d)?(?:[eE][+-]?\d+)?)+")
"""What differs between reasons that are the same."""


def normalised(reason: str) -> str:
    """Return a reason without its quotation, and with # for each number and quoted text."""
    return VARIABLE.sub("#", reason.partition(QUOTATION)[0][: 4 * MAX_TEXT])[:MAX_TEXT]


class Reasons:
    """Counts reasons; a peer that makes up new ones cannot make the table grow.

    counts: by normalised reason. first: the text that came first, by normalised reason.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, reason: str) -> str:
        """Count a reason; return its normalised form, or OTHERS."""
        same = normalised(reason)
        if same not in self.first and len(self.first) >= MAX_REASONS:
            same = OTHERS
        else:
            self.first.setdefault(same, reason)
        self.counts[same] += 1
        return same

    def told(self) -> Iterator[str]:
        """Yield "N times: ...", the most frequent reason first, each as it came first."""
        for same, count in self.counts.most_common():
            yield f"{count:,} time{'s' if count > 1 else ''}: {self.first.get(same, same)}"
