"""Refusals, gaps, take-overs, old ticks and roll-backs for people to read, at a limited rate.

A peer that sends rubbish as fast as it can, or for days, must not fill a disk with what we say of
it: of each kind one line is written in a second, where it does not stop ever more rarely, and how
many more there were. All of them are counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from ..events import Gap, OldTimes, Refusal, Rollback, Takeover
from ..quoting import printable
from .old_times import about

PERIOD_S = 1.0
"""Between the first two lines of one kind."""

MAX_PERIOD_S = 60.0
"""Between two lines of one kind that has not stopped for long."""

MAX_LINE = 500
"""Characters of a line; a reason quotes what a peer sent, what was expected and what to do."""

ROLLBACK, GAP, TAKEOVER, OLD = "roll-back", "gap", "take-over", "old tick"


class Spacing:
    """When what goes on and on is to be told: after a second, then two, up to a minute.

    What was still for as long again begins anew. clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._periods: dict[str, tuple[float, float]] = {}  # until when nothing is told, how long

    def due(self, kind: str) -> bool:
        """Return whether a kind may be told now."""
        return self._clock() >= self._periods.get(kind, (-math.inf, 0.0))[0]

    def told(self, kind: str) -> None:
        """Note that a kind was told."""
        now = self._clock()
        until, period = self._periods.get(kind, (-math.inf, 0.0))
        period = min(2 * period, MAX_PERIOD_S) if now < until + period else PERIOD_S
        self._periods[kind] = now + period, period


class RefusalLog:
    """Writes the refusals, gaps, take-overs, old ticks and roll-backs among events.

    write: takes a line without its end. clock: seconds, monotonic. `total` counts by kind.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float]) -> None:
        self.total: Counter[str] = Counter()
        self._write = write
        self._spacing = Spacing(clock)
        self._unsaid: Counter[str] = Counter()

    def __call__(self, event: object) -> None:
        """Take an event; all others are passed over."""
        if isinstance(event, Refusal):
            self._say(event.kind, _line(event))
        elif isinstance(event, Rollback):
            self._say(ROLLBACK, _rolled_back(event))
        elif isinstance(event, Gap):
            self._say(GAP, _lost(event))
        elif isinstance(event, Takeover):
            self._say(TAKEOVER, _taken_over(event))
        elif isinstance(event, OldTimes):
            self._say(OLD, _old(event), event.count)

    def _say(self, kind: str, line: str, times: int = 1) -> None:
        self.total[kind] += times
        if not self._spacing.due(kind):
            self._unsaid[kind] += times
            return
        self._say_unsaid(kind)
        self._spacing.told(kind)
        self._write(line)

    def tend(self) -> None:
        """Say how many were passed over in silence, where that is due; called now and then."""
        for kind in list(self._unsaid):
            if self._spacing.due(kind):
                self._say_unsaid(kind)
                self._spacing.told(kind)

    def flush(self) -> None:
        """Say how many were passed over in silence."""
        for kind in list(self._unsaid):
            self._say_unsaid(kind)

    def _say_unsaid(self, kind: str) -> None:
        count = self._unsaid.pop(kind, 0)
        if count:
            what = "" if kind in (ROLLBACK, GAP, TAKEOVER, OLD) else "refused: "
            self._write(f"{what}{count} more {kind}{'s' if count > 1 else ''}")


def _line(refusal: Refusal) -> str:
    where = refusal.where or (f"stream {refusal.stream!r}" if refusal.stream else "")
    row = f", row {refusal.index}" if refusal.index > 0 else ""
    place = f" ({where}{row})" if where and where not in refusal.reason else ""
    text = f"refused a {refusal.kind}{place}: {refusal.reason}"
    return printable(text, MAX_LINE)


def _lost(gap: Gap) -> str:
    ticks = f"{gap.missed:,} tick{'s' if gap.missed > 1 else ''}"
    text = f"gap: {ticks} of the stream {gap.stream!r} were lost before seq {gap.seq}"
    return printable(text, MAX_LINE)


def _taken_over(event: Takeover) -> str:
    text = f"take-over: the stream {event.stream!r} of {event.owner} now belongs to {event.to}"
    return printable(text, MAX_LINE)


def _old(event: OldTimes) -> str:
    return printable(f"old ticks of the stream {event.stream!r}: {about(event)}", MAX_LINE)


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
    return printable(text, MAX_LINE)
