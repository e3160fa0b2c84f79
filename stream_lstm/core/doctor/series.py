"""The series that is examined: its ticks, and the elements and labels that come of them.

What a check has found, and how bad it is.
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
"""From good to bad. A fault is reason enough for a loss that stays where it is, a warning may be
or spoils the scores, and a note is worth knowing."""


class Finding(msgspec.Struct, frozen=True):
    """One check's answer: `evidence` is a sentence with numbers, `remedy` what to do, if anything.

    `figures` are the numbers again, fit for JSON.
    """

    name: str
    level: Level
    evidence: str
    remedy: str = ""
    figures: dict[str, Any] = {}


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Return the findings with faults first, otherwise in their order."""
    return sorted(findings, key=lambda finding: -LEVELS.index(finding.level))


def worst(*levels: Level) -> Level:
    """Return the worst of some levels, `ok` of none."""
    return max(levels, key=LEVELS.index, default="ok")


def percent(share: float) -> str:
    """Return a share as people read it: 12.3 %, 0.04 %."""
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    shown = f"{100 * share:.1f}" if 0.001 <= share <= 0.999 else f"{100 * share:.2g}"
    return f"{shown if share <= 0.999 else f'{100 * share:.4g}'} %"


class TickTable(NamedTuple):
    """Rows as they were read: of all numeric columns, the used ones finite.

    `t_ns` is None where nobody said what their times are. `rows` are line or row numbers.
    """

    columns: tuple[str, ...]
    values: Float64s  # (m, C)
    t_ns: Int64s | None  # (m,)
    rows: Int64s  # (m,)
    labels: Float64s | None = None  # (m,), NaN where there is none


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


def series_of(features: Sequence[str], table: TickTable) -> ExaminedSeries:
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
    return ExaminedSeries(table, names, used, elements, at, tuple(reasons), int((~good).sum()))
