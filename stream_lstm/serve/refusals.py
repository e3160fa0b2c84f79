"""Refusals and roll-backs for people to read, at a limited rate.

A peer that sends rubbish as fast as it can must not fill a disk with what we say of it: of each
kind one line a second is written, and how many more there were. All of them are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ..events import Refusal, Rollback

PERIOD_S = 1.0
"""Between two lines of one kind."""

MAX_LINE = 300
"""Characters of a line; a reason can quote what a peer sent."""

ROLLBACK = "roll-back"


class RefusalLog:
    """Writes the refusals and the roll-backs among the events given to it.

    write: takes a line without its end. clock: seconds, monotonic. `total` counts by kind.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float]) -> None:
        self.total: Counter[str] = Counter()
        self._write = write
        self._clock = clock
        self._quiet_until: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()

    def __call__(self, event: object) -> None:
        """Take an event; all others are passed over."""
        if isinstance(event, Refusal):
            self._say(event.kind, _line(event))
        elif isinstance(event, Rollback):
            self._say(ROLLBACK, _rolled_back(event))

    def _say(self, kind: str, line: str) -> None:
        self.total[kind] += 1
        now = self._clock()
        if now < self._quiet_until.get(kind, now):
            self._unsaid[kind] += 1
            return
        self._say_unsaid(kind)
        self._quiet_until[kind] = now + PERIOD_S
        self._write(line)

    def flush(self) -> None:
        """Say how many were passed over in silence."""
        for kind in list(self._unsaid):
            self._say_unsaid(kind)

    def _say_unsaid(self, kind: str) -> None:
        count = self._unsaid.pop(kind, 0)
        if count:
            what = "" if kind == ROLLBACK else "refused: "
            self._write(f"{what}{count} more {kind}{'s' if count > 1 else ''}")


def _line(refusal: Refusal) -> str:
    where = refusal.where or (f"stream {refusal.stream!r}" if refusal.stream else "")
    row = f", row {refusal.index}" if refusal.index > 0 else ""
    place = f" ({where}{row})" if where and where not in refusal.reason else ""
    text = f"refused a {refusal.kind}{place}: {refusal.reason}"
    # What a peer sent may be quoted, and it must not drive the terminal.
    return "".join(c if c.isprintable() else "?" for c in text)[:MAX_LINE]


def _rolled_back(event: Rollback) -> str:
    """Return what happened, why, and for how long it matters."""
    losses = f"log loss {event.log_loss:.3f}, base rate {event.base_rate_log_loss:.3f}"
    good = event.good_log_loss
    why = {
        "refusals": "no update was accepted any more",
        "base-rate": losses,
        "last-good": losses + ("" if good is None else f", last good weights {good:.3f}"),
    }[event.reason]
    to = "the last good weights" if event.to == "last-good" else "the base rate"
    text = (
        f"learning rolled back to {to} (stream {event.stream!r}, n={event.n}): {why}; "
        f"it rests for {event.frozen} labels"
    )
    return "".join(c if c.isprintable() else "?" for c in text)[:MAX_LINE]
