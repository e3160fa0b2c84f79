"""The book of published predictions that wait for their labels.

What is scored is the prediction that was published, so the book keeps it, together with what
the plain forecasters gave at the same time and, where labels come from outside, the tape to
learn from. A prediction leaves the book when its label comes, or, being the oldest, when the
book is full: hence it is scored at most once.
"""

from __future__ import annotations

import msgspec
import numpy as np


class Pending(msgspec.Struct):
    """A waiting prediction: p, the plain forecasters' p, and the last label known then.

    `experts` (M,) are the probabilities of a bank's members. `inputs` (K, F) and `state` (D, N)
    are the tape, empty where it is taken from the series.
    """

    n: int
    p: float
    base_rate_p: float
    last_label_p: float
    last_label: int
    session: str = ""
    experts: np.ndarray | None = None
    inputs: np.ndarray | None = None
    state: np.ndarray | None = None


class Ledger(msgspec.Struct):
    """Waiting predictions by n, oldest first; `expired` counts those that left unlabelled."""

    waiting: dict[int, Pending] = msgspec.field(default_factory=dict)
    expired: int = 0

    def add(self, pending: Pending, limit: int) -> Pending | None:
        """Enter a prediction; return the oldest one where it had to leave for it."""
        self.waiting[pending.n] = pending
        return self._expire() if len(self.waiting) > limit else None

    def oldest(self) -> int | None:
        """Return the n of the oldest waiting prediction."""
        return next(iter(self.waiting), None)

    def take(self, n: int) -> Pending | None:
        """Return prediction `n` and strike it out; None where it does not wait."""
        return self.waiting.pop(n, None)

    def clear(self) -> list[Pending]:
        """Expire everything."""
        return [self._expire() for _ in range(len(self.waiting))]

    def _expire(self) -> Pending:
        self.expired += 1
        return self.waiting.pop(next(iter(self.waiting)))
