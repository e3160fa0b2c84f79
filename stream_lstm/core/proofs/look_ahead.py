"""Whether a column of the data foreknows the label, which no replay shows.

A column c, or its change from tick to tick, is compared with the target y of its own element and
with that of the labelled one, h elements later, in two ways: the correlation, and how often c is
above 0 where y is. A column foreknows the label where one of them is above 0.99 for the labelled
element, and falls short of 1 by less than a tenth of what it does for its own: a target that
hardly changes is related to the past as closely as to what comes.

Sums are all that is kept. It finds a column that is the label, the next target or the next price;
it does not find one that only hints, such as a mean taken over both sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...events import Ticks
from ...typing import Float64s
from ..elements import ElementMaker, Memory

CLOSE = 0.99
"""A relation above this is not one of forecasting."""

SHARE = 0.1
"""Of what a column's relation with its own element falls short of 1 by."""

LEAST = 100
"""Pairs without which nothing is said."""

KINDS = ("value", "change")


class Foreknowledge:
    """The check of one series; `columns` are those of its ticks, `maker` makes the target.

    maker: over the same columns. horizon: how many elements after it an element's label comes.
    """

    def __init__(self, maker: ElementMaker, horizon: int) -> None:
        self.columns = maker.columns
        self.pairs = 0
        self._maker, self._horizon = maker, horizon
        self._memory = Memory.empty(len(self.columns))
        self._skipped = 0
        width = len(KINDS) * len(self.columns)
        self._last = np.full((1, len(self.columns)), np.nan)
        self._held = np.zeros((0, width + 1))
        self._start: Float64s | None = None
        self._next, self._own = _Relations(width), _Relations(width)

    def push(self, ticks: Ticks) -> None:
        """Take a block of ticks; those that make no element are left out."""
        good = np.ones(len(ticks.values), np.bool_)

        def refused(index: int, _: str) -> None:
            good[index] = False

        made = self._maker.make(self._memory, ticks.t_ns, ticks.values, refused)
        targets = [elements[:, 0].astype(np.float64) for _, elements in made]
        y = np.concatenate([*targets, np.zeros(0)])
        values = ticks.values[good]
        changes = np.diff(np.concatenate([self._last, values]), axis=0)
        rows = np.concatenate([values, changes], axis=1)
        if len(values):
            self._last = values[-1:]
        self._take(rows[len(rows) - len(y) :], y)

    def _take(self, rows: Float64s, y: Float64s) -> None:
        """Take (m, K) of the columns and (m,) of the target, of the same elements."""
        if self._start is None and len(rows):
            self._start = np.nan_to_num(rows[0])
        both = np.concatenate([self._held, np.column_stack([rows, y])])
        ahead = self._horizon
        if len(both) > ahead:
            known, own, to_come = both[:-ahead, :-1], both[:-ahead, -1], both[ahead:, -1]
            whole = np.isfinite(known).all(axis=1)  # the first element has no change
            known = known[whole]
            self.pairs += len(known)
            self._next.add(known - self._start, known > 0, to_come[whole])
            self._own.add(known - self._start, known > 0, own[whole])
        self._held = both[-ahead:]

    def found(self) -> list[dict[str, Any]]:
        """Return the columns that foreknow the label, with what tells.

        `kind` is `value` or `change`, `relation` is `correlation` or `sign`, `next` and `own` are
        its sizes with the labelled and with the column's own element, 0 to 1.
        """
        out: list[dict[str, Any]] = []
        if self.pairs < LEAST:
            return out
        for relation in ("correlation", "sign"):
            ahead, own = (getattr(r, relation)() for r in (self._next, self._own))
            short = 1.0 - ahead
            close = (short < 1.0 - CLOSE) & (short < SHARE * (1.0 - own))
            if relation == "sign":  # of a rare one a constant knows as much
                close &= short < SHARE * self._next.rarer()
            for k in np.flatnonzero(close):
                kind, column = divmod(int(k), len(self.columns))
                name = self.columns[column]
                if any(one["column"] == name for one in out):
                    continue
                sizes = {"next": float(ahead[k]), "own": float(own[k])}
                out.append({"column": name, "kind": KINDS[kind], "relation": relation, **sizes})
        return out


class _Relations:
    """Sums over pairs of K columns and one target."""

    def __init__(self, width: int) -> None:
        self._n = 0
        self._x, self._xx, self._xy = (np.zeros(width) for _ in range(3))
        self._y = self._yy = 0.0
        self._same, self._positive = np.zeros(width), 0

    def add(self, x: Float64s, above: npt.NDArray[np.bool_], y: Float64s) -> None:
        """Take x (m, K), whether its columns are above 0, and y (m,)."""
        self._n += len(y)
        self._x += x.sum(axis=0)
        self._xx += (x * x).sum(axis=0)
        self._xy += x.T @ y
        self._y += float(y.sum())
        self._yy += float(y @ y)
        self._same += (above == (y > 0)[:, None]).sum(axis=0)
        self._positive += int((y > 0).sum())

    def correlation(self) -> Float64s:
        """Return |r| (K,), 0 where something is constant."""
        n = max(self._n, 1)
        together = self._xy - self._x * self._y / n
        spread = np.maximum(self._xx - self._x**2 / n, 0.0) * max(self._yy - self._y**2 / n, 0.0)
        return _cut(np.abs(together) / np.sqrt(np.where(spread > 0, spread, np.inf)))

    def sign(self) -> Float64s:
        """Return how often (K,) both are above 0 or both are not, or the other way round."""
        share = self._same / max(self._n, 1)
        return np.maximum(share, 1.0 - share)

    def rarer(self) -> float:
        """Return the share of the rarer of the two signs of the target."""
        return min(self._positive, self._n - self._positive) / max(self._n, 1)


def _cut(values: Float64s) -> Float64s:
    return np.clip(values, 0.0, 1.0)
