"""Old ticks of a live feed, gathered so that each stream is reported once in a second at most."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..core.old_times import moment
from ..events import OldTimes

PERIOD_S = 1.0
"""Between two reports."""


class OldTimesWatch:
    """Gathers the old ticks that a session reports; `report` is called with those of a stream."""

    def __init__(self, report: Callable[[OldTimes], object]) -> None:
        self._report = report
        self._found: dict[str, OldTimes] = {}

    def __call__(self, event: OldTimes) -> None:
        """Take old ticks of one stream."""
        known = self._found.get(event.stream)
        if known is not None:
            event = msgspec.structs.replace(known, count=known.count + event.count)
        self._found[event.stream] = event

    def tend(self) -> None:
        """Report what was gathered; called now and then, and at the end."""
        found, self._found = self._found, {}
        for event in found.values():
            self._report(event)


def about(event: OldTimes) -> str:
    """Return in words which ticks are old, and what becomes of them."""
    ticks = "1 tick is" if event.count == 1 else f"{event.count:,} ticks are"
    first = f"the first has the time {moment(event.t_ns)}"
    reached = f"the stream had reached {moment(event.latest_ns)}"
    if event.t_ns == event.latest_ns:
        reached = "it repeats the tick of that time"
    return f"{ticks} old: {first}, and {reached}; taken (--on-old-time)"
