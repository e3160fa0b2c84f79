"""Sums, extremes, variances and correlations in a window of elements or of time.

**Windows in two parts.** The ticks are cut into chunks. A chunk ends when the first tick of the
window has left the chunk before it, so every window is the end of one chunk and the start of the
next. For each chunk a window keeps the results of all ends (computed once, when the chunk is full)
and of the start so far, and joins two of them per tick. Nothing is ever subtracted again, so no
error stays behind when a value leaves. A window of w elements has chunks of w - 1 ticks. Where a
chunk ends depends on the ticks alone, so blocks and steps do the same operations in one order.

**Variances.** Each part sums d and d * d, where d is the distance from the first value of the part
in the order of summation. Two parts are joined by the formula of Chan, Golub and LeVeque (1979).
So the error is relative to the spread in the window, not to its level, and a window of equal
values has variance 0 exactly. Where squares overflow there is no value, rather than 0. Variances
are those of a sample (n - 1); one value has 0.

Windows take a number of elements or a span in nanoseconds. They are partial at the start, a window
without any value is NaN, and after `MAX_WINDOW` ticks the oldest leave a window of time early.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import sqrt
from typing import Any, ClassVar, TypeAlias

import numpy as np

from ..typing import Bools, Float64s, Int64s
from .memory import FEW, NAN, NEVER, extent, fit, stepped

Fold: TypeAlias = tuple[float, ...]
"""The result of one part of a window: a count, sums, an extreme."""

Columns: TypeAlias = list[Float64s]
"""One array per number of a part, or per argument."""

INF = float("inf")

LONG = 100
"""From this length on, NumPy computes the parts of a chunk faster than a loop."""


class Window:
    """Keep a window in two parts; subclasses define what is kept of a part, and how parts join.

    Args:
        elements: Number of ticks in the window, or 0.
        span_ns: Length of the window in nanoseconds, or 0.

    Raises:
        ValueError: Unless exactly one of both is above 0.
    """

    columns: ClassVar[int] = 1
    empty: ClassVar[Fold]
    """The part without ticks."""

    def __init__(self, elements: int = 0, span_ns: int = 0) -> None:
        self._most, self._span = extent(elements, span_ns)
        self.clear()

    # What a subclass defines; the methods for arrays do the same operations in the same order.

    def _add(self, fold: Fold, row: Any) -> Fold:
        """Return a part with one more row."""
        raise NotImplementedError

    def _join(self, end: Fold, start: Fold, row: Any) -> float:
        """Return the value of the window from its two parts and its newest row."""
        raise NotImplementedError

    def _scan(self, grids: Columns) -> Columns:
        """Return every partial result along the rows of the grids (chunks, ticks)."""
        raise NotImplementedError

    def _joined(self, ends: Columns, starts: Columns, xs: Columns) -> Float64s:
        """Return the values of m windows."""
        raise NotImplementedError

    # The same for all windows.

    def clear(self) -> None:
        """Forget all ticks."""
        self._set([], [], [], [], 0, NEVER, self.empty)

    def _set(
        self,
        old: list[Any],
        times: list[int],
        new: list[Any],
        stamps: list[int],
        first: int,
        now: int,
        fold: Fold,
    ) -> None:
        """Set the chunk before and the present one; the window begins at `first` in the former."""
        self._base: Any = old, times, new, stamps, None
        self._live: Any = first, now, fold
        self._before: Any = None

    def step(self, t_ns: int, x: float) -> float:
        """Take one tick; return the value of its window."""
        return self._take(t_ns, x + 0.0 if x - x == 0.0 else NAN)

    def _take(self, t_ns: int, row: Any) -> float:
        base, live = self._base, self._live
        old, times, new, stamps, ends = base
        if ends is None:
            ends = self._ends(old)
            self._base = base = old, times, new, stamps, ends
        self._before = base, live
        first, now, fold = live
        least = len(old) + len(new) + 1 - self._most
        if first < least:
            first = least
        if self._span:
            if now < t_ns:
                now = t_ns
            edge = now - self._span
            while first < len(old) and times[first] <= edge:
                first += 1
        if first >= len(old):
            old, times, new, stamps = new, stamps, [], []
            ends, fold = self._ends(old), self.empty
            self._base = old, times, new, stamps, ends
            first = max(0, len(old) + 1 - self._most)
            if self._span:
                first = bisect_right(times, edge, first)
        if self._span:
            stamps.append(now)
        new.append(row)
        fold = self._add(fold, row)
        self._live = first, now, fold
        return self._join(ends[first], fold, row)

    def _ends(self, rows: list[Any]) -> list[Fold]:
        """Return the part from each row to the last one, and the empty part."""
        if len(rows) == 1:
            return [self._add(self.empty, rows[0]), self.empty]
        if len(rows) > LONG:
            columns = np.array(rows[::-1]).reshape(-1, self.columns).T
            with np.errstate(all="ignore"):
                parts = self._scan([column[None] for column in columns])
            return [*zip(*(part[0, ::-1].tolist() for part in parts), strict=True), self.empty]
        ends = list(accumulate(reversed(rows), self._add, initial=self.empty))
        ends.reverse()
        return ends

    def undo(self) -> None:
        """Take back the last `step`, once."""
        if self._before is not None:
            base, live = self._before
            if self._base is base:
                base[2].pop()
                if self._span:
                    base[3].pop()
            self._base, self._live, self._before = base, live, None

    def block(self, t_ns: Int64s, *xs: Float64s) -> Float64s:
        """Take m ticks; return the values of their windows (m,)."""
        old, _, new, _, _ = self._base
        m, kept = len(t_ns), len(old) + len(new)
        if m < FEW or 4 * m < kept:
            return stepped(self, t_ns, xs)
        rows, times, firsts = self._laid_out(t_ns, xs)
        bounds = _bounds(firsts, len(old), kept)
        longest = max(b - a for a, b in pairwise(bounds))
        if len(bounds) * (longest + 1) > 12 * (kept + m) + 1000:
            half = m // 2
            parts = (slice(half), slice(half, m))
            return np.concatenate([self.block(t_ns[p], *(x[p] for x in xs)) for p in parts])
        with np.errstate(all="ignore"):
            return self._many(rows, times, firsts, bounds, longest + 1)

    def _laid_out(
        self, t_ns: Int64s, xs: Sequence[Float64s]
    ) -> tuple[Columns, Int64s | None, Int64s]:
        """Return the rows that are kept and the new ones, and the first row of each new window."""
        old, times, new, stamps, _ = self._base
        kept = np.array(old + new, np.float64).reshape(-1, self.columns)
        good = np.logical_and.reduce([np.isfinite(x) for x in xs])
        rows = [
            np.concatenate((before, np.where(good, x + 0.0, NAN)))
            for before, x in zip(kept.T, xs, strict=True)
        ]
        firsts = np.maximum(np.arange(len(kept), len(rows[0])) + (1 - self._most), 0)
        if not self._span:
            return rows, None, firsts
        known = np.array(times + stamps, np.int64)
        when = np.maximum.accumulate(np.concatenate((known, t_ns)))
        left = np.searchsorted(when, when[len(kept) :] - self._span, side="right")
        return rows, when, np.maximum(firsts, left)

    def _many(
        self,
        rows: Columns,
        times: Int64s | None,
        firsts: Int64s,
        bounds: list[int],
        width: int,
    ) -> Float64s:
        """Compute all parts on a grid: one chunk a row, and an empty cell at the end of each."""
        starts = np.array(bounds[:-1])
        lengths = np.diff(bounds)
        chunk = np.repeat(np.arange(len(starts)), lengths)
        cells = np.arange(len(rows[0])) + np.repeat(
            np.arange(len(starts)) * width - starts, lengths
        )
        grids = []
        for x in rows:
            grid = np.full(len(starts) * width, NAN)
            grid[cells] = x
            grids.append(grid.reshape(-1, width))
        m = len(firsts)
        before = chunk[-m:] - 1
        at = before * width + firsts - starts[before]
        to = cells[-m:]
        heads = self._scan(grids)
        tails = [part[:, ::-1] for part in self._scan([grid[:, ::-1] for grid in grids])]
        ends = [part.ravel()[at] for part in tails]
        begins = [part.ravel()[to] for part in heads]
        values = self._joined(ends, begins, [x[-m:] for x in rows])
        a, b = bounds[-3:-1]
        kept = self._rows([x[a:] for x in rows])
        stamps = [] if times is None else times[a:].tolist()
        now = NEVER if times is None else stamps[-1]
        split, fold = b - a, tuple(part.item(-1) for part in begins)
        first = firsts.item(-1) - a
        old, new = kept[:split], kept[split:]
        self._set(old, stamps[:split], new, stamps[split:], first, now, fold)
        return values

    def _rows(self, xs: Columns) -> list[Any]:
        rows: list[float] = xs[0].tolist()
        return rows

    def state(self) -> list[np.ndarray[Any, Any]]:
        """Return the rows (n, columns), their times (n,) or (0,), and where the chunks begin."""
        old, times, new, stamps, _ = self._base
        first, now, _ = self._live
        rows = np.array(old + new, np.float64).reshape(-1, self.columns)
        where = np.array([len(old), first, now], np.int64)
        return [rows, np.array(times + stamps, np.int64), where]

    def restore(self, arrays: list[np.ndarray[Any, Any]]) -> None:
        """Continue from what `state` returned."""
        fit(arrays, (np.float64, (None, self.columns)), (np.int64, (None,)), (np.int64, (3,)))
        rows, times, (split, first, now) = arrays[0], arrays[1].tolist(), arrays[2].tolist()
        n = len(rows)
        good = 0 <= first <= split <= n <= 2 * self._most and (split < n or n == 0)
        if not good or len(times) != (n if self._span else 0) or times != sorted(times):
            raise ValueError("memory of a window: its chunks do not fit together")
        kept = self._rows(list(rows.T))
        new = kept[split:]
        fold = self.empty
        for row in new:
            fold = self._add(fold, row)
        self._set(kept[:split], times[:split], new, times[split:], first, now, fold)


def _bounds(firsts: Int64s, present: int, kept: int) -> list[int]:
    """Return where chunks begin: the one before, the present one, all new ones; and the end."""
    bounds, wanted = [0, present], firsts.tolist()
    here, end = kept, kept + len(wanted)
    while True:
        here = max(here, kept + bisect_left(wanted, bounds[-1]))
        if here >= end:
            return [*bounds, end]
        bounds.append(here)
        here += 1


def _counts(valid: Bools) -> Float64s:
    return np.add.accumulate(valid, axis=1, dtype=np.float64)


# ---- sums and extremes ----------------------------------------------------------------------


class Sum(Window):
    """Sum the values of the window."""

    empty = (0, 0.0)

    def _add(self, fold: Fold, row: Any) -> Fold:
        return (fold[0] + 1, fold[1] + row) if row == row else fold

    def _join(self, end: Fold, start: Fold, _row: Any) -> float:
        return end[1] + start[1] if end[0] + start[0] else NAN

    def _scan(self, grids: Columns) -> Columns:
        valid = grids[0] == grids[0]
        return [_counts(valid), np.add.accumulate(np.where(valid, grids[0], 0.0), axis=1)]

    def _joined(self, ends: Columns, starts: Columns, _xs: Columns) -> Float64s:
        return np.where(ends[0] + starts[0] > 0, ends[1] + starts[1], NAN)


class Mean(Sum):
    """Average the values of the window."""

    def _join(self, end: Fold, start: Fold, _row: Any) -> float:
        n = end[0] + start[0]
        return (end[1] + start[1]) / n if n else NAN

    def _joined(self, ends: Columns, starts: Columns, _xs: Columns) -> Float64s:
        return (ends[1] + starts[1]) / (ends[0] + starts[0])


class Count(Sum):
    """Count the ticks of the window at which the condition is not 0."""

    def step(self, t_ns: int, x: float) -> float:
        """Take one tick; return the count in its window."""
        return self._take(t_ns, float(x != 0.0) if x - x == 0.0 else NAN)

    def _laid_out(
        self, t_ns: Int64s, xs: Sequence[Float64s]
    ) -> tuple[Columns, Int64s | None, Int64s]:
        return super()._laid_out(t_ns, [np.where(np.isfinite(x), x != 0.0, NAN) for x in xs])


class Min(Window):
    """Return the smallest value of the window."""

    empty = (NAN,)

    def _add(self, fold: Fold, row: Any) -> Fold:
        return fold if row != row or fold[0] <= row else (row,)

    def _join(self, end: Fold, start: Fold, _row: Any) -> float:
        return self._add(start, end[0])[0]

    def _scan(self, grids: Columns) -> Columns:
        return [np.fmin.accumulate(grids[0], axis=1)]

    def _joined(self, ends: Columns, starts: Columns, _xs: Columns) -> Float64s:
        return np.fmin(ends[0], starts[0])


class Max(Window):
    """Return the largest value of the window."""

    empty = (NAN,)

    def _add(self, fold: Fold, row: Any) -> Fold:
        return fold if row != row or fold[0] >= row else (row,)

    def _join(self, end: Fold, start: Fold, _row: Any) -> float:
        return self._add(start, end[0])[0]

    def _scan(self, grids: Columns) -> Columns:
        return [np.fmax.accumulate(grids[0], axis=1)]

    def _joined(self, ends: Columns, starts: Columns, _xs: Columns) -> Float64s:
        return np.fmax(ends[0], starts[0])


# ---- variances ------------------------------------------------------------------------------


class Var(Window):
    """Return the sample variance of the window (n - 1); 0 with one value."""

    empty = (0, 0.0, 0.0, 0.0)  # count, reference, sums of d and of d * d

    def _add(self, fold: Fold, row: Any) -> Fold:
        if row != row:
            return fold
        n, origin, total, squares = fold
        if not n:
            return 1, row, 0.0, 0.0
        d = row - origin
        return n + 1, origin, total + d, squares + d * d

    def _join(self, end: Fold, start: Fold, _row: Any) -> float:
        n1, a, s1, q1 = end
        n2, b, s2, q2 = start
        if n1:
            m1 = s1 / n1
            squares = q1 - s1 * m1
            if n2:
                m2 = s2 / n2
                delta = (b - a) + (m2 - m1)
                n = n1 + n2
                squares = squares + (q2 - s2 * m2) + delta * delta * (n1 * n2 / n)
            else:
                n = n1
        elif n2:
            squares, n = q2 - s2 * (s2 / n2), n2
        else:
            return NAN
        return 0.0 if n == 1 or squares <= 0.0 else squares / (n - 1)

    def _scan(self, grids: Columns) -> Columns:
        valid = grids[0] == grids[0]
        origin = _origins(grids[0], valid)
        d = np.where(valid, grids[0] - origin, 0.0)
        sums = [np.add.accumulate(x, axis=1) for x in (d, d * d)]
        return [_counts(valid), np.broadcast_to(origin, d.shape), *sums]

    def _joined(self, ends: Columns, starts: Columns, _xs: Columns) -> Float64s:
        n1, a, s1, q1 = ends
        n2, b, s2, q2 = starts
        n = n1 + n2
        m1, m2 = s1 / np.maximum(n1, 1.0), s2 / np.maximum(n2, 1.0)
        delta = (b - a) + (m2 - m1)
        between = np.where(n1 * n2 > 0, delta * delta * (n1 * n2 / n), 0.0)
        squares = (q1 - s1 * m1) + (q2 - s2 * m2) + between
        value = np.where((n == 1) | (squares <= 0.0), 0.0, squares / (n - 1))
        return np.where(n > 0, value, NAN)


class Std(Var):
    """Return the standard deviation of the window; 0 with one value."""

    def _join(self, end: Fold, start: Fold, row: Any) -> float:
        return sqrt(Var._join(self, end, start, row))

    def _joined(self, ends: Columns, starts: Columns, xs: Columns) -> Float64s:
        return np.sqrt(super()._joined(ends, starts, xs))


class ZScore(Var):
    """Return (x - mean) / std of the window that ends with x; 0 where std is 0."""

    def _join(self, end: Fold, start: Fold, row: Any) -> float:
        if row != row:
            return NAN
        deviation = sqrt(Var._join(self, end, start, row))
        n1, a, s1, _ = end
        n2, b, s2, _ = start
        if deviation == 0.0:
            return 0.0
        shift = n1 * ((a - b) + s1 / n1) if n1 else 0.0
        value: float = ((row - b) - (shift + s2) / (n1 + n2)) / deviation
        return NAN if deviation == INF else value

    def _joined(self, ends: Columns, starts: Columns, xs: Columns) -> Float64s:
        deviation = np.sqrt(super()._joined(ends, starts, xs))
        n1, a, s1, _ = ends
        n2, b, s2, _ = starts
        shift = np.where(n1 > 0, n1 * ((a - b) + s1 / n1), 0.0)
        value = ((xs[0] - b) - (shift + s2) / (n1 + n2)) / deviation
        value[deviation == INF] = NAN
        return np.where(xs[0] == xs[0], np.where(deviation == 0.0, 0.0, value), NAN)


def _origins(grid: Float64s, valid: Bools) -> Float64s:
    """Return the first value of each row (k, 1), 0 where it has none."""
    at = valid.argmax(axis=1)[:, None]
    found: Float64s = np.take_along_axis(grid, at, axis=1)
    return np.where(found == found, found, 0.0)


class Pair(Window):
    """Keep the sums of pairs (x, y); a pair with a missing value is skipped."""

    columns = 2
    empty = (0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)

    def step(self, t_ns: int, x: float, y: float) -> float:  # type: ignore[override]
        """Take one tick; return the value of its window."""
        good = x - x == 0.0 and y - y == 0.0
        return self._take(t_ns, (x + 0.0, y + 0.0) if good else (NAN, NAN))

    def _rows(self, xs: Columns) -> list[Any]:
        return list(zip(*(x.tolist() for x in xs), strict=True))

    def _add(self, fold: Fold, row: Any) -> Fold:
        x, y = row
        if x != x:
            return fold
        n, a, b, sx, sy, xx, xy, yy = fold
        if not n:
            return 1, x, y, 0.0, 0.0, 0.0, 0.0, 0.0
        x, y = x - a, y - b
        return n + 1, a, b, sx + x, sy + y, xx + x * x, xy + x * y, yy + y * y

    def _scan(self, grids: Columns) -> Columns:
        valid = grids[0] == grids[0]
        origins = [_origins(grid, valid) for grid in grids]
        x, y = (np.where(valid, g - o, 0.0) for g, o in zip(grids, origins, strict=True))
        sums = [np.add.accumulate(v, axis=1) for v in (x, y, x * x, x * y, y * y)]
        return [_counts(valid), *(np.broadcast_to(o, x.shape) for o in origins), *sums]

    def _join(self, end: Fold, start: Fold, _row: Any) -> float:
        n1, a1, b1, x1, y1, xx1, xy1, yy1 = end
        n2, a2, b2, x2, y2, xx2, xy2, yy2 = start
        n = n1 + n2
        if not n:
            return NAN
        u1, v1, u2, v2 = x1 / (n1 or 1), y1 / (n1 or 1), x2 / (n2 or 1), y2 / (n2 or 1)
        f = n1 * n2 / n
        both = f > 0
        dx = (a2 - a1) + (u2 - u1) if both else 0.0
        dy = (b2 - b1) + (v2 - v1) if both else 0.0
        xx = (xx1 - x1 * u1) + (xx2 - x2 * u2) + dx * dx * f
        xy = (xy1 - x1 * v1) + (xy2 - x2 * v2) + dx * dy * f
        yy = (yy1 - y1 * v1) + (yy2 - y2 * v2) + dy * dy * f
        if xx <= 0.0 or yy <= 0.0:
            return 0.0
        return self._result(xx, xy, yy) if xx < INF and yy < INF else NAN

    def _joined(self, ends: Columns, starts: Columns, _xs: Columns) -> Float64s:
        n1, a1, b1, x1, y1, xx1, xy1, yy1 = ends
        n2, a2, b2, x2, y2, xx2, xy2, yy2 = starts
        n = n1 + n2
        u1, v1, u2, v2 = (
            total / np.maximum(count, 1.0)
            for total, count in ((x1, n1), (y1, n1), (x2, n2), (y2, n2))
        )
        f = np.where(n > 0, n1 * n2 / n, 0.0)
        dx = np.where(f > 0, (a2 - a1) + (u2 - u1), 0.0)
        dy = np.where(f > 0, (b2 - b1) + (v2 - v1), 0.0)
        xx = (xx1 - x1 * u1) + (xx2 - x2 * u2) + dx * dx * f
        xy = (xy1 - x1 * v1) + (xy2 - x2 * v2) + dx * dy * f
        yy = (yy1 - y1 * v1) + (yy2 - y2 * v2) + dy * dy * f
        constant = (xx <= 0.0) | (yy <= 0.0)
        value = np.where(constant, 0.0, self._results(xx, xy, yy))
        return np.where((n > 0) & (constant | ((xx < INF) & (yy < INF))), value, NAN)

    def _result(self, xx: float, xy: float, yy: float) -> float:
        raise NotImplementedError

    def _results(self, xx: Float64s, xy: Float64s, yy: Float64s) -> Float64s:
        raise NotImplementedError


class Corr(Pair):
    """Return the correlation of x and y in the window; 0 where one of them is constant."""

    def _result(self, xx: float, xy: float, yy: float) -> float:
        r = xy / (sqrt(xx) * sqrt(yy))
        return -1.0 if r < -1.0 else 1.0 if r > 1.0 else r

    def _results(self, xx: Float64s, xy: Float64s, yy: Float64s) -> Float64s:
        r: Float64s = np.clip(xy / (np.sqrt(xx) * np.sqrt(yy)), -1.0, 1.0)
        return r


class Beta(Pair):
    """Return the slope of x on y in the window, cov(x, y) / var(y); 0 where one is constant."""

    def _result(self, _xx: float, xy: float, yy: float) -> float:
        return xy / yy

    def _results(self, _xx: Float64s, xy: Float64s, yy: Float64s) -> Float64s:
        return xy / yy
