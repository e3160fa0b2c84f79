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
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from ..core.session import Session
from ..core.table import REFUSED_TICKS, TICKS
from ..quoting import count
from ..typing import Bools, Float64s, Int64s

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
    """When streams sent, by row, and their usual intervals; seconds, NaN where unknown."""

    def __init__(self) -> None:
        self.interval_s = self.last_s = self._counted_s = np.empty(0)

    def grow(self, rows: int) -> None:
        """Have at least `rows` streams."""
        new = np.full(max(rows - len(self.last_s), 0), np.nan)
        for name in ("interval_s", "_counted_s", "last_s"):  # readers take the length of the last
            setattr(self, name, np.concatenate([getattr(self, name), new]))

    def arrive(self, rows: Int64s, now_s: float) -> None:
        """Note an arrival of each of these streams."""
        gap_s = now_s - self._counted_s[rows]
        again = gap_s >= RESOLUTION_S
        due = rows[again]
        self.interval_s[due] = learned(self.interval_s[due], gap_s[again])
        self._counted_s[rows[again | np.isnan(gap_s)]] = now_s
        self.last_s[rows] = now_s


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


CHECK_S = 0.5
"""Period of `StreamStatuses.check`."""

MISSED = 3.0
"""Heartbeats without which the publisher of a late stream counts as gone."""


class Survey(NamedTuple):
    """All streams of one moment, by row: statuses, ages and usual intervals in seconds.

    `beating` says which publishers still send heartbeats.
    """

    names: Sequence[str]
    statuses: Sequence[StatusName]
    age_s: Float64s
    interval_s: Float64s
    beating: Bools

    def status(self, row: int) -> Status:
        """Return the status of a stream."""
        name = self.statuses[row]
        if name in ("waiting", "ended"):
            return STILL[name]
        status = timed(float(self.interval_s[row]), float(self.age_s[row]), "tick")
        if name == "live":
            return status
        beats = "its publisher sends heartbeats" if self.beating[row] else "no heartbeat comes"
        return status._replace(reason=f"{status.reason}; {beats}")

    def sends(self, row: int) -> bool:
        """Return whether a stream is live, or late with a publisher that sends heartbeats."""
        return self.statuses[row] == "live" or (
            self.statuses[row] == "late" and bool(self.beating[row])
        )


STILL = {
    "waiting": Status("waiting", "no tick has come yet"),
    "ended": Status("ended", "its publisher announced the end"),
}


class StreamStatuses:
    """The statuses of a session's streams, found by comparing their counts of ticks.

    ended: names of those whose publisher announced the end. heard: names that sent a heartbeat;
    each check empties it. heartbeat_s: the period of heartbeats. clock: seconds, monotonic.

    The loop calls `check`; another thread may call `survey`.
    """

    def __init__(
        self,
        session: Session,
        ended: Collection[str],
        heard: set[str],
        heartbeat_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._table, self._ended, self._heard = session.table, ended, heard
        self._patience_s, self._clock = MISSED * heartbeat_s + CHECK_S, clock
        self._arrivals = Arrivals()
        self._beat_s = np.empty(0)
        self._counts = self._accepted()  # those of a restored session are not arrivals

    def _accepted(self) -> Int64s:
        ints = self._table.ints[: len(self._table.names)]
        return ints[:, TICKS] - ints[:, REFUSED_TICKS]

    def check(self) -> None:
        """Note which streams have sent ticks or heartbeats since the last check."""
        now_s, counts = self._clock(), self._accepted()
        self._beat_s = np.append(self._beat_s, np.full(len(counts) - len(self._beat_s), np.nan))
        self._arrivals.grow(len(counts))
        before = np.append(self._counts, np.zeros(len(counts) - len(self._counts), np.int64))
        self._arrivals.arrive(np.flatnonzero(counts != before), now_s)
        self._counts = counts
        places = self._table.places
        self._beat_s[[places[name] for name in self._heard if name in places]] = now_s
        self._heard.clear()

    def survey(self) -> Survey:
        """Return the present statuses."""
        return self.of(self._table.names[: len(self._arrivals.last_s)])

    def of(self, names: Sequence[str]) -> Survey:
        """Return the present statuses of some streams."""
        now_s, places, arrivals = self._clock(), self._table.places, self._arrivals
        size = len(arrivals.last_s)
        names = [name for name in names if places.get(name, size) < size]
        rows = np.array([places[name] for name in names], np.int64)
        age_s, interval_s = now_s - arrivals.last_s[rows], arrivals.interval_s[rows]
        late, waits = age_s > late_after_s(interval_s), np.isnan(age_s)
        statuses: list[StatusName] = [
            "ended" if name in self._ended else "waiting" if one else "late" if other else "live"
            for name, one, other in zip(names, waits.tolist(), late.tolist(), strict=True)
        ]
        beating = now_s - self._beat_s[rows] <= self._patience_s
        return Survey(names, statuses, age_s, interval_s, beating)
