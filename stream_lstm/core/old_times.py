"""Which ticks of a stream are old: the one rule for live feeds, files and callers.

A tick is old where its time is before the latest time of its stream, and where it repeats time and
values of the tick that had the latest time last. An equal time with other values is not old: many
feeds send several ticks of one moment. A tick without a time (`NO_TIME`) is never old.

The latest time is that of the accepted ticks, and a tick that is accepted though it is old
does not turn it back: of 500 ticks that come twice 500 are old, whatever the policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..events import NO_TIME
from ..typing import Bools, Float64s, Int64s

NEVER = -(2**63)
"""The latest time of a stream before its first tick."""


class Old(NamedTuple):
    """The old ones among m ticks: `at` (k,) their places, in order, and `t_ns` (k,) their times.

    `latest_ns` (k,) is the latest time of their stream before each of them.
    """

    at: Int64s
    t_ns: Int64s
    latest_ns: Int64s

    def but(self, others: Sequence[int] | Int64s) -> Old | None:
        """Return them without those at some places, None where none is left."""
        if not len(others):
            return self
        kept = ~np.isin(self.at, others)
        return Old(*(column[kept] for column in self)) if kept.any() else None

    def reasons(self) -> list[str]:
        """Return why each is old."""
        times, latest = texts(self.t_ns), texts(self.latest_ns)
        return [reason(time, last) for time, last in zip(times, latest, strict=True)]


def joined(parts: Sequence[Old]) -> Old | None:
    """Return all of some old ticks, None where there are none."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return Old(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def reason(time: str, latest: str) -> str:
    """Return why a tick of a time is old where its stream had reached `latest`, both as text."""
    if time == latest:
        return f"it repeats time and values of a tick of {time}"
    return f"its time {time} is before {latest}, which the stream had reached"


def moment(t_ns: int) -> str:
    """Return a time in nanoseconds since 1970 as ISO 8601."""
    return texts(np.array([t_ns], np.int64))[0]


def texts(t_ns: Int64s) -> list[str]:
    """Return times in nanoseconds since 1970 as ISO 8601."""
    shown: list[str] = np.datetime_as_string(
        t_ns.astype("datetime64[ns]"), unit="ns", timezone="UTC"
    ).tolist()
    return shown


def find_old(
    latest: Int64s,
    last: Float64s,
    starts: Int64s,
    t_ns: Int64s,
    values: Float64s,
    good: Bools | None = None,
) -> Old | None:
    """Return the old ones among ticks t_ns (m,), values (m, C); None where there are none.

    starts: where the ticks of each stream begin, (d,), none of which is without ticks. `latest`
    (d,) and `last` (d, C) are the latest time of each stream and the values of the tick that had
    it last; both are brought up to date. `good` (m,) says which ticks can be accepted, None where
    all can: the others may be old, and make none after them old.
    """
    known_t = t_ns if good is None else np.where(good, t_ns, NEVER)
    ends = np.append(starts[1:], len(t_ns)) - 1
    previous = np.append(t_ns[:1], t_ns[:-1])
    previous[starts] = latest
    if good is None and (t_ns > previous).all():
        latest[:], last[:] = t_ns[ends], values[ends]
        return None
    before = _before(latest, starts, known_t)
    timed = t_ns != NO_TIME
    old = (t_ns < before) & timed
    holders = np.flatnonzero(t_ns >= before if good is None else (t_ns >= before) & good)
    of = np.searchsorted(starts, holders, side="right") - 1
    known = values[np.append(holders[:1], holders[:-1])]
    first = np.append(True, of[1:] != of[:-1])[: len(holders)]
    known[first] = last[of[first]]
    same = np.flatnonzero(t_ns[holders] == before[holders])
    repeats = (values[holders[same]] == known[same]).all(axis=1) & timed[holders[same]]
    old[holders[same[repeats]]] = True
    if good is not None:
        others = np.flatnonzero(~good & (t_ns == before) & timed)
        old[others] = _repeat(others, starts, holders, of, values, last)
    latest[:] = np.maximum(before[ends], known_t[ends])
    last[of] = values[holders]  # of those of one stream the last one stays
    at = np.flatnonzero(old)
    return Old(at, t_ns[at], before[at]) if len(at) else None


def _repeat(
    others: Int64s, starts: Int64s, holders: Int64s, of: Int64s, values: Float64s, last: Float64s
) -> Bools:
    """Return which of the ticks `others`, which hold no time, have the values before them."""
    streams = np.searchsorted(starts, others, side="right") - 1
    known = last[streams]
    if len(holders):
        at = np.searchsorted(holders, others) - 1
        same = (at >= 0) & (of[at] == streams)
        known[same] = values[holders[at[same]]]
    equal: Bools = (values[others] == known).all(axis=1)
    return equal


def _before(latest: Int64s, starts: Int64s, t_ns: Int64s) -> Int64s:
    """Return the latest time of each tick's stream before it, (m,)."""
    count = len(t_ns)
    if len(starts) == 1:
        reached = np.maximum.accumulate(np.append(latest, t_ns))
        return reached[:-1]
    # Each stream's latest time stands before its ticks, and a place in one order of all times
    # takes the stream's number in front, so that one pass over all streams will do.
    sizes = np.diff(starts, append=count)
    of = np.arange(len(starts)).repeat(sizes)
    places = np.arange(count) + of + 1
    every = np.empty(count + len(starts), np.int64)
    every[places], every[starts + np.arange(len(starts))] = t_ns, latest
    known, rank = np.unique(every, return_inverse=True)
    offsets = np.arange(len(starts)).repeat(sizes + 1) * len(known)
    reached = np.maximum.accumulate(rank + offsets) - offsets
    out: Int64s = known[reached[places - 1]]
    return out
