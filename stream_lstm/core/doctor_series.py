"""The series that is examined: its ticks, and the elements and labels that come of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..config import Config
from .elements import ElementMaker, Memory

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Whole = npt.NDArray[np.int64]


class Table(NamedTuple):
    """Rows as they were read: of all numeric columns, the used ones finite.

    `t_ns` is None where nobody said what their times are. `rows` are line or row numbers.
    """

    columns: tuple[str, ...]
    values: Doubles  # (m, C)
    t_ns: Whole | None  # (m,)
    rows: Whole  # (m,)
    labels: Doubles | None = None  # (m,), NaN where there is none


class Series(NamedTuple):
    """A table, and the elements that the features make of it."""

    table: Table
    names: tuple[str, ...]  # of the features
    used: tuple[str, ...]  # columns of the features
    elements: Floats  # (n, F)
    at: Whole  # (n,): the row of the table that each element comes from
    refused: tuple[str, ...]  # why rows made no element, the first few
    refusals: int

    @property
    def target(self) -> Floats:
        """The first feature, (n,)."""
        return self.elements[:, 0]

    def truth(self, config: Config) -> Bools:
        """Return the labels of the predictions after element 1, 2, ... as far as there are any.

        Those of a label column stand in the row of element n + horizon; a missing one is left out.
        """
        horizon = config.stream.horizon
        if self.table.labels is None:
            return self.target[horizon:] > 0
        labels = self.table.labels[self.at][horizon:]
        labels = labels[np.isfinite(labels)]
        threshold = config.stream.threshold
        return labels > (0.5 if threshold is None else threshold)


REASONS = 3
"""Reasons for refusals that are told."""


def series_of(features: Sequence[str], table: Table) -> Series:
    """Return the series of a table; raises what `ElementMaker` raises."""
    maker = ElementMaker(features, table.columns)
    good, made = np.ones(len(table.values), bool), []
    reasons: list[str] = []

    def refused(index: int, reason: str) -> None:
        good[index] = False
        if len(reasons) < REASONS:
            reasons.append(f"row {table.rows[index]:,}: {reason}")

    times = np.zeros(len(table.values), np.int64) if table.t_ns is None else table.t_ns
    memory = Memory.empty(len(table.columns))
    for _, elements in maker.make(memory, times, table.values, refused):
        made.append(elements)
    lag = maker.features.lag
    elements = np.concatenate(made) if made else np.zeros((0, len(maker)), np.float32)
    at = np.flatnonzero(good)[lag:]
    names, used = maker.features.names, maker.features.columns_used
    return Series(table, names, used, elements, at, tuple(reasons), int((~good).sum()))
