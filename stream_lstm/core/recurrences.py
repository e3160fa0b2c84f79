"""Functions whose memory is a few numbers: exponential weights, totals, bars, the order book.

Each is a recurrence: a block is a loop of steps, or of what in them depends on the step before. A
value that is not finite is missing and changes nothing but the time, since one infinity would stay
for good. A sum or a square that overflows is the value of its tick only, for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import exp2, inf, isfinite, isinf, nan, sqrt
from typing import Any

import numpy as np

from ..typing import Float64s, Int64s
from .memory import FEW, NEVER, Recurrence, stepped


class EwmMean(Recurrence):
    """Average with exponential weights that sum to 1 from the first value on (no start bias).

    A value counts half after each half-life. With a span, weights fall with time; with elements,
    with the number of values, so that missing ones do not count.

    Args:
        elements: Half-life in elements, or 0.
        span_ns: Half-life in nanoseconds, or 0.

    Raises:
        ValueError: Unless exactly one of both is above 0.
    """

    start = (0.0, nan, 0.0, NEVER, NEVER)  # weight, mean, weighted squares, time of value, newest
    _squares = False

    def __init__(self, elements: int = 0, span_ns: int = 0) -> None:
        if (elements > 0) == (span_ns > 0) or min(elements, span_ns) < 0:
            raise ValueError("a half-life is either a number of elements or a span, above 0")
        self._span = span_ns
        self._decay = exp2(-1.0 / elements) if elements else 0.0
        super().__init__()

    def step(self, t_ns: int, x: float) -> float:
        """Take one tick; return the value after it."""
        self._before = live = self._live
        weight, mean, squares, seen, now = live
        if t_ns < now:
            t_ns = now
        if x - x != 0.0:
            self._live = live = weight, mean, squares, seen, t_ns
        elif not weight:
            self._live = live = 1.0, x + 0.0, 0.0, t_ns, t_ns
        else:
            decay = exp2((seen - t_ns) / self._span) if self._span else self._decay
            past = weight * decay
            weight = past + 1.0
            share = past / weight
            delta = x - mean
            if self._squares:
                squares = squares * decay + share * delta * delta
            live = weight, x - delta * share, squares, t_ns, t_ns
            if live[1] - live[1] + squares - squares != 0.0:
                self._live = (*self._live[:4], t_ns)
                return inf
            self._live = live
        return self._value(live)

    def _value(self, live: tuple[float, ...]) -> float:
        return live[1]

    def block(self, t_ns: Int64s, *xs: Float64s) -> Float64s:
        """Take m ticks; return the values (m,)."""
        if len(t_ns) < FEW:
            return stepped(self, t_ns, xs)
        before = weight, mean, squares, seen, now = self._live
        good = np.isfinite(xs[0])
        times = np.maximum(np.maximum.accumulate(t_ns), now)
        stamps, now = times[good], times.item(-1)
        x, count = xs[0][good], len(stamps)
        decay: Any = self._decay
        if self._span:
            pairs = pairwise([seen, *stamps.tolist()])
            decays = [exp2((a - b) / self._span) for a, b in pairs]
            decay = np.array(decays)
        else:
            decays = [self._decay] * count
        if not self._span and weight * decay + 1.0 == weight:
            weights = np.full(count + 1, weight)
        else:
            weights = np.array([weight, *[weight := weight * d + 1.0 for d in decays]])
        share = weights[:-1] * decay / weights[1:]
        rows = zip(x.tolist(), share.tolist(), strict=True)
        mean = mean if before[0] else 0.0
        means = np.array([mean, *[mean := v - (v - mean) * s for v, s in rows]])
        with np.errstate(all="ignore"):
            spread = means
            if self._squares:
                delta = x - means[:-1]
                rows = zip(decays, (share * delta * delta).tolist(), strict=True)
                spread = np.array([squares, *[squares := squares * d + q for d, q in rows]])
            values = self._values(weights, means, spread)
        if not (isfinite(spread.sum()) and isfinite(means.sum())):
            return stepped(self, t_ns, xs)
        values[0] = self._value(before)
        self._live = (*before[:4], now)
        if count:
            self._live = weight, mean, squares, stamps.item(-1), now
        self._before = self._live
        found: Float64s = values[np.cumsum(good)]
        return found

    def _values(self, _weights: Float64s, means: Float64s, _squares: Float64s) -> Float64s:
        return means


class EwmVar(EwmMean):
    """Return the variance under the weights of `EwmMean` (of the population; 0 with one value)."""

    _squares = True

    def _value(self, live: tuple[float, ...]) -> float:
        return live[2] / live[0] if live[0] else nan

    def _values(self, weights: Float64s, _means: Float64s, squares: Float64s) -> Float64s:
        return squares / weights


class EwmStd(EwmVar):
    """Return the square root of `EwmVar`."""

    def _value(self, live: tuple[float, ...]) -> float:
        return sqrt(live[2] / live[0]) if live[0] else nan

    def _values(self, weights: Float64s, _means: Float64s, squares: Float64s) -> Float64s:
        found: Float64s = np.sqrt(squares / weights)
        return found


class Cumulative(Recurrence):
    """Sum all values since the start, with the rounding errors carried along (Neumaier, 1974)."""

    start = (nan, 0.0)  # sum, lost low-order part

    def step(self, _t_ns: int, x: float) -> float:
        """Take one tick; return the sum after it."""
        self._before = total, lost = self._live
        if x - x == 0.0:
            if total != total:
                total = 0.0
            new = total + x
            if isinf(new):
                return float(new)
            if abs(total) >= abs(x):
                lost += (total - new) + x
            else:
                lost += (x - new) + total
            total = new
            self._live = total, lost
        return float(total + lost)


class Since(Recurrence):
    """Count the elements since the condition was last true: 0 at that tick.

    Before it ever was true, this is the number of ticks so far. A missing condition is not true.
    """

    start = (0,)

    def step(self, _t_ns: int, x: float) -> float:
        """Take one tick; return the count after it."""
        self._before = live = self._live
        n = live[0] + 1 if x == 0.0 or x != x else 0
        self._live = (n,)
        return float(n)


class Last(Recurrence):
    """Return the last value that was not missing; NaN if it is older than `age_ns`, 0 for any age.

    Args:
        age_ns: Greatest age in nanoseconds, or 0.
    """

    start = (nan, NEVER, NEVER)  # value, its time, newest time

    def __init__(self, age_ns: int = 0) -> None:
        if age_ns < 0:
            raise ValueError("the age of a value is not negative")
        self._age = age_ns
        super().__init__()

    def step(self, t_ns: int, x: float) -> float:
        """Take one tick; return the value after it."""
        self._before = value, seen, now = self._live
        if isinf(x):
            return x  # not a missing value, so the tick is refused
        t_ns = max(t_ns, now)
        if x == x:
            value, seen = x, t_ns
        self._live = value, seen, t_ns
        return nan if self._age and t_ns - seen > self._age else value


class Bar(Recurrence):
    """Return one field of the last complete bar; NaN before the first bar is complete.

    Bars begin at multiples of the span since 1970. A bar is complete at the first tick of a later
    one. The first bar counts from the first tick on; a bar without values is left out.

    Args:
        field: `open`, `high`, `low` or `close`.
        span_ns: Length of a bar in nanoseconds.

    Raises:
        ValueError: For another field, or a span that is not above 0.
    """

    start = (nan, nan, NEVER)  # field of the present bar, of the last complete one, present bar

    def __init__(self, field: str, span_ns: int) -> None:
        if field not in FIELDS or span_ns <= 0:
            raise ValueError(f"a bar has one of {', '.join(FIELDS)} and a span above 0")
        self._field, self._span = FIELDS[field], span_ns
        super().__init__()

    @property
    def is_ready(self) -> bool:
        """Whether a bar is complete."""
        return bool(self._live[1] == self._live[1])

    def step(self, t_ns: int, x: float) -> float:
        """Take one tick; return the field of the last complete bar."""
        self._before = value, done, bar = self._live
        now = t_ns // self._span
        if now > bar:
            if value == value:
                done = value
            value, bar = nan, now
        if x - x == 0.0:
            value = x if value != value else self._field(value, x)
        self._live = value, done, bar
        return float(done)


FIELDS: dict[str, Callable[[float, float], float]] = {
    "open": lambda value, _: value,
    "high": max,
    "low": min,
    "close": lambda _, x: x,
}
"""Fields of a bar, each with its value after one more price."""


class TickSign(Recurrence):
    """Return the sign of the last change of price (tick rule): 1, -1, and 0 before any change."""

    start = (nan, 0.0)

    def step(self, _t_ns: int, x: float) -> float:
        """Take one tick; return the sign after it."""
        self._before = self._live
        price, sign = self._live
        if x - x == 0.0:
            sign = 1.0 if x > price else -1.0 if x < price else sign
            self._live = x, sign
        return float(sign)


class OrderFlow(Recurrence):
    """Return the order flow imbalance of the best level, from one tick to the next.

    Arguments are bid price, bid size, ask price, ask size. The first tick has 0, and so has a tick
    with a missing value, which is skipped. Source: Cont, Kukanov and Stoikov, The price impact of
    order book events, 2014.
    """

    start = (nan, nan, nan, nan)

    def step(self, _t_ns: int, *xs: float) -> float:
        """Take one tick; return its imbalance."""
        self._before = bid, bid_size, ask, ask_size = self._live
        if not all(map(isfinite, xs)):
            return 0.0
        self._live = new_bid, new_bid_size, new_ask, new_ask_size = xs
        flow = 0.0
        if new_bid >= bid:
            flow += new_bid_size
        if new_bid <= bid:
            flow -= bid_size
        if new_ask <= ask:
            flow -= new_ask_size
        if new_ask >= ask:
            flow += ask_size
        return float(flow)

    def block(self, t_ns: Int64s, *xs: Float64s) -> Float64s:
        """Take m ticks; return their imbalances (m,)."""
        if len(t_ns) < FEW:
            return stepped(self, t_ns, xs)
        good = np.logical_and.reduce([np.isfinite(x) for x in xs])
        rows = [
            np.concatenate(([before], x[good])) for before, x in zip(self._live, xs, strict=True)
        ]
        self._live = self._before = tuple(row.item(-1) for row in rows)
        bid, bid_size, ask, ask_size = (row[:-1] for row in rows)
        new_bid, new_bid_size, new_ask, new_ask_size = (row[1:] for row in rows)
        with np.errstate(over="ignore", invalid="ignore"):
            flow = 0.0 + np.where(new_bid >= bid, new_bid_size, 0.0)
            flow = np.where(new_bid <= bid, flow - bid_size, flow)
            flow = np.where(new_ask <= ask, flow - new_ask_size, flow)
            flow = np.where(new_ask >= ask, flow + ask_size, flow)
        out = np.zeros(len(good))
        out[good] = flow
        return out
