"""Functions of time alone: time of day, position in the week, and trading sessions.

Each factory returns a `Clock`, which computes a block of times or one time to the same bits. It
reads no clock: a time comes with its tick. Times of day and dates are those of a time zone, from
the zone files of `zoneinfo`. A tick without a time counts as 1970-01-01 00:00 UTC.

**Offsets.** A zone has one UTC offset for a whole UTC day, or two with one change between them,
which is found by bisection. So zone files are read once for each day, and a block of a day costs
one look-up. Two changes on one UTC day would be seen as one; zones have had none since 1970.

**Sessions.** A session opens on a date at a local time and closes within 24 hours, by the clock on
the wall. Both are converted to UTC. A local time that a change to summer time skips counts with
the offset before the change; of a time that occurs twice the first counts. So minutes since the
open are minutes that have passed, also where the clock was changed in between.
"""

from __future__ import annotations

import functools
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import NamedTuple, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import numpy as np

from ..errors import ConfigurationError, nearest
from ..typing import Float64s, Int64s

SECOND = 1_000_000_000
DAY_S = 86_400
DAY = DAY_S * SECOND
WEEK = 7 * DAY

MAX_DAYS = 4096
"""Days of a zone or of a session that are remembered: 11 years, some 1 MB."""

MAX_ZONES = 64
"""Zones that are remembered."""

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
WORKDAYS = frozenset(range(5))

EXAMPLE = '"09:30-16:00" or "Sun-Fri 18:00-17:00"'

LATEST = 2**63 - 1
"""The last time that an int64 has, in 2262."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
THURSDAY = 3
"""The weekday of 1970-01-01, Monday being 0."""

Holidays: TypeAlias = frozenset[date]


class Clock(NamedTuple):
    """A function of time: `block` takes int64 (m,) ns since 1970 to float64 (m,), `one` an int."""

    block: Callable[[Int64s], Float64s]
    one: Callable[[int], float]


# ---- time zones -----------------------------------------------------------------------


def zone_of(name: str) -> tzinfo:
    """Return a time zone; raises ConfigurationError for an unknown one."""
    if name == "UTC":
        return UTC  # needs no zone files
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = available_timezones()
    example = 'write a name such as "UTC" or "America/New_York"'
    if not known:
        example = "this system has no time zones: pip install tzdata"
    raise ConfigurationError(
        f"there is no time zone {name!r}; {example}{nearest(name, known)}", key="features"
    )


class DayOffsets(NamedTuple):
    """UTC offsets in ns on a UTC day: `before` and `after` the ns of the day `change`."""

    before: int
    after: int
    change: int


OffsetsOf: TypeAlias = Callable[[int], DayOffsets]


@functools.lru_cache(MAX_ZONES)
def offsets_of(name: str) -> OffsetsOf:
    """Return what gives a zone's offsets on a UTC day, days being counted from 1970-01-01."""
    zone = zone_of(name)

    def at(second: int) -> int:
        offset = (EPOCH + timedelta(seconds=second)).astimezone(zone).utcoffset()
        assert offset is not None
        return offset // timedelta(seconds=1)

    @functools.lru_cache(MAX_DAYS)
    def of(day: int) -> DayOffsets:
        low, high = day * DAY_S, (day + 1) * DAY_S
        before, after = at(low), at(high)
        while before != after and high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if at(middle) == before else (low, middle)
        return DayOffsets(before * SECOND, after * SECOND, (high - day * DAY_S) * SECOND)

    return of


def _local(offsets: OffsetsOf) -> tuple[Callable[[Int64s], Int64s], Callable[[int], int]]:
    """Return what gives local times, in ns since local midnight of the UTC day's date."""

    def one(t_ns: int) -> int:
        day, rest = divmod(t_ns, DAY)
        before, after, change = offsets(day)
        return rest + (before if rest < change else after)

    def block(t_ns: Int64s) -> Int64s:
        days, rest = np.divmod(t_ns, DAY)
        every, which = np.unique(days, return_inverse=True)
        found = np.array([offsets(day) for day in every.tolist()], np.int64).reshape(-1, 3)
        before, after, change = found[which].T
        out: Int64s = rest + np.where(rest < change, before, after)
        return out

    return block, one


def _wave(zone: str, period: int, start: int, wave: Callable[[float], float]) -> Clock:
    """Return a wave over local time, which is 0 at `start` ns after 1970-01-01 00:00.

    `math` computes it in both forms: NumPy's may have other bits.
    """
    (local_block, local), turn = _local(offsets_of(zone)), 2.0 * math.pi

    def one(t_ns: int) -> float:
        # Days are counted within the period: their sum in ns fits in 64 bits.
        days = t_ns // DAY % (period // DAY) * DAY
        return wave((days + local(t_ns) - start) % period / period * turn)

    def block(t_ns: Int64s) -> Float64s:
        days = t_ns // DAY % (period // DAY) * DAY
        angles = (days + local_block(t_ns) - start) % period / period * turn
        return np.fromiter(map(wave, angles.tolist()), np.float64, len(t_ns))

    return Clock(block, one)


def day_sin(zone: str = "UTC") -> Clock:
    """Return the sine of the local time of day; a day is one turn, from midnight on."""
    return _wave(zone, DAY, 0, math.sin)


def day_cos(zone: str = "UTC") -> Clock:
    """Return the cosine of the local time of day; a day is one turn, from midnight on."""
    return _wave(zone, DAY, 0, math.cos)


def week_sin(zone: str = "UTC") -> Clock:
    """Return the sine of the position in the local week; a week is one turn, from Monday on."""
    return _wave(zone, WEEK, -THURSDAY * DAY, math.sin)


def week_cos(zone: str = "UTC") -> Clock:
    """Return the cosine of the position in the local week; a week is one turn, from Monday on."""
    return _wave(zone, WEEK, -THURSDAY * DAY, math.cos)


# ---- sessions -------------------------------------------------------------------------


class Hours(NamedTuple):
    """When a session opens and closes: minutes after midnight of the day on which it opens.

    `close` is above 24 hours for a session over midnight. `days` are weekdays, Monday being 0.
    """

    open: int
    close: int
    days: frozenset[int] = WORKDAYS


HOURS = re.compile(r"(?:(?P<days>[A-Za-z,\- ]+?) +)?(\d\d):(\d\d) *- *(\d\d):(\d\d)")


def parse_hours(text: str) -> Hours:
    """Parse hours such as "09:30-16:00", on Monday to Friday, or "Sun-Fri 18:00-17:00".

    Raises ConfigurationError.
    """
    found = HOURS.fullmatch(text.strip())
    if not found:
        raise _wrong(text, "write hours as HH:MM-HH:MM, with or without days before them")
    days = found["days"]
    hours = [int(part) for part in found.groups()[1:]]
    first, last = 60 * hours[0] + hours[1], 60 * hours[2] + hours[3]
    if max(hours[1], hours[3]) > 59 or first >= 24 * 60 or last > 24 * 60:
        raise _wrong(text, "hours are 00:00 to 23:59, or 24:00 for the end of a day")
    if first == last:
        raise _wrong(text, "it closes when it opens; 00:00-24:00 is a whole day")
    close = last if last > first else last + 24 * 60
    return Hours(first, close, WORKDAYS if days is None else _days(text, days))


def _days(text: str, days: str) -> frozenset[int]:
    out: set[int] = set()
    for part in days.split(","):
        ends = [name.strip().capitalize() for name in part.split("-")]
        for name in ends:
            if name not in WEEKDAYS:
                raise _wrong(text, f"{name!r} is not a day: write {', '.join(WEEKDAYS)}")
        if len(ends) > 2:
            raise _wrong(text, f"{part.strip()!r} is not a range of days such as Mon-Fri")
        first, last = (WEEKDAYS.index(name) for name in (ends[0], ends[-1]))
        out |= {(first + k) % 7 for k in range((last - first) % 7 + 1)}
    return frozenset(out)


def _wrong(text: str, what: str) -> ConfigurationError:
    message = f"{text!r} are not the hours of a session: {what}, such as {EXAMPLE}"
    return ConfigurationError(message, key="features")


def holidays_of(texts: Iterable[str]) -> Holidays:
    """Return the dates of holidays; raises ConfigurationError for a text that is not one."""
    try:
        return frozenset(date.fromisoformat(text := one) for one in texts)
    except ValueError:
        message = f'holidays: {text!r} is not a date; write dates as "2024-12-25 2025-01-01"'
        raise ConfigurationError(message, key="features") from None


class _Sessions:
    """The sessions of some hours in a zone, as intervals of UTC in ns since 1970."""

    def __init__(self, hours: str, zone: str, holidays: Holidays) -> None:
        self._hours, self._zone, self._holidays = parse_hours(hours), zone_of(zone), holidays
        self._near = functools.lru_cache(MAX_DAYS)(self._find_near)
        self._on = functools.lru_cache(MAX_DAYS)(self._find)

    def _find(self, day: int) -> tuple[int, int] | None:
        """Return when the session of a local date opens and closes; None if it does not."""
        opens = date(1970, 1, 1) + timedelta(days=day)
        if opens.weekday() not in self._hours.days or opens in self._holidays:
            return None
        return self._utc(opens, self._hours.open), self._utc(opens, self._hours.close)

    def _utc(self, day: date, minutes: int) -> int:
        days, minute = divmod(minutes, 24 * 60)
        at = datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=self._zone)
        at += timedelta(days=days)  # by the clock on the wall
        t_ns = (at.astimezone(UTC) - EPOCH) // timedelta(seconds=1) * SECOND
        return min(max(t_ns, -LATEST - 1), LATEST)

    def _between(self, days: Iterable[int]) -> tuple[list[int], list[int]]:
        """Return opens and closes, in order, of the sessions that some UTC days can touch."""
        # A local date is at most one day from that of UTC, and a session lasts into the next.
        local = {day + k for day in days for k in (-2, -1, 0, 1)}
        found = [span for day in sorted(local) if (span := self._on(day)) is not None]
        return [first for first, _ in found], [last for _, last in found]

    def _find_near(self, day: int) -> tuple[list[int], list[int]]:
        return self._between((day,))

    def since(self, t_ns: int) -> int:
        """Return ns since the open of the session at a time; -1 while closed."""
        opens, closes = self._near(t_ns // DAY)
        at = bisect_right(opens, t_ns) - 1
        return t_ns - opens[at] if at >= 0 and t_ns < closes[at] else -1

    def since_block(self, t_ns: Int64s) -> Int64s:
        """Return the same for times (m,)."""
        first, last = (
            np.array(x, np.int64) for x in self._between(np.unique(t_ns // DAY).tolist())
        )
        out = np.full(len(t_ns), -1, np.int64)
        if len(first):
            at = np.searchsorted(first, t_ns, side="right") - 1
            is_open = (at >= 0) & (t_ns < last[at])
            out[is_open] = t_ns[is_open] - first[at[is_open]]
        return out


def session(hours: str, zone: str = "UTC", holidays: Holidays = frozenset()) -> Clock:
    """Return 1 while a session is open, else 0.

    hours: see `parse_hours`. holidays: local dates on which no session opens. Raises
    ConfigurationError for wrong hours and an unknown zone.
    """
    sessions = _Sessions(hours, zone, holidays)
    return Clock(
        lambda t_ns: (sessions.since_block(t_ns) >= 0).astype(np.float64),
        lambda t_ns: float(sessions.since(t_ns) >= 0),
    )


def since_open(hours: str, zone: str = "UTC", holidays: Holidays = frozenset()) -> Clock:
    """Return minutes since the open of the session, 0 while closed; see `session`."""
    sessions, minute = _Sessions(hours, zone, holidays), 60 * SECOND
    return Clock(
        lambda t_ns: np.maximum(sessions.since_block(t_ns), 0) / minute,
        lambda t_ns: max(sessions.since(t_ns), 0) / minute,
    )
