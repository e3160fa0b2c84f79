"""Functions that keep the last ticks in a queue: quantiles and ranks of a window, and lags.

Quantiles and ranks keep the values of the window in a sorted list too, so nothing is rounded but
the interpolation. A tick costs the shift of that list: cheap up to thousands of ticks. Blocks use
a wavelet matrix over the places of all values in order; it counts and selects in any window in one
pass over the bits of a place. Source: F. Claude, G. Navarro and A. Ordonez, The wavelet matrix,
2015.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..typing import Float64s, Int64s
from .memory import FEW, NAN, NEVER, extent, fit, stepped

Int32s: TypeAlias = npt.NDArray[np.int32]
"""A window and a block have fewer than 2 ** 31 ticks."""


class Places:
    """Count and select in ranges of values (n,): a wavelet matrix of their places in order."""

    def __init__(self, values: Float64s) -> None:
        self.ordered, places = np.unique(values, return_inverse=True)
        self.places = places = places.astype(np.int32)
        self._levels: list[tuple[int, Int32s, np.int32]] = []  # bit, zeros before each and in all
        for level in reversed(range((len(self.ordered) - 1).bit_length())):
            ones = places & (1 << level) != 0
            zeros = np.zeros(len(places) + 1, np.int32)
            np.cumsum(~ones, out=zeros[1:])
            self._levels.append((1 << level, zeros, zeros[-1]))
            places = np.concatenate((np.compress(~ones, places), np.compress(ones, places)))

    def below(self, places: Int32s, low: Int32s, high: Int32s) -> tuple[Int32s, Int32s]:
        """Return how many of the values from `low` to `high` are at lower places, and at these."""
        less = np.zeros_like(low)
        for bit, zeros, count in self._levels:
            a, b = zeros[low], zeros[high]
            right = places & bit != 0
            less += (b - a) * right
            low = np.where(right, count + low - a, a)
            high = np.where(right, count + high - b, b)
        return less, high - low

    def select(self, number: Int32s, low: Int32s, high: Int32s) -> Float64s:
        """Return value `number` (from 0) in order of those from `low` to `high`."""
        place = np.zeros_like(low)
        for bit, zeros, count in self._levels:
            a, b = zeros[low], zeros[high]
            right = number >= b - a
            number = number - (b - a) * right
            place += bit * right
            low = np.where(right, count + low - a, a)
            high = np.where(right, count + high - b, b)
        found: Float64s = self.ordered[place]
        return found


# ---- order ----------------------------------------------------------------------------------


class Order:
    """Keep the values of a window in order; subclasses define `_value`.

    Args:
        elements: Number of ticks in the window, or 0.
        span_ns: Length of the window in nanoseconds, or 0.
    """

    def __init__(self, elements: int = 0, span_ns: int = 0) -> None:
        self._most, self._span = extent(elements, span_ns)
        self.clear()

    def _value(self, values: list[float], x: float) -> float:
        """Return the value of a window that is not empty, from its values in order."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget all ticks."""
        self._rows: deque[tuple[int, float]] = deque()
        self._sorted: list[float] = []
        self._now = NEVER
        self._before: tuple[int, list[tuple[int, float]]] | None = None

    def step(self, t_ns: int, x: float) -> float:
        """Take one tick; return the value of its window."""
        rows, values = self._rows, self._sorted
        gone: list[tuple[int, float]] = []
        x = x + 0.0 if x - x == 0.0 else NAN
        now = self._now
        if self._span:
            t_ns = self._now = max(t_ns, now)
            while rows and rows[0][0] <= t_ns - self._span:
                gone.append(rows.popleft())
        if len(rows) == self._most:
            gone.append(rows.popleft())
        for _, value in gone:
            if value == value:
                del values[bisect_left(values, value)]
        rows.append((t_ns, x))
        if x == x:
            insort(values, x)
        self._before = now, gone
        return self._value(values, x) if values else NAN

    def undo(self) -> None:
        """Take back the last `step`, once."""
        if self._before is not None:
            self._now, gone = self._before
            _, x = self._rows.pop()
            if x == x:
                del self._sorted[bisect_left(self._sorted, x)]
            for _, value in gone:
                if value == value:
                    insort(self._sorted, value)
            self._rows.extendleft(reversed(gone))
            self._before = None

    def block(self, t_ns: Int64s, *xs: Float64s) -> Float64s:
        """Take m ticks; return the values of their windows (m,)."""
        m, kept = len(t_ns), len(self._rows)
        if m < FEW or 4 * m < kept:
            return stepped(self, t_ns, xs)
        x = np.where(np.isfinite(xs[0]), xs[0] + 0.0, NAN)
        times = np.maximum.accumulate(np.maximum(t_ns, self._now)) if self._span else t_ns
        times = np.concatenate((np.array([t for t, _ in self._rows], np.int64), times))
        values = np.concatenate(([v for _, v in self._rows], x))
        first = np.maximum(np.arange(kept + 1, kept + m + 1) - self._most, 0)
        if self._span:
            left = np.searchsorted(times, times[kept:] - self._span, side="right")
            first, self._now = np.maximum(first, left), times.item(-1)
        known = values == values
        before = np.concatenate(([0], np.cumsum(known))).astype(np.int32)
        low, high = before[first], before[kept + 1 :]
        found, full = np.full(m, NAN), low < high
        if full.any():
            places = Places(values[known])
            at = before[kept:-1][full]  # the place of a missing value is that of another: unused
            with np.errstate(over="ignore", invalid="ignore"):
                found[full] = self._values(places, x[full], at, low[full], high[full])
        stay = first.item(-1)
        rest = values[stay:]
        self._rows = deque(zip(times[stay:].tolist(), rest.tolist(), strict=True))
        self._sorted = np.sort(rest[known[stay:]]).tolist()
        self._before = None
        return found

    def _values(
        self, places: Places, x: Float64s, at: Int32s, low: Int32s, high: Int32s
    ) -> Float64s:
        """Return `_value` of windows from `low` to `high`, whose last value x is value `at`."""
        raise NotImplementedError

    def state(self) -> list[np.ndarray[Any, Any]]:
        """Return the values (n,), their times (n,) and the newest time (1,)."""
        times = np.array([t for t, _ in self._rows], np.int64)
        return [np.array([x for _, x in self._rows]), times, np.array([self._now])]

    def restore(self, arrays: list[np.ndarray[Any, Any]]) -> None:
        """Continue from what `state` returned."""
        n = len(arrays[0]) if arrays else 0
        fit(arrays, (np.float64, (n,)), (np.int64, (n,)), (np.int64, (1,)))
        if n > self._most or (self._span and (np.diff(arrays[1]) < 0).any()):
            raise ValueError(f"memory of a window: {n} ticks do not fit, or not in order of time")
        self.clear()
        self._rows.extend(zip(arrays[1].tolist(), arrays[0].tolist(), strict=True))
        self._sorted = sorted(x for _, x in self._rows if x == x)
        self._now = arrays[2].item()


class Quantile(Order):
    """Return the quantile q of the window, linear between two values; `Quantile(q, ...)`.

    Args:
        q: Between 0 and 1; 0.5 is the median.
        elements: Number of ticks in the window, or 0.
        span_ns: Length of the window in nanoseconds, or 0.

    Raises:
        ValueError: Unless 0 <= q <= 1, or for a window that is invalid.
    """

    def __init__(self, q: float = 0.5, elements: int = 0, span_ns: int = 0) -> None:
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"a quantile is between 0 and 1, not {q}")
        super().__init__(elements, span_ns)
        self._q = float(q)

    def _value(self, values: list[float], _x: float) -> float:
        place = self._q * (len(values) - 1)
        low = int(place)
        value = values[low]
        if low == place:
            return value
        return value + (values[low + 1] - value) * (place - low)

    def _values(
        self, places: Places, _x: Float64s, _at: Int32s, low: Int32s, high: Int32s
    ) -> Float64s:
        place = self._q * (high - low - 1)
        number = place.astype(np.int32)
        value = places.select(number, low, high)
        more = np.flatnonzero(number != place)
        after = places.select(number[more] + 1, low[more], high[more])
        value[more] += (after - value[more]) * (place - number)[more]
        return value


class Rank(Order):
    """Return the share of the window's values below x, plus half of those equal to x.

    x itself is one of the equal ones, so the rank is between 0 and 1 and 0.5 in the middle.
    """

    def _value(self, values: list[float], x: float) -> float:
        if x != x:
            return NAN
        return (bisect_left(values, x) + bisect_right(values, x)) * 0.5 / len(values)

    def _values(
        self, places: Places, x: Float64s, at: Int32s, low: Int32s, high: Int32s
    ) -> Float64s:
        place = places.places[np.minimum(at, len(places.places) - 1)]
        less, same = places.below(place, low, high)
        return np.where(x == x, (less + (less + same)) * 0.5 / (high - low), NAN)


# ---- lags -----------------------------------------------------------------------------------


class Lag:
    """Return the value some ticks or some time before.

    With elements, NaN for the first ones. With a span, the value at the last tick whose time is at
    least the span before; the oldest known one while the history is shorter. For a value that was
    missing then, this is the last known one before it: a missing value would stay in front of all
    later ticks if these were refused for it.

    Args:
        elements: Number of ticks, or 0.
        span_ns: Time in nanoseconds, or 0.
    """

    def __init__(self, elements: int = 0, span_ns: int = 0) -> None:
        self._most, self._span = extent(elements, span_ns)
        self.clear()

    def clear(self) -> None:
        """Forget all ticks."""
        self._rows: deque[tuple[int, float]] = deque()
        self._before: tuple[deque[tuple[int, float]], list[tuple[int, float]]] | None = None

    def step(self, t_ns: int, x: float) -> float:
        """Take one tick; return the earlier value."""
        rows = self._rows
        gone: list[tuple[int, float]] = []
        self._before = rows, gone
        if x != x and rows:
            x = rows[-1][1]
        if not self._span:
            rows.append((0, x))
            if len(rows) <= self._most:
                return NAN
            gone.append(rows.popleft())
            return gone[0][1]
        if rows and rows[-1][0] > t_ns:
            t_ns = rows[-1][0]
        rows.append((t_ns, x))
        edge = t_ns - self._span
        while len(rows) > 1 and rows[1][0] <= edge:
            gone.append(rows.popleft())
        if len(rows) > self._most:
            gone.append(rows.popleft())
        return rows[0][1]

    def undo(self) -> None:
        """Take back the last `step`, once."""
        if self._before is not None:
            rows, gone = self._before
            rows.pop()
            rows.extendleft(reversed(gone))
            self._before = None

    def block(self, t_ns: Int64s, *xs: Float64s) -> Float64s:
        """Take m ticks; return the earlier values (m,)."""
        m, kept = len(t_ns), len(self._rows)
        if m < FEW or 4 * m < kept:
            return stepped(self, t_ns, xs)
        values = _filled(np.concatenate(([v for _, v in self._rows], xs[0])))
        if self._span:
            times = np.array([t for t, _ in self._rows] + t_ns.tolist(), np.int64)
            times = np.maximum.accumulate(times)
            at = np.searchsorted(times, times[kept:] - self._span, side="right") - 1
            at = np.maximum(at, np.arange(kept + 1, kept + m + 1) - self._most)
            at, stay = np.maximum(at, 0), max(at.item(-1), 0)
            found = values[at]
        else:
            times, stay = np.zeros(len(values), np.int64), max(0, len(values) - self._most)
            found = np.concatenate((np.full(self._most, NAN), values))[kept : kept + m]
        self._rows = deque(zip(times[stay:].tolist(), values[stay:].tolist(), strict=True))
        self._before = None
        return found

    def state(self) -> list[np.ndarray[Any, Any]]:
        """Return the values (n,) and their times (n,)."""
        times = np.array([t for t, _ in self._rows], np.int64)
        return [np.array([x for _, x in self._rows], np.float64), times]

    def restore(self, arrays: list[np.ndarray[Any, Any]]) -> None:
        """Continue from what `state` returned."""
        n = len(arrays[0]) if arrays else 0
        fit(arrays, (np.float64, (n,)), (np.int64, (n,)))
        if n > self._most or (np.diff(arrays[1]) < 0).any():
            raise ValueError(f"memory of a lag: {n} ticks do not fit, or not in order of time")
        self.clear()
        self._rows.extend(zip(arrays[1].tolist(), arrays[0].tolist(), strict=True))


def _filled(values: Float64s) -> Float64s:
    """Return values (m,) with the last known one in the place of each missing one."""
    there = values == values
    if there.all():
        return values
    at = np.maximum.accumulate(np.where(there, np.arange(len(values)), 0))
    out: Float64s = values[at]
    return out
