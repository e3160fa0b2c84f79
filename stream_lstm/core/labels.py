"""External labels: which of them count, when, and why the others are refused.

The ledger of a stream contains the published predictions that wait for a label. It keeps the
prediction as it was published, with the plain forecasts of that time and the tape to learn from.
Each prediction leaves the ledger once, so it is scored at most once:

```
               label                    settled
waiting ──────────────────▶ unsettled ────────────▶ scored, learned from
   │  too old, or the oldest    its label may be
   ▼  when the ledger is full   revised until then
expired
```

| a label for | result |
|---|---|
| a waiting prediction | accepted; it counts immediately, or after `label_hold` elements |
| a prediction that is due but not made yet | taken as early; it waits for the prediction |
| an unsettled prediction, with the other class | taken as revised, where the last label counts |
| a prediction that has this label already | refused as repeated |
| a prediction that was scored with the other label | refused as disagreeing |
| a prediction that has expired | refused as late |
| anything else | refused as unknown |
| any prediction, but neither 0 nor 1 (with a threshold: not finite) | refused as bad |

Each case has a counter. A prediction expires when `label_expiry` elements or `label_expiry_s`
seconds of the stream's own time have passed, the oldest first. Expiring and settling happen after
a whole element, so they do not depend on the cut into blocks. Every part of the ledger is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ..events import Label
from ..schema import StreamConfig
from ..typing import Int64s

if TYPE_CHECKING:
    from .stream import Stream

NS_PER_S = 1_000_000_000

MIN_CLOSED = 1000
"""Closed predictions that a ledger remembers at least, to name the reason of a late label."""

NO_LABEL = -1
"""The remembered class of a prediction that left without a label."""


class LedgerEntry(msgspec.Struct, rename={"run_id": "session"}):
    """A published prediction: p, the plain forecasters' p, and the last label known then.

    `raw_p` is p before recalibration; `frozen_p` and `stateless_p` are those of the twins; each is
    None without one. `experts` (M,) are the probabilities of a bank's members. `inputs` (K, F) and
    `state` (D, N) are the tape to learn from.
    """

    n: int
    p: float
    base_rate_p: float
    last_label_p: float
    last_label: int
    run_id: str = ""
    t_ns: int = 0
    raw_p: float | None = None
    frozen_p: float | None = None
    stateless_p: float | None = None
    experts: np.ndarray | None = None
    inputs: np.ndarray | None = None
    state: np.ndarray | None = None


class TimedLabel(msgspec.Struct, rename={"y": "label"}):
    """A label, 0 or 1, and its time."""

    y: int
    t_ns: int


class LabelledPrediction(msgspec.Struct, rename={"entry": "pending", "label": "truth"}):
    """A prediction with its label, which is settled once element `until` has been stepped."""

    entry: LedgerEntry
    label: TimedLabel
    until: int


class Ledger(msgspec.Struct, rename={"unsettled": "held"}):
    """Predictions and labels by n, each in the order of arrival.

    `early` are labels whose prediction is not made yet, `closed` the classes of predictions that
    have left, `expired` the number of predictions that left without a label.
    """

    waiting: dict[int, LedgerEntry] = msgspec.field(default_factory=dict)
    unsettled: dict[int, LabelledPrediction] = msgspec.field(default_factory=dict)
    early: dict[int, TimedLabel] = msgspec.field(default_factory=dict)
    closed: dict[int, int] = msgspec.field(default_factory=dict)
    expired: int = 0

    def frozen(self) -> Ledger:
        """Return a copy that does not change: entries are replaced, never written to."""
        waiting, unsettled = self.waiting.copy(), self.unsettled.copy()
        return Ledger(waiting, unsettled, self.early.copy(), self.closed.copy(), self.expired)

    def oldest(self) -> LedgerEntry | None:
        """Return the oldest waiting prediction."""
        return next(iter(self.waiting.values()), None)

    def add(self, entry: LedgerEntry, limit: int) -> LedgerEntry | None:
        """Add a prediction; return the oldest one if the ledger was full and it expired."""
        self.waiting[entry.n] = entry
        return self.expire(limit) if len(self.waiting) > limit else None

    def label(self, n: int, label: TimedLabel, until: int) -> None:
        """Label waiting prediction `n`; the label counts from element `until` on."""
        self.unsettled[n] = LabelledPrediction(self.waiting.pop(n), label, until)

    def settle(self, n: int | None, limit: int) -> LabelledPrediction | None:
        """Remove and return the next prediction to settle at element `n`; any one for None."""
        first = next(iter(self.unsettled.values()), None)
        if first is None or (n is not None and first.until > n):
            return None
        del self.unsettled[first.entry.n]
        self._close(first.entry.n, first.label.y, limit)
        return first

    def expire(self, limit: int) -> LedgerEntry:
        """Remove and return the oldest waiting prediction, without a label."""
        self.expired += 1
        entry = self.waiting.pop(next(iter(self.waiting)))
        self._close(entry.n, NO_LABEL, limit)
        return entry

    def _close(self, n: int, y: int, limit: int) -> None:
        self.closed[n] = y
        if len(self.closed) > max(limit, MIN_CLOSED):
            del self.closed[next(iter(self.closed))]


class LabelPolicy:
    """The rules of the module docstring for one configuration; each stream has its own ledger."""

    def __init__(self, config: StreamConfig) -> None:
        self.limit = config.max_pending
        self._window, self._stride = config.window, config.stride
        self._threshold = config.threshold
        self._hold = config.label_hold if config.revisions == "last" else 0
        self._expiry = config.label_expiry
        self._expiry_ns = round(config.label_expiry_s * NS_PER_S)

    # ---- labels -----------------------------------------------------------------------

    def receive(self, stream: Stream, label: Label) -> str:
        """Take a label; return "", or why it is refused."""
        counter, reason = self._receive(stream, label)
        if counter:
            stream.count(counter)
        return reason

    def _receive(self, stream: Stream, label: Label) -> tuple[str, str]:
        """Take a label; return the counter that it adds to, and why it is refused."""
        y, n, ledger = self._class_of(label.y), label.n, stream.ledger
        if y is None:
            return "labels_bad", self._bad(label.y)
        timed = TimedLabel(y, label.t_ns)
        if n in ledger.waiting:
            ledger.label(n, timed, stream.n + self._hold)
            return "", ""
        if n in ledger.unsettled:
            unsettled = ledger.unsettled[n]
            if unsettled.label.y == y:
                return "labels_repeated", f"prediction {n} has this label already"
            ledger.unsettled[n] = LabelledPrediction(unsettled.entry, timed, unsettled.until)
            return "labels_revised", ""
        if n in ledger.closed:
            return self._closed(n, ledger.closed[n], y)
        if n >= stream.due and self._is_due(n):
            return self._early(ledger.early, n, timed)
        return "labels_unknown", self._unknown(n)

    def _class_of(self, y: float) -> int | None:
        if self._threshold is None:
            return int(y) if y in (0, 1) else None
        return int(y > self._threshold) if math.isfinite(y) else None

    def _bad(self, y: float) -> str:
        if self._threshold is None:
            hint = "" if math.isnan(y) else "; set `threshold` if labels are measured numbers"
            return f"a label is 0 or 1, not {y:g}{hint}"
        return f"a label is a finite number, not {y:g}"

    def _closed(self, n: int, scored: int, y: int) -> tuple[str, str]:
        if scored == NO_LABEL:
            reason = f"prediction {n} expired before its label came: raise {self._limits()}"
            return "labels_late", reason
        if scored == y:
            return "labels_repeated", f"prediction {n} has this label already"
        reason = f"prediction {n} was scored with label {scored}; a second label is {y}"
        return "labels_disagreeing", reason

    def _limits(self) -> str:
        """Return the settings that limit how long a prediction waits."""
        limits = {
            f"max_pending={self.limit}": True,
            f"label_expiry={self._expiry}": self._expiry,
            f"label_expiry_s={self._expiry_ns / NS_PER_S:g}": self._expiry_ns,
        }
        return " or ".join(name for name, is_set in limits.items() if is_set)

    def _early(self, early: dict[int, TimedLabel], n: int, label: TimedLabel) -> tuple[str, str]:
        known = early.get(n)
        if known is None and len(early) >= self.limit:
            reason = f"{self.limit:,} labels wait for predictions that are not made yet, the limit"
            return "labels_unknown", reason
        if known is not None and known.y == label.y:
            return "labels_repeated", f"prediction {n}, not made yet, has this label already"
        if known is not None and not self._hold:
            reason = f"prediction {n}, not made yet, has label {known.y}; a second one is"
            return "labels_disagreeing", f"{reason} {label.y}"
        early[n] = label
        return ("labels_early" if known is None else "labels_revised"), ""

    def _is_due(self, n: int) -> bool:
        return n >= self._window and (n - self._window) % self._stride == 0

    def _unknown(self, n: int) -> str:
        if self._is_due(n):
            return f"prediction {n} left too long ago, or fell into a gap"
        return (
            f"no prediction of n={n} was ever due: predictions come after element {self._window} "
            f"and every {self._stride} elements from there"
        )

    def predicted(self, stream: Stream, n: int) -> list[int]:
        """Apply the early label of prediction `n`, which was just added, if there is one.

        Returns the n of early labels whose prediction was never made; these are dropped.
        """
        early = stream.ledger.early
        if not early:
            return []
        label = early.pop(n, None)
        if label is not None and n in stream.ledger.waiting:
            stream.ledger.label(n, label, n + self._hold)
        missed = [other for other in early if other < n]
        for other in missed:
            del early[other]
            stream.count("labels_unknown")
        return missed

    # ---- time -------------------------------------------------------------------------

    def uncut(self, stream: Stream, size: int, t_ns: Int64s) -> int:
        """Return how many of the next elements, at `t_ns`, end with the next deadline."""
        ledger, n = stream.ledger, stream.n
        if ledger.unsettled:
            size = min(size, next(iter(ledger.unsettled.values())).until - n)
        if ledger.early:
            size = min(size, stream.due - n)
        if not self._expiry and not self._expiry_ns:
            return size
        oldest = ledger.oldest()
        first = stream.due if oldest is None else oldest.n
        if self._expiry:
            size = min(size, first + self._expiry - n)
        if self._expiry_ns:
            size = self._before_deadline(oldest, first - n - 1, t_ns[:size])
        return size

    def _before_deadline(self, oldest: LedgerEntry | None, at: int, t_ns: Int64s) -> int:
        """Return how many elements end with the one at which the oldest prediction expires.

        That is `oldest`, or else the one that is made at element `at` of these.
        """
        if oldest is None and at >= len(t_ns):
            return len(t_ns)
        made, begin = (int(t_ns[at]), at + 1) if oldest is None else (oldest.t_ns, 0)
        over = t_ns[begin:] >= made + self._expiry_ns
        return begin + int(over.argmax()) + 1 if over.any() else len(t_ns)

    def expired(self, stream: Stream, t_ns: int) -> Iterator[LedgerEntry]:
        """Remove and yield the predictions that expire after the present element, at `t_ns`."""
        while (oldest := stream.ledger.oldest()) is not None:
            by_count = 0 < self._expiry <= stream.n - oldest.n
            if not by_count and not (0 < self._expiry_ns <= t_ns - oldest.t_ns):
                return
            yield stream.ledger.expire(self.limit)

    def settled(
        self, stream: Stream, *, all_of_them: bool = False
    ) -> Iterator[LabelledPrediction]:
        """Remove and yield the labelled predictions that are settled now, in order."""
        due = None if all_of_them else stream.n
        while (labelled := stream.ledger.settle(due, self.limit)) is not None:
            yield labelled
