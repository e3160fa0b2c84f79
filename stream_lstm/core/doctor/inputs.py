"""Checks of the rows (unusable rows, times, gaps, crossed quotes) and of the network's inputs.

The series that the doctor examines, and what a check returns.

A `TickTable` contains rows as they were read; an `ExaminedSeries` adds the elements that the
features make of them. A check returns a `Finding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import msgspec
import numpy as np

from ...config import Config
from ...model.engine import activity, scaled_inputs
from ...model.forecaster import network_shape
from ...model.network import init_weights, seed_key
from ...quoting import count
from ...reasons import Reasons
from ...schema import StreamConfig
from ...typing import Bools, Float32s, Float64s, Int64s
from ..expressions import Column, columns_of
from ..stateful import maker_of
from .advice import proposed

Level: TypeAlias = Literal["ok", "note", "warning", "fault"]

LEVELS: tuple[Level, ...] = get_args(Level)
"""From good to bad. A fault is enough to keep a loss from moving, a warning may be the reason or
spoil the scores, a note is worth knowing."""

MAX_REASONS = 3
"""Distinct reasons for unusable rows that are shown."""


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
    """Rows of all numeric columns; `rows` are line numbers.

    Those that features use are finite, or NaN where a policy of `on_missing` allows it.
    """

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
    refused: tuple[str, ...]  # the distinct reasons why rows made no element, with counts
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


def series_of(stream: StreamConfig, table: TickTable) -> ExaminedSeries:
    """Return the series of a table; raises what `ElementMaker` raises."""
    maker = maker_of(stream, table.columns)
    good = np.ones(len(table.values), bool)
    reasons = Reasons()

    def refused(index: int, reason: str) -> None:
        good[index] = False
        reasons.add(f"row {table.rows[index]:,}: {reason}")

    memory = maker.empty()
    made = [part for _, part in maker.make(memory, table.times, table.values, refused)]
    elements = np.concatenate([np.zeros((0, len(maker)), np.float32), *made])
    names, used = maker.features.names, maker.features.columns_used
    at = np.flatnonzero(good)
    at = at[len(at) - len(elements) :]
    why = tuple(reasons.told())
    return ExaminedSeries(table, names, used, elements, at, why, int((~good).sum()))


MAX_SCALED = 20_000
"""Elements that are scaled for the check."""

MAX_STEPPED = 2_000
"""Elements along which a network is stepped."""

FAINT, DIM = 0.01, 0.1
"""Standard deviations of an input that a network does not see, or hardly sees."""

LOUD, DEAFENING = 30.0, 100.0
"""Root mean squares above which gates are open or shut at many elements, or at most."""

BLIND = 1e-3
"""Standard deviation of an untrained network's logits below which it does not see its inputs."""

CUT = 0.2
"""Share of values at the scaler's limit above which their size is lost."""

SAME = 0.1
"""Share of all elements above which a run of equal values is reported."""

NS_PER_S = 1e9

MANY = 0.01
"""Share of rows above which a fault in them is not an accident."""

GRID = 0.8
"""Share of equal intervals in a series of regular times."""

LONG = 30
"""An interval of irregular times this many times as long as their 99 % quantile is in a gap."""

OFTEN = 0.01
"""Share of all intervals above which gaps in regular times are not closing hours."""

CROSSED = 0.001
"""Share of crossed quotes that is not an accident."""

DOUBLE = 0.2
"""Share of repeated rows above which they are not equal trades at one time."""

HOUR_S = 3600

MAX_SHOWN = 8
"""Columns with missing values that are named."""

SIZES = ("qty", "quantity", "size", "vol", "amount", "count", "num")
"""Parts of the names of columns that are not prices."""


class FeatureScale(NamedTuple):
    """A feature raw and as the network sees it; `cut` is the share at the scaler's limit."""

    name: str
    raw_sd: float
    raw_mean: float
    sd: float
    rms: float
    cut: float

    @property
    def level(self) -> Level:
        """How bad this scale is for an LSTM."""
        if self.sd < FAINT or self.rms > DEAFENING:
            return "fault"
        if self.sd < DIM or self.rms > LOUD or self.cut >= CUT:
            return "warning"
        return "ok" if FAINT <= self.raw_sd <= LOUD else "note"


# ---- what the network sees -------------------------------------------------------------------


def input_scale(series: ExaminedSeries, config: Config) -> Finding:
    """Compare the inputs, raw and scaled, with what an LSTM can see."""
    name = "input_scale"
    if len(series.elements) < 2:
        return Finding(name, "ok", "there are too few elements to judge")
    elements = series.elements[:MAX_SCALED]
    scaled = scaled_inputs(config.scaling, elements, None)
    features = [
        _scale(feature, elements[:, k].astype(np.float64), scaled[:, k], config)
        for k, feature in enumerate(series.names)
    ]
    raw_spread, spread = (_logit_sd(part[-MAX_STEPPED:], config) for part in (elements, scaled))
    moving = [one for one in features if one.raw_sd > 0]
    shown = max(moving, key=lambda one: LEVELS.index(one.level), default=features[0])
    level = shown.level if moving else "ok"
    evidence = (
        f"{shown.name} has a s.d. of {shown.raw_sd:.2g}, and the network sees {shown.sd:.2g} "
        f"(scaling={config.scaling.scaling}); logits of an untrained LSTM({config.model.hidden}) "
        f"vary by {raw_spread:.1g} on raw inputs and by {spread:.2g} on these"
    )
    if shown.cut >= CUT:
        evidence += f"; {percent(shown.cut)} of its values are cut at {config.scaling.clip:g} s.d."
    figures = {
        "features": [one._asdict() for one in features],
        "logit_sd_raw": raw_spread,
        "logit_sd": spread,
    }
    remedy = "" if level == "ok" else _scale_remedy(level, shown, raw_spread, config)
    return Finding(name, level, evidence, remedy, figures)


def _scale(name: str, raw: Float64s, scaled: Float32s, config: Config) -> FeatureScale:
    settled = scaled[len(scaled) // 10 :].astype(np.float64)
    limit = 0.999 * config.scaling.clip * config.scaling.gain
    cut = float((np.abs(settled) >= limit).mean()) if config.scaling.scaling != "none" else 0.0
    rms = float(np.sqrt(np.mean(settled**2)))
    return FeatureScale(name, float(raw.std()), float(raw.mean()), float(settled.std()), rms, cut)


def _logit_sd(inputs: Float32s, config: Config) -> float:
    """Return the standard deviation of an untrained network's logits along inputs (K, F)."""
    shape = network_shape(config.model, inputs.shape[1])
    weights = init_weights(shape, key=seed_key(config.model.seed))
    logits = activity(shape, weights, inputs).logits
    return float(logits[len(inputs) // 4 :].std())  # without the start from a zero state


def _scale_remedy(level: Level, seen: FeatureScale, raw_spread: float, config: Config) -> str:
    if level == "note":
        effect = "saturate its gates"
        if seen.raw_sd < FAINT:
            effect = "keep a loss at ln 2" if raw_spread < BLIND else "are not seen beside others"
        return (
            "nothing to do here; unscaled, as in a plain Keras or PyTorch model, such inputs "
            f"{effect}: divide them by their s.d. there"
        )
    if config.scaling.scaling == "none":
        return "--scaling sd"
    centered, far = config.scaling.scaling == "zscore", abs(seen.raw_mean) > 5 * seen.raw_sd
    if seen.cut >= CUT or far:
        why = "its level moves further than the scaler follows"
        if far and not centered:
            distance = abs(seen.raw_mean) / max(seen.raw_sd, 1e-300)
            why = f"its mean is {distance:.0f} s.d. from 0, and sd does not center it"
        center = "" if centered else ", or --scaling zscore"
        changes = f"use --feature 'diff({seen.name})' or 'log_return({seen.name})'"
        return f"{why}: {changes}{center}"
    if defaults := proposed(config, "--gain 2 --clip 10"):
        return f"{defaults}, the defaults"
    return "use a feature whose size changes less along the series, such as a return"


def constant_inputs(series: ExaminedSeries) -> Finding:
    """Look for features that never change, or not for long."""
    name, elements = "constant_inputs", series.elements
    if not len(elements):
        return Finding(name, "fault", "there are no elements", "give more rows")
    features: list[dict[str, Any]] = []
    constant, still = [], []
    for k, feature in enumerate(series.names):
        length, start = longest_run(elements[:, k])
        zeros, row = float((elements[:, k] == 0).mean()), int(series.table.rows[series.at[start]])
        features.append({"name": feature, "zeros": zeros, "longest_run": length, "row": row})
        if length == len(elements):
            constant.append(f"{feature} is always {elements[0, k]:g}")
        elif length > SAME * len(elements) or zeros > 0.99:
            still.append(
                f"{feature} is {elements[start, k]:g} for {count(length, 'elements')} in a row "
                f"from row {row:,}, and 0 in {percent(zeros)} of all"
            )
    figures = {"features": features}
    if constant:
        level: Level = "fault" if features[0]["longest_run"] == len(elements) else "warning"
        remedy = "leave it out, or find out why it never changes: a constant scales to 0"
        return Finding(name, level, "; ".join(constant), remedy, figures)
    if still:
        remedy = "check whether the feed stood still there; a constant feature scales to 0"
        return Finding(name, "note", "; ".join(still), remedy, figures)
    return Finding(name, "ok", f"each of {count(len(features), 'features')} changes", "", figures)


def longest_run(values: Float32s) -> tuple[int, int]:
    """Return (length, start) of the longest run of equal values (n,), n >= 1."""
    edges = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]]))
    lengths = np.diff(edges)
    at = int(lengths.argmax())
    return int(lengths[at]), int(edges[at])


# ---- rows ------------------------------------------------------------------------------------


def unusable_rows(series: ExaminedSeries, left_out: int, first: Sequence[str]) -> Finding:
    """Count rows that could not be read (`left_out`, for reasons `first`) or made no element."""
    name, bad = "unusable_rows", left_out + series.refusals
    rows = left_out + len(series.table.values)
    figures = {"rows": rows, "unusable": bad}
    if not bad:
        return Finding(name, "ok", f"all {count(rows, 'rows')} can be used", "", figures)
    share, reasons = bad / rows, [*first, *series.refused]
    told = "; ".join(reasons[:MAX_REASONS]) + "; ..." * (len(reasons) > MAX_REASONS)
    level: Level = "fault" if share > 0.5 else "warning" if share >= MANY else "note"
    evidence = f"{bad:,} of {count(rows, 'rows')} ({percent(share)}) cannot be used: {told}"
    remedy = "fix or remove these rows; replay stops at the first without --on-bad-row skip"
    return Finding(name, level, evidence, remedy, figures)


def missing_values(series: ExaminedSeries, policies: Sequence[str] = ()) -> Finding:
    """Name the share of missing values of each column; `policies` are those of `on_missing`."""
    name, table = "missing_values", series.table
    share = np.isnan(table.values).sum(0) / max(len(table.values), 1)
    shares = dict(zip(table.columns, share.tolist(), strict=True))
    some = sorted((column for column in shares if shares[column]), key=shares.__getitem__)[::-1]
    figures = {"shares": shares}
    if not some:
        return Finding(name, "ok", "no value is missing in the rows that were read", "", figures)
    evidence = ", ".join(f"{column} {percent(shares[column])}" for column in some[:MAX_SHOWN])
    used = [column for column in some if column in series.used]
    decided = {policy.partition("=")[0] for policy in policies}
    remedy = "" if used else "no feature uses them"
    if any(not decided & {column, "*"} for column in used):
        remedy = "--on-missing sets what features see instead"
    mostly = any(shares[column] > 0.5 for column in used)
    level: Level = "warning" if mostly else "note"
    more = ", ..." * (len(some) > MAX_SHOWN)
    return Finding(name, level, f"missing: {evidence}{more}", remedy, figures)


def time_order(table: TickTable, timed: bool = True) -> Finding:
    """Look for times that go back; `timed` is False if the user declined a column of times."""
    name = "time_order"
    if table.t_ns is None and not timed:
        return _without_times(name, timed)
    if table.t_ns is None:
        remedy = "name it with --time COLUMN; without one, make sure that the oldest row is first"
        return Finding(name, "note", "not checked: no column of times was found", remedy)
    steps = np.diff(table.t_ns)
    back = int((steps < 0).sum())
    figures = {"back": back, "intervals": len(steps)}
    if not back:
        return Finding(name, "ok", "times never go back", "", figures)
    if back > 0.5 * len(steps):
        evidence = (
            f"the newest row comes first: time goes back in {back:,} of {len(steps):,} intervals"
        )
        remedy = (
            "read them with --reverse, or sort them by time, oldest first: in this order the "
            "model predicts the past from the future"
        )
        return Finding(name, "fault", evidence, remedy, figures)
    at = int(np.argmax(steps < 0)) + 1
    evidence = (
        f"time goes back {count(back, 'times')} in {len(steps):,} intervals, first at row "
        f"{table.rows[at]:,} (by {_seconds(-steps[at - 1])})"
    )
    remedy = "sort the rows by time, oldest first: a misplaced row shows values of the future"
    if back == 1 and -steps.min() <= HOUR_S * NS_PER_S:
        remedy += "; if these are local times, clocks were put back there: write them in UTC"
    level: Level = "fault" if back >= MANY * len(steps) else "warning"
    return Finding(name, level, evidence, remedy, figures)


def repeated_rows(table: TickTable, timed: bool = True) -> Finding:
    """Look for repeated rows, and for equal times."""
    name = "repeated_rows"
    if table.t_ns is None:
        return _without_times(name, timed)
    same_time = np.diff(table.t_ns) == 0
    before, after = table.values[:-1], table.values[1:]
    equal: Bools = (before == after) | (np.isnan(before) & np.isnan(after))
    repeated, together = int((same_time & equal.all(axis=1)).sum()), int(same_time.sum())
    figures = {"repeated": repeated, "equal_times": together, "intervals": len(same_time)}
    if not together:
        return Finding(name, "ok", "no two neighbouring rows have the same time", "", figures)
    if repeated >= DOUBLE * len(same_time):
        share = percent(repeated / len(same_time))
        evidence = f"{repeated:,} rows ({share}) repeat time and values of the row before"
        remedy = "remove them: each makes one more element, a return of 0 and a label of 0"
        return Finding(name, "warning", evidence, remedy, figures)
    evidence = (
        f"{together:,} rows ({percent(together / len(same_time))}) have the time of the row "
        f"before, {repeated:,} of them with the same values"
    )
    remedy = "nothing to do if these are separate events such as trades; remove rows written twice"
    return Finding(name, "note", evidence, remedy, figures)


def time_gaps(table: TickTable, timed: bool = True, features: Sequence[str] = ()) -> Finding:
    """Look for missing periods: of regular times any, of irregular ones very long ones."""
    name = "gaps"
    if table.t_ns is None:
        return _without_times(name, timed)
    intervals = np.diff(table.t_ns)
    steps: Int64s = intervals[intervals > 0]
    if len(steps) < 2:
        return Finding(name, "ok", "there are too few times to find a gap")
    usual, longest = float(np.median(steps)), steps.max()
    regular = float((np.abs(steps - usual) <= 0.01 * usual).mean()) >= GRID
    gaps = steps > (1.5 * usual if regular else LONG * float(np.quantile(steps, 0.99)))
    missed = int((np.round(steps[gaps] / usual) - 1).sum()) if regular else 0
    figures = {
        "gaps": int(gaps.sum()),
        "usual_s": usual / NS_PER_S,
        "longest_s": float(longest) / NS_PER_S,
        "regular": regular,
        "missed": missed,
    }
    evidence = f"the median interval is {_seconds(usual)}"
    if not gaps.any():
        evidence = f"no gaps: {evidence}, the longest {_seconds(longest)}"
        return Finding(name, "ok", evidence, "", figures)
    row = table.rows[int(intervals.argmax()) + 1]
    evidence = (
        f"{count(int(gaps.sum()), 'gaps')}{f', {missed:,} rows missing' if regular else ''}: "
        f"{evidence}, and the longest interval is {_seconds(longest)} (before row {row:,})"
    )
    remedy = (
        "to the network a difference or a return over a gap looks like any other: add the feature "
        "'log1p(elapsed())', which shows it, or fill the rows in"
    )
    if any("elapsed()" in feature for feature in features):
        remedy = ""
    often = regular and gaps.sum() > OFTEN * len(steps)
    return Finding(name, "warning" if often else "note", evidence, remedy, figures)


def _seconds(step_ns: float) -> str:
    seconds = step_ns / NS_PER_S
    return f"{seconds:,.0f} s" if seconds >= 1000 else f"{seconds:.4g} s"


def _without_times(name: str, timed: bool) -> Finding:
    how = "--time COLUMN names them" if timed else "--time none"
    return Finding(name, "ok", f"not checked: there are no times ({how})")


def crossed_quotes(table: TickTable, features: Sequence[str] = ()) -> Finding:
    """Look for asks below their bids, in columns with bid and ask in their names."""
    name = "crossed_quotes"
    bid, ask = (_price_column(table.columns, word) for word in ("bid", "ask"))
    if bid is None or ask is None:
        return Finding(name, "ok", "no columns have bid and ask in their names")
    bids, asks = (table.values[:, table.columns.index(side)] for side in (bid, ask))
    crossed = int((asks < bids).sum())
    share = crossed / max(len(bids), 1)
    figures = {"crossed": crossed, "rows": len(bids), "bid": bid, "ask": ask}
    if not crossed:
        return Finding(name, "ok", f"{ask} is never below {bid}", "", figures)
    rows = count(len(bids), "rows")
    evidence = f"{ask} is below {bid} in {crossed:,} of {rows} ({percent(share)})"
    if share > 0.5:
        remedy = f"the two columns are exchanged: {bid} contains the asks"
        return Finding(name, "fault", evidence, remedy, figures)
    remedy, mid = (
        "such rows are stale on one side: remove them",
        f"mid({Column(bid)}, {Column(ask)})",
    )
    others = columns_of([feature.replace(mid, "x") for feature in features])
    if not features or {bid, ask} & set(others):
        remedy += f", or use {mid} instead of a spread or of one side"
    return Finding(name, "warning" if share >= CROSSED else "note", evidence, remedy, figures)


def _price_column(columns: Sequence[str], word: str) -> str | None:
    names = (name for name in columns if word in name.lower())
    return next((n for n in names if not any(size in n.lower() for size in SIZES)), None)
