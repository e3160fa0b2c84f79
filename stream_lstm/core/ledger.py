"""The book of published predictions that wait for their labels.

What is scored is the prediction that was published, so the book keeps it, together with what
the plain forecasters gave at the same time and, where labels come from outside, the tape to
learn from. A prediction leaves the book once, by one of two ways, and hence is scored at most
once:

```
                    label                         settled
waiting ──────────────────────────▶ held ─────────────────▶ scored, learned from
   │  longer than allowed, or the     a label may be
   ▼  oldest when the book is full    revised until then
expired
```

A label that comes before its prediction waits for it. What became of the last predictions that
left is remembered, so that a second label can be told from one for an unknown prediction. All
four parts are bounded.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

REMEMBERED = 1000
"""Predictions that have left and are remembered at least, however few may wait."""

EXPIRED = -1
"""What is remembered of a prediction that left without a label."""


class Pending(msgspec.Struct):
    """A waiting prediction: p, the plain forecasters' p, and the last label known then.

    `raw_p` is p before recalibration, and `frozen_p` and `stateless_p` are those of the twins,
    each where there is one. `experts` (M,) are the probabilities of a bank's members. `inputs`
    (K, F) and `state` (D, N) are the tape, empty where it is taken from the series.
    """

    n: int
    p: float
    base_rate_p: float
    last_label_p: float
    last_label: int
    session: str = ""
    t_ns: int = 0
    raw_p: float | None = None
    frozen_p: float | None = None
    stateless_p: float | None = None
    experts: np.ndarray | None = None
    inputs: np.ndarray | None = None
    state: np.ndarray | None = None


class Truth(msgspec.Struct):
    """A label (0 or 1) and the time that it came with."""

    label: int
    t_ns: int


class Held(msgspec.Struct):
    """A labelled prediction, settled once element `until` has been stepped."""

    pending: Pending
    truth: Truth
    until: int


class Ledger(msgspec.Struct):
    """Predictions and labels by n, each in the order in which they came.

    `expired` counts the predictions that left unlabelled.
    """

    waiting: dict[int, Pending] = msgspec.field(default_factory=dict)
    held: dict[int, Held] = msgspec.field(default_factory=dict)
    early: dict[int, Truth] = msgspec.field(default_factory=dict)
    closed: dict[int, int] = msgspec.field(default_factory=dict)
    expired: int = 0

    def frozen(self) -> Ledger:
        """Return a copy that stays as it is: entries are replaced, never written to."""
        waiting, held = self.waiting.copy(), self.held.copy()
        return Ledger(waiting, held, self.early.copy(), self.closed.copy(), self.expired)

    def add(self, pending: Pending, limit: int) -> Pending | None:
        """Enter a prediction; return the oldest one where it had to leave for it."""
        self.waiting[pending.n] = pending
        return self.expire(limit) if len(self.waiting) > limit else None

    def oldest(self) -> int | None:
        """Return the n of the oldest waiting prediction."""
        return next(iter(self.waiting), None)

    def take(self, n: int) -> Pending | None:
        """Return prediction `n` and strike it out; None where it does not wait."""
        return self.waiting.pop(n, None)

    def hold(self, n: int, truth: Truth, until: int) -> None:
        """Give waiting prediction `n` its label, which counts from element `until` on."""
        self.held[n] = Held(self.waiting.pop(n), truth, until)

    def settle(self, n: int | None, limit: int) -> Held | None:
        """Return the next labelled prediction due at element `n`, or any at all for None."""
        first = next(iter(self.held.values()), None)
        if first is None or (n is not None and first.until > n):
            return None
        del self.held[first.pending.n]
        self._close(first.pending.n, first.truth.label, limit)
        return first

    def expire(self, limit: int) -> Pending:
        """Strike out the oldest waiting prediction, which has no label."""
        self.expired += 1
        pending = self.waiting.pop(next(iter(self.waiting)))
        self._close(pending.n, EXPIRED, limit)
        return pending

    def expire_all(self, limit: int) -> Iterator[Pending]:
        """Strike out every waiting prediction, and yield them, the oldest first."""
        while self.waiting:
            yield self.expire(limit)

    def _close(self, n: int, label: int, limit: int) -> None:
        self.closed[n] = label
        if len(self.closed) > max(limit, REMEMBERED):
            del self.closed[next(iter(self.closed))]
