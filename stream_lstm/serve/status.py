"""The status of a stream, and how long after its last arrival it counts as late.

A stream is late after LATE_AFTER usual intervals. The usual interval is learned from the stream: a
running mean in the logarithm of the gaps between arrivals that rises faster than it falls,

    log i += a clip(log gap - log i, -log 3, log 3),    a = 0.3 if gap > i, else 0.03

so it settles near the longer of the common gaps. The clip makes it robust: one night without ticks
raises it by 39 %. Arrivals within RESOLUTION_S are one, and no stream is late before FLOOR_S, so
bursts do not change the status. Times are passed in.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from ..core.verdict import count

StatusName: TypeAlias = Literal["waiting", "live", "late", "ended", "lost"]
Colour: TypeAlias = Literal["green", "amber", "grey", "red"]

COLOURS: dict[StatusName, Colour] = {
    "waiting": "grey",
    "live": "green",
    "late": "amber",
    "ended": "grey",
    "lost": "red",
}

LATE_AFTER = 3.0
"""Usual intervals without an arrival after which a stream is late."""

FLOOR_S = 3.0
"""No stream is late before this time, however often it sends."""

UNKNOWN_S = 30.0
"""The same while one arrival has come, which shows no interval."""

RESOLUTION_S = 1.0
"""Arrivals that are closer together count as one."""

RISE, FALL, CLIP = 0.3, 0.03, math.log(3.0)


class Status(NamedTuple):
    """What a stream does, and a sentence why.

    `waiting`: nothing has come yet. `live`: it sends. `late`: it has not sent for three usual
    intervals. `ended`: its publisher announced the end. `lost`: the daemon itself is not heard,
    which only a page can report. `interval_s` is the learned usual interval and `age_s` the time
    since the last arrival, in seconds, each None where it is unknown.
    """

    name: StatusName
    reason: str
    interval_s: float | None = None
    age_s: float | None = None

    @property
    def colour(self) -> Colour:
        """The colour of the status."""
        return COLOURS[self.name]

    @property
    def bad(self) -> bool:
        """Whether data are missing: late, ended or lost."""
        return self.name not in ("live", "waiting")


def learned(interval_s: Any, gap_s: Any) -> Any:
    """Return usual intervals after one more gap each; NaN for an unknown interval.

    Takes numbers or arrays of one shape, in seconds; gaps are positive.
    """
    step = np.clip(np.log(gap_s) - np.log(interval_s), -CLIP, CLIP)
    moved = interval_s * np.exp(np.where(step > 0, RISE, FALL) * step)
    return np.where(np.isnan(interval_s), gap_s, moved)


def late_after_s(interval_s: Any) -> Any:
    """Return the ages in seconds at which streams with these usual intervals are late."""
    known = np.maximum(LATE_AFTER * np.asarray(interval_s), FLOOR_S)
    return np.where(np.isnan(interval_s), UNKNOWN_S, known)


class Arrivals:
    """When one stream sent, and its usual interval; seconds of a monotonic clock."""

    def __init__(self) -> None:
        self.interval_s = math.nan
        self.last_s = self._counted_s = math.nan

    def arrive(self, now_s: float) -> None:
        """Note an arrival."""
        self.last_s = now_s
        gap_s = now_s - self._counted_s
        if math.isnan(gap_s):
            self._counted_s = now_s
        elif gap_s >= RESOLUTION_S:
            self.interval_s, self._counted_s = float(learned(self.interval_s, gap_s)), now_s

    def status(self, now_s: float, what: str) -> Status:
        """Return whether the stream is live or late; what: what arrives, such as "tick"."""
        return timed(self.interval_s, now_s - self.last_s, what)


def timed(interval_s: float, age_s: float, what: str) -> Status:
    """Return the status of a stream that has sent `what`, by the age of its last arrival."""
    interval = None if math.isnan(interval_s) else interval_s
    late = age_s > late_after_s(interval_s)
    usual = f"; usually {what}s come every {words(interval)}" if late and interval else ""
    ago = f"{words(age_s)} ago" if age_s >= 1 else "just now"
    reason = f"the last {what} came {ago}{usual}"
    return Status("late" if late else "live", reason, interval, age_s)


def words(seconds: float) -> str:
    """Return a time in words: whole seconds, from two minutes on whole minutes or hours."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return count(round(seconds / size), unit)
    return count(round(seconds), "seconds")
