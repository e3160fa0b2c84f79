"""The series that the doctor examines, and what a check returns.

A `TickTable` contains rows as they were read; an `ExaminedSeries` adds the elements that the
features make of them. A check returns a `Finding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import msgspec
import numpy as np

from ...config import Config
from ...typing import Bools, Float32s, Float64s, Int64s
from ..elements import ElementMaker, Memory

Level: TypeAlias = Literal["ok", "note", "warning", "fault"]

LEVELS: tuple[Level, ...] = get_args(Level)
"""From good to bad. A fault is enough to keep a loss from moving, a warning may be the reason or
spoil the scores, a note is worth knowing."""

MAX_REASONS = 3
"""Reasons for refused rows that are kept."""


class Finding(msgspec.Struct, frozen=True):
    """The result of a check: `evidence` is a sentence with numbers, `remedy` what to do, or "".

    `figures` are the numbers again, as JSON values.
    """

    name: str
    level: Level
    evidence: str
    remedy: str = ""
    figures: dict[str, Any] = {}


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Return the findings with faults first, otherwise in their order."""
    return sorted(findings, key=lambda finding: -LEVELS.index(finding.level))


def percent(share: float) -> str:
    """Return a share with its unit: 12.3 %, 0.04 %."""
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    digits = ".1f" if 0.001 <= share <= 0.999 else ".2g" if share < 0.001 else ".4g"
    return f"{100 * share:{digits}} %"


class TickTable(NamedTuple):
    """Rows of all numeric columns, those that features use finite; `rows` are line numbers."""

    columns: tuple[str, ...]
    values: Float64s  # (m, C)
    t_ns: Int64s | None  # (m,), None for a table without a column of times
    rows: Int64s  # (m,)
    labels: Float64s | None = None  # (m,), NaN for a missing label

    @property
    def times(self) -> Int64s:
        """The times (m,), zeros for a table without times."""
        return np.zeros(len(self.values), np.int64) if self.t_ns is None else self.t_ns


class ExaminedSeries(NamedTuple):
    """A table, and the elements that the features make of it."""

    table: TickTable
    names: tuple[str, ...]  # of the features
    used: tuple[str, ...]  # columns of the features
    elements: Float32s  # (n, F)
    at: Int64s  # (n,): the row of the table that each element comes from
    refused: tuple[str, ...]  # why rows made no element, the first few
    refusals: int

    @property
    def target(self) -> Float32s:
        """The first feature, (n,)."""
        return self.elements[:, 0]

    def labels(self, config: Config) -> Bools:
        """Return the labels of the predictions after elements 1, 2, ..., without missing ones.

        A label column has the label of the prediction after element n in the row of element
        n + horizon.
        """
        horizon = config.stream.horizon
        if self.table.labels is None:
            return self.target[horizon:] > 0
        labels = self.table.labels[self.at][horizon:]
        return labels[np.isfinite(labels)] > threshold(config)


def threshold(config: Config) -> float:
    """Return the value above which a number in a label column is a 1."""
    return 0.5 if config.stream.threshold is None else config.stream.threshold


def series_of(features: Sequence[str], table: TickTable) -> ExaminedSeries:
    """Return the series of a table; raises what `ElementMaker` raises."""
    maker = ElementMaker(features, table.columns)
    good = np.ones(len(table.values), bool)
    reasons: list[str] = []

    def refused(index: int, reason: str) -> None:
        good[index] = False
        if len(reasons) < MAX_REASONS:
            reasons.append(f"row {table.rows[index]:,}: {reason}")

    memory = Memory.empty(len(table.columns))
    made = [part for _, part in maker.make(memory, table.times, table.values, refused)]
    elements = np.concatenate([np.zeros((0, len(maker)), np.float32), *made])
    names, used = maker.features.names, maker.features.columns_used
    at = np.flatnonzero(good)[maker.features.lag :]
    return ExaminedSeries(table, names, used, elements, at, tuple(reasons), int((~good).sum()))
