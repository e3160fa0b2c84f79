"""Check whether a column of the data contains the label in advance, which no replay shows.

A column, or its change from tick to tick, is compared with the target of its own element and with
that of the labelled one, h elements later, in two ways: the correlation, and how often column and
target are both positive or both not. A column looks ahead if one of them is above 0.99 for the
labelled element, and falls short of 1 by less than a tenth of what it does for its own: a target
that hardly changes is related to the past as closely as to the future.

The check stores sums only. It finds a column that is the label, the next target or the next price,
but not a column that is a mean over both sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...events import Ticks
from ...typing import Bools, Float64s
from ..elements import ElementMaker, Memory

CLOSE = 0.99
"""A relation above this is not that of a forecast."""

SHARE = 0.1
"""Of the distance from 1 of a column's relation with its own element."""

LEAST_PAIRS = 100

KINDS = ("value", "change")


class LookAhead:
    """The check of one series.

    maker: makes the target from the columns of the ticks. horizon: elements from an element to its
    label.
    """

    def __init__(self, maker: ElementMaker, horizon: int) -> None:
        self.columns = maker.columns
        self.pairs = 0
        self._maker, self._horizon = maker, horizon
        self._memory = Memory.empty(len(self.columns))
        width = len(KINDS) * len(self.columns)
        self._last = np.full((1, len(self.columns)), np.nan)
        self._unlabelled = np.zeros((0, width + 1))
        self._origin: Float64s | None = None
        self._next, self._own = _Relations(width), _Relations(width)

    def push(self, ticks: Ticks) -> None:
        """Take a block of ticks; those that make no element are left out."""
        good = np.ones(len(ticks.values), np.bool_)

        def refused(index: int, _: str) -> None:
            good[index] = False

        made = self._maker.make(self._memory, ticks.t_ns, ticks.values, refused)
        target = np.concatenate([np.zeros(0), *(elements[:, 0] for _, elements in made)])
        values = ticks.values[good]
        changes = np.diff(values, axis=0, prepend=self._last)
        if not len(target):
            self._last = values[-1:] if len(values) else self._last
            return
        self._last = values[-1:]
        rows = np.column_stack([values, changes])[-len(target) :]
        if self._origin is None:
            self._origin = np.nan_to_num(rows[0])
        both = np.concatenate([self._unlabelled, np.column_stack([rows, target])])
        columns, own, ahead = both[:, :-1], both[:, -1], both[self._horizon :, -1]
        columns, own = columns[: len(ahead)], own[: len(ahead)]
        whole = np.isfinite(columns).all(axis=1)  # the first tick has no change
        columns, own, ahead = columns[whole], own[whole], ahead[whole]
        self.pairs += len(columns)
        self._next.add(columns - self._origin, columns > 0, ahead)
        self._own.add(columns - self._origin, columns > 0, own)
        self._unlabelled = both[-self._horizon :]

    def found(self) -> list[dict[str, Any]]:
        """Return the columns that contain the label, each with the closest relation.

        `kind` is `value` or `change`, `relation` is `correlation` or `sign`, `next` and `own` are
        its sizes with the labelled and with the column's own element, 0 to 1.
        """
        out: dict[str, dict[str, Any]] = {}
        for relation in ("correlation", "sign") if self.pairs >= LEAST_PAIRS else ():
            ahead, own = (getattr(r, relation)() for r in (self._next, self._own))
            short = 1.0 - ahead
            close = (short < 1.0 - CLOSE) & (short < SHARE * (1.0 - own))
            if relation == "sign":  # a constant agrees with a rare sign as often
                close &= short < SHARE * self._next.rarer()
            for k in np.flatnonzero(close).tolist():
                kind, column = divmod(k, len(self.columns))
                name = self.columns[column]
                sizes = {"next": float(ahead[k]), "own": float(own[k])}
                found = {"column": name, "kind": KINDS[kind], "relation": relation, **sizes}
                out.setdefault(name, found)
        return list(out.values())


class _Relations:
    """Sums over pairs of K columns and one target."""

    def __init__(self, width: int) -> None:
        self._n = self._positive = 0
        self._x, self._xx, self._xy, self._same = np.zeros((4, width))
        self._y = self._yy = 0.0

    def add(self, x: Float64s, positive: Bools, y: Float64s) -> None:
        """Take columns x (m, K), which of them are positive, and targets y (m,)."""
        self._n += len(y)
        self._x += x.sum(axis=0)
        self._xx += (x * x).sum(axis=0)
        self._xy += x.T @ y
        self._y += float(y.sum())
        self._yy += float(y @ y)
        self._same += (positive == (y > 0)[:, None]).sum(axis=0)
        self._positive += int((y > 0).sum())

    def correlation(self) -> Float64s:
        """Return |r| (K,), 0 for a constant."""
        n = max(self._n, 1)
        covariance = self._xy - self._x * self._y / n
        variances = np.maximum(self._xx - self._x**2 / n, 0.0) * max(
            self._yy - self._y**2 / n, 0.0
        )
        return np.clip(
            np.abs(covariance) / np.sqrt(np.where(variances > 0, variances, np.inf)), 0.0, 1.0
        )

    def sign(self) -> Float64s:
        """Return how often (K,) the signs agree, or disagree if that is more often."""
        share = self._same / max(self._n, 1)
        return np.maximum(share, 1.0 - share)

    def rarer(self) -> float:
        """Return the share of the rarer sign of the target."""
        return min(self._positive, self._n - self._positive) / max(self._n, 1)
