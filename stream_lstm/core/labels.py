"""Labels from outside: which of them count, when, and what becomes of the others.

| a label for | is |
|---|---|
| a waiting prediction | its truth: at once, or after `label_hold` elements where the last wins |
| a prediction that is due but not there yet | early: it waits for it |
| a prediction that has that label | repeated |
| a prediction that is held with the other label | revised, where the last one wins |
| a prediction that was scored with the other label | disagreeing: the score stays |
| a prediction that has expired | late |
| anything else | unknown |
| any of them, and neither 0 nor 1 (not finite, where there is a threshold) | bad |

The first two, and a revision, are taken; the others are refused. All are counted. A prediction
expires once `label_expiry` elements or `label_expiry_s` seconds of the stream's own time have
passed it, the oldest first. Both expiry and settling fall after a whole element, so they do not
depend on how elements are cut into blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..events import Label
from ..schema import StreamConfig
from ..typing import Int64s
from .stream import LEFT_UNLABELLED, LabelledPrediction, Pending, Stream, TimedLabel

NS_PER_S = 1_000_000_000


class LabelPolicy:
    """The rules above for one configuration; the books are the streams' own."""

    def __init__(self, config: StreamConfig) -> None:
        self.limit = config.max_pending
        self._window, self._stride = config.window, config.stride
        self._threshold = config.threshold
        self._hold = config.label_hold if config.revisions == "last" else 0
        self._expiry = config.label_expiry
        self._expiry_ns = round(config.label_expiry_s * NS_PER_S)

    # ---- a label comes ----------------------------------------------------------------

    def receive(self, stream: Stream, label: Label) -> str:
        """Enter a label; return why it is refused, nothing where it is taken."""
        y = self._class_of(label.y)
        ledger = stream.ledger
        if y is None:
            stream.count("labels_bad")
            return self._bad(label.y)
        truth, n = TimedLabel(y, label.t_ns), label.n
        if n in ledger.waiting:
            ledger.hold(n, truth, stream.n + self._hold)
            return ""
        if n in ledger.held:
            return self._revise(stream, n, truth)
        if n in ledger.closed:
            return self._again(stream, n, y)
        if n >= stream.next_due and self._is_due(n):
            return self._early(stream, n, truth)
        stream.count("labels_unknown")
        return self._unknown(n)

    def _class_of(self, y: float) -> int | None:
        """Return the class of a label, None for one that is none."""
        if self._threshold is None:
            return int(y) if y in (0, 1) else None
        return int(y > self._threshold) if math.isfinite(y) else None

    def _bad(self, y: float) -> str:
        if self._threshold is None:
            hint = "; set threshold to a number where labels are measured" if y == y else ""
            return f"a label is 0 or 1, not {y:g}{hint}"
        return f"a label is a finite number, not {y:g}"

    def _revise(self, stream: Stream, n: int, truth: TimedLabel) -> str:
        held = stream.ledger.held[n]
        if held.truth.label == truth.label:
            stream.count("labels_repeated")
            return f"prediction {n} has this label already"
        stream.count("labels_revised")
        stream.ledger.held[n] = LabelledPrediction(held.pending, truth, held.until)
        return ""

    def _again(self, stream: Stream, n: int, y: int) -> str:
        known = stream.ledger.closed[n]
        if known == LEFT_UNLABELLED:
            stream.count("labels_late")
            return f"prediction {n} has expired before its label came: raise {self._limits()}"
        if known == y:
            stream.count("labels_repeated")
            return f"prediction {n} has this label already"
        stream.count("labels_disagreeing")
        return f"prediction {n} was scored with label {known}, and a second label says {y}"

    def _limits(self) -> str:
        """Return the settings that let a prediction wait no longer."""
        limits = {
            f"max_pending={self.limit}": True,
            f"label_expiry={self._expiry}": self._expiry,
            f"label_expiry_s={self._expiry_ns / NS_PER_S:g}": self._expiry_ns,
        }
        return " or ".join(name for name, is_set in limits.items() if is_set)

    def _early(self, stream: Stream, n: int, truth: TimedLabel) -> str:
        early = stream.ledger.early
        known = early.get(n)
        if known is not None and known.label == truth.label:
            stream.count("labels_repeated")
            return f"the prediction to come of n={n} has this label already"
        if known is not None and not self._hold:
            stream.count("labels_disagreeing")
            told = f"has label {known.label}, and a second label says {truth.label}"
            return f"the prediction to come of n={n} {told}"
        if known is None and len(early) >= self.limit:
            stream.count("labels_unknown")
            return f"{self.limit:,} labels wait for predictions that are not there yet, the limit"
        stream.count("labels_early", known is None)
        stream.count("labels_revised", known is not None)
        early[n] = truth
        return ""

    def _is_due(self, n: int) -> bool:
        return n >= self._window and (n - self._window) % self._stride == 0

    def _unknown(self, n: int) -> str:
        if self._is_due(n):
            return f"prediction {n} left too long ago, or fell into a gap"
        return (
            f"no prediction of n={n} was ever due: they are after element {self._window} and "
            f"every {self._stride} from there"
        )

    # ---- a prediction is made ----------------------------------------------------------

    def predicted(self, stream: Stream, n: int) -> list[int]:
        """Give prediction `n`, just entered, the label that came before it, if one did.

        Returns the n of early labels whose prediction was never made, which are struck out.
        """
        early = stream.ledger.early
        if not early:
            return []
        truth = early.pop(n, None)
        if truth is not None and n in stream.ledger.waiting:
            stream.ledger.hold(n, truth, n + self._hold)
        missed = [other for other in early if other < n]
        for other in missed:
            del early[other]
            stream.count("labels_unknown")
        return missed

    # ---- time passes ------------------------------------------------------------------

    def uncut(self, stream: Stream, size: int, t_ns: Int64s) -> int:
        """Return how many of the next elements, at `t_ns`, come before something falls due."""
        ledger, n = stream.ledger, stream.n
        if ledger.held:
            size = min(size, next(iter(ledger.held.values())).until - n)
        if ledger.early:
            size = min(size, stream.next_due - n)
        if not self._expiry and not self._expiry_ns:
            return size
        oldest = next(iter(ledger.waiting.values()), None)
        first = stream.next_due if oldest is None else oldest.n
        if self._expiry:
            size = min(size, first + self._expiry - n)
        if self._expiry_ns:
            size = self._before_deadline(oldest, first - n - 1, t_ns[:size])
        return size

    def _before_deadline(self, oldest: Pending | None, at: int, t_ns: Int64s) -> int:
        """Return how many elements end with the one at which the oldest prediction expires.

        That is `oldest`, or else the one that is made at element `at` of these.
        """
        if oldest is None and at >= len(t_ns):
            return len(t_ns)
        made, begin = (int(t_ns[at]), at + 1) if oldest is None else (oldest.t_ns, 0)
        over = t_ns[begin:] >= made + self._expiry_ns
        return begin + int(over.argmax()) + 1 if over.any() else len(t_ns)

    def expired(self, stream: Stream, t_ns: int) -> Iterator[Pending]:
        """Strike out and yield what has waited too long after the element at `t_ns`."""
        waiting = stream.ledger.waiting
        while waiting:
            oldest = next(iter(waiting.values()))
            if not self._is_over(oldest, stream.n, t_ns):
                return
            yield stream.ledger.expire(self.limit)

    def _is_over(self, pending: Pending, n: int, t_ns: int) -> bool:
        by_count = self._expiry > 0 and n >= pending.n + self._expiry
        return by_count or (self._expiry_ns > 0 and t_ns >= pending.t_ns + self._expiry_ns)

    def settled(
        self, stream: Stream, *, all_of_them: bool = False
    ) -> Iterator[LabelledPrediction]:
        """Strike out and yield the labelled predictions whose labels count now."""
        due = None if all_of_them else stream.n
        while (held := stream.ledger.settle(due, self.limit)) is not None:
            yield held
