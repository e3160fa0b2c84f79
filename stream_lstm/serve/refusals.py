"""Refusals for people to read, at a limited rate.

A peer that sends rubbish as fast as it can must not fill a disk with what we say of it: of each
kind one line a second is written, and how many more there were. All of them are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ..events import Refusal

PERIOD_S = 1.0
"""Between two lines of one kind."""

MAX_LINE = 300
"""Characters of a line; a reason can quote what a peer sent."""


class RefusalLog:
    """Writes the refusals among the events given to it.

    write: takes a line without its end. clock: seconds, monotonic. `total` counts by kind.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float]) -> None:
        self.total: Counter[str] = Counter()
        self._write = write
        self._clock = clock
        self._quiet_until: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()

    def __call__(self, event: object) -> None:
        """Take an event; all but refusals are passed over."""
        if not isinstance(event, Refusal):
            return
        self.total[event.kind] += 1
        now = self._clock()
        if now < self._quiet_until.get(event.kind, now):
            self._unsaid[event.kind] += 1
            return
        self._say_unsaid(event.kind)
        self._quiet_until[event.kind] = now + PERIOD_S
        self._write(_line(event))

    def flush(self) -> None:
        """Say how many were passed over in silence."""
        for kind in list(self._unsaid):
            self._say_unsaid(kind)

    def _say_unsaid(self, kind: str) -> None:
        count = self._unsaid.pop(kind, 0)
        if count:
            self._write(f"refused: {count} more {kind}{'s' if count > 1 else ''}")


def _line(refusal: Refusal) -> str:
    where = refusal.where or (f"stream {refusal.stream!r}" if refusal.stream else "")
    row = f", row {refusal.index}" if refusal.index > 0 else ""
    place = f" ({where}{row})" if where and where not in refusal.reason else ""
    text = f"refused a {refusal.kind}{place}: {refusal.reason}"
    # What a peer sent may be quoted, and it must not drive the terminal.
    return "".join(c if c.isprintable() else "?" for c in text)[:MAX_LINE]
