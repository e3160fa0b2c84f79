"""Old ticks of a stream: one rule for live feeds, files and callers.

A tick is old if its time is before the latest time of its stream, or if it repeats both time and
values of the last tick that had the latest time. An equal time with other values is not old: many
feeds send several ticks at one time. A tick without a time (`NO_TIME`) is never old.

The latest time is that of the accepted ticks. An old tick that is accepted does not lower it: of
500 ticks that come twice, 500 are old under every policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..events import NO_TIME
from ..typing import Bools, Float64s, Int64s

NEVER = -(2**63)
"""The latest time of a stream before its first tick."""


class OldTicks(NamedTuple):
    """The old ticks among m ticks: their indices `at` (k,) in order, and their times `t_ns` (k,).

    `latest_ns` (k,) is the latest time of their stream before each of them.
    """

    at: Int64s
    t_ns: Int64s
    latest_ns: Int64s

    def but(self, others: Sequence[int] | Int64s) -> OldTicks | None:
        """Return these without the ticks at the indices `others`; None if none is left."""
        if not len(others):
            return self
        rest = ~np.isin(self.at, others)
        return OldTicks(*(column[rest] for column in self)) if rest.any() else None

    def reasons(self) -> list[str]:
        """Return why each tick is old."""
        return list(map(reason, texts(self.t_ns), texts(self.latest_ns)))


def joined(parts: Sequence[OldTicks]) -> OldTicks | None:
    """Return all parts together; None if there are none."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return OldTicks(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def reason(time: str, latest: str) -> str:
    """Return why a tick is old, from its time and the latest time of its stream, both as text."""
    if time == latest:
        return f"it repeats time and values of a tick of {time}"
    return f"its time {time} is before {latest}, which the stream had reached"


def texts(t_ns: Int64s) -> list[str]:
    """Return times in nanoseconds since 1970 as ISO 8601."""
    shown: list[str] = np.datetime_as_string(
        t_ns.astype("datetime64[ns]"), unit="ns", timezone="UTC"
    ).tolist()
    return shown


def moment(t_ns: int) -> str:
    """Return one time in nanoseconds since 1970 as ISO 8601."""
    return texts(np.array([t_ns], np.int64))[0]


def find_old(
    latest: Int64s,
    last: Float64s,
    starts: Int64s,
    t_ns: Int64s,
    values: Float64s,
    good: Bools | None = None,
) -> OldTicks | None:
    """Return the old ticks among t_ns (m,), values (m, C), grouped by stream; None without any.

    starts: the first tick of each stream (d,); each stream has a tick. latest (d,), last (d, C):
    the latest time of each stream and the values of the tick that had it last; both are updated
    in place. good (m,): the ticks that can be accepted, None for all. The others may be old
    themselves, but do not make a later tick old.
    """
    good_t = t_ns if good is None else np.where(good, t_ns, NEVER)
    ends = np.append(starts[1:], len(t_ns)) - 1
    previous = np.append(t_ns[:1], t_ns[:-1])
    previous[starts] = latest
    if good is None and (t_ns > previous).all():
        latest[:], last[:] = t_ns[ends], values[ends]
        return None
    before = _latest_before(latest, starts, good_t)
    timed = t_ns != NO_TIME
    old = (t_ns < before) & timed
    # A holder has the latest time of its stream when it comes; its values are compared next.
    holders = np.flatnonzero(t_ns >= before if good is None else (t_ns >= before) & good)
    of = np.searchsorted(starts, holders, side="right") - 1
    compared = values[np.append(holders[:1], holders[:-1])]
    first = np.append(True, of[1:] != of[:-1])[: len(holders)]
    compared[first] = last[of[first]]
    same = np.flatnonzero(t_ns[holders] == before[holders])
    repeats = equal_rows(values[holders[same]], compared[same]) & timed[holders[same]]
    old[holders[same[repeats]]] = True
    if good is not None:
        others = np.flatnonzero(~good & (t_ns == before) & timed)
        old[others] = _repeats(others, starts, holders, of, values, last)
    latest[:] = np.maximum(before[ends], good_t[ends])
    last[of] = values[holders]  # for each stream the last assignment counts
    at = np.flatnonzero(old)
    return OldTicks(at, t_ns[at], before[at]) if len(at) else None


def _repeats(
    others: Int64s, starts: Int64s, holders: Int64s, of: Int64s, values: Float64s, last: Float64s
) -> Bools:
    """Return which bad ticks `others` repeat the values of the holder before them."""
    streams = np.searchsorted(starts, others, side="right") - 1
    compared = last[streams]
    if len(holders):
        at = np.searchsorted(holders, others) - 1
        same = (at >= 0) & (of[at] == streams)
        compared[same] = values[holders[at[same]]]
    return equal_rows(values[others], compared)


def equal_rows(a: Float64s, b: Float64s) -> Bools:
    """Return which rows of values (m, C) are equal, (m,); two missing values are."""
    equal: Bools = ((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=1)
    return equal


def _latest_before(latest: Int64s, starts: Int64s, t_ns: Int64s) -> Int64s:
    """Return the latest time of each tick's stream before it, (m,)."""
    if len(starts) == 1:
        reached = np.maximum.accumulate(np.append(latest, t_ns))
        return reached[:-1]
    # One running maximum for all streams: times are replaced by their ranks, and the ranks of
    # each stream are shifted above those of the streams before it.
    sizes = np.diff(starts, append=len(t_ns))
    of = np.arange(len(starts)).repeat(sizes)
    places = np.arange(len(t_ns)) + of + 1
    every = np.empty(len(t_ns) + len(starts), np.int64)
    every[places], every[starts + np.arange(len(starts))] = t_ns, latest
    times, rank = np.unique(every, return_inverse=True)
    offsets = np.arange(len(starts)).repeat(sizes + 1) * len(times)
    reached = np.maximum.accumulate(rank + offsets) - offsets
    out: Int64s = times[reached[places - 1]]
    return out


def known(values: Sequence[float | None]) -> list[float | None]:
    """Return values with None for each missing one, which compare as equal."""
    return [None if value != value else value for value in values]
