"""Checks of the labels: their number, classes and rows, and columns that already contain them."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from ...config import Config
from ...events import Ticks
from ...quoting import count
from ...typing import Bools
from ..elements import ElementMaker
from ..evidence import labels_needed
from ..expressions import Column, columns_of
from ..proofs.causality import LookAhead
from ..stateful import maker_of
from .inputs import ExaminedSeries, Finding, percent, threshold

RARE, SELDOM = 0.05, 0.2
"""Shares of the rarer class below which accuracy means nothing, or little."""

ZEROS = 0.2
"""Share of zeros in the target that is worth knowing."""

MAX_SHIFT = 5
"""Elements by which a label column may be shifted and still be recognised."""

SURE = 0.98
"""Share of equal signs above which labels are those of a shift."""

LEAST_PAIRS = 100

MAX_ROWS = 200_000
"""Rows in which columns that contain the label are searched for."""

MAX_COLUMNS = 64
"""Columns of a file that are checked."""

LABEL, NEXT = "the label", "the next row"
"""Names of added columns, which no file has."""


def label_balance(series: ExaminedSeries, config: Config) -> Finding:
    """Check the share of each class, and of zeros in the target."""
    name, labels = "label_balance", series.labels(config)
    if not len(labels):
        return Finding(name, "fault", "there are no labels", "give more rows")
    from_series = series.table.labels is None
    positive = float(labels.mean())
    rarer, loss = min(positive, 1.0 - positive), entropy(positive)
    zeros = float((series.target == 0).mean()) if from_series else 0.0
    figures = {"positive": positive, "zeros": zeros, "base_rate_log_loss": loss}
    if rarer == 0.0:
        evidence = f"every label is {int(positive)}: there are no two classes to distinguish"
        change = "set" if config.stream.threshold is None else "change"
        remedy = f"the label column has one class only: name another, or {change} --threshold"
        if from_series and np.ptp(series.target) == 0:
            remedy = "the target never changes: name another first feature"
        elif from_series:
            remedy = (
                "the target is the first feature: take a difference or a return of it, such as "
                f"--feature 'diff({series.names[0]})'"
            )
        return Finding(name, "fault", evidence, remedy, figures)
    evidence = f"{percent(positive)} of {count(len(labels), 'labels')} are 1"
    if zeros >= ZEROS:
        evidence += (
            f"; the target is 0 in {percent(zeros)} of elements, which counts as not positive"
        )
    evidence += f"; a constant has accuracy {1.0 - rarer:.3f} and log loss {loss:.4f}"
    if rarer >= SELDOM and zeros < ZEROS:
        return Finding(name, "ok", evidence, "", figures)
    remedy = f"compare log loss with {loss:.4f}, not with ln 2"
    if zeros >= ZEROS:
        remedy += "; to predict the direction only, remove the rows that change nothing"
    return Finding(name, "warning" if rarer < RARE else "note", evidence, remedy, figures)


def entropy(p: float) -> float:
    """Return the log loss in nats of a constant forecast p if a share p is positive."""
    return -sum(q * math.log(q) for q in (p, 1.0 - p) if q > 0)


def label_alignment(series: ExaminedSeries, config: Config) -> Finding:
    """Check whether a label column is the sign of the target, and of which element."""
    name, horizon = "label_alignment", config.stream.horizon
    if series.table.labels is None:
        evidence = f"labels are the sign of the target {horizon} ahead, taken from the series"
        return Finding(name, "ok", evidence)
    column = series.table.labels[series.at]
    labels, known = column > threshold(config), np.flatnonzero(np.isfinite(column))
    agreement = {
        shift: _agreement(labels, known, series.target > 0, shift)
        for shift in range(-MAX_SHIFT, MAX_SHIFT + 1)
    }
    shift = max(agreement, key=lambda k: (abs(agreement[k] - 0.5), -abs(k)))
    share = agreement[shift]
    figures = {"shift": shift, "agreement": share, "by_shift": list(agreement.values())}
    if max(share, 1.0 - share) < SURE:
        evidence = (
            "their alignment cannot be judged: the labels are not the sign of the target, nor of "
            f"one up to {MAX_SHIFT} rows away (at most {percent(max(share, 1 - share))})"
        )
        return Finding(name, "ok", evidence, "", figures)
    if share < 0.5:
        evidence = f"the labels are inverted: {percent(1 - share)} are not the target's sign"
        return Finding(name, "fault", evidence, "exchange 0 and 1 in the label column", figures)
    if shift == 0:
        evidence = f"the label in a row is the sign of that row's target ({percent(share)} equal)"
        return Finding(name, "ok", evidence, "", figures)
    distance, early = abs(shift), shift > 0
    evidence = (
        f"labels are {count(distance, 'rows')} {'early' if early else 'late'}: the label in a row "
        f"is the sign of the target {count(distance, 'elements')} "
        f"{'after' if early else 'before'} it ({percent(share)} equal), so the prediction after "
        f"element n is scored on element n + {horizon + shift}"
    )
    if horizon + shift <= 0:
        evidence += ", which it has seen"
    remedy = f"--horizon {horizon - shift}"
    if early and horizon >= shift:
        remedy += f" --label-delay {shift}"
    elif early:
        remedy = f"move the label column {count(shift, 'rows')} down"
    remedy += f", so that it is scored on element n + {horizon}"
    return Finding(name, "fault", evidence, remedy, figures)


def _agreement(labels: Bools, known: Any, signs: Bools, shift: int) -> float:
    """Return how often label i is the sign of element i + shift; 0.5 for too few pairs."""
    at = known[(known + shift >= 0) & (known + shift < len(signs))]
    return float((labels[at] == signs[at + shift]).mean()) if len(at) >= LEAST_PAIRS else 0.5


# ---- look-ahead ------------------------------------------------------------------------------


def look_ahead(series: ExaminedSeries, config: Config) -> Finding:
    """Look for columns that contain the label, and for features that contain the next row."""
    name, table = "look_ahead", series.table
    revealing, early = _revealing(series, config), _early_features(series)
    used = [one for one in revealing if one["column"] in series.used]
    figures = {"columns": revealing, "features": early}
    found = [
        f"the column {one['column']!r} contains the label ({one['relation']} of its {one['kind']} "
        f"with the label's element {one['next']:.4f}, with its own {one['own']:.4f})"
        for one in used or revealing
    ] + [
        f"the feature {one['feature']} is the next row's change of {one['column']!r} "
        f"({one['relation']} {one['next']:.4f}, with its own row's {one['own']:.4f})"
        for one in early
    ]
    evidence = "; ".join(found)
    if used:
        remedy = "remove it, or move it down to the row in which it is known: --feature 'lag(x)'"
        return Finding(name, "fault", evidence, remedy, figures)
    if early:
        remedy = (
            "if you shifted it, it is one row early, and predictions are for one row further "
            f"ahead: --feature 'diff({Column(early[0]['column'])})' needs no shift"
        )
        return Finding(name, "warning", evidence, remedy, figures)
    if revealing:
        return Finding(name, "note", evidence, "no feature uses it; keep it so", figures)
    columns = count(len(table.columns), "columns")
    return Finding(name, "ok", f"of {columns} none contains the label in advance", "", figures)


def _revealing(series: ExaminedSeries, config: Config) -> list[dict[str, Any]]:
    """Return the columns that contain the label."""
    table, features = series.table, config.stream.features
    values = table.values[:MAX_ROWS]
    needed = np.array([name in series.used for name in table.columns])
    whole = np.flatnonzero(np.isfinite(values).all(axis=0) | needed)[:MAX_COLUMNS]
    columns, values = tuple(table.columns[k] for k in whole), values[:, whole]
    if table.labels is not None:
        labels = table.labels[:MAX_ROWS]
        if not np.isfinite(labels).all():
            return []
        columns, features = (*columns, LABEL), (str(Column(LABEL)),)
        values = np.column_stack([values, labels - threshold(config)])
    if not set(columns_of(features)) <= set(columns):
        return []  # a column with missing values
    stream = msgspec.structs.replace(config.stream, features=features, on_missing=())
    check = LookAhead(maker_of(stream, columns), max(config.stream.horizon, 1))
    check.push(Ticks("", table.times[:MAX_ROWS], values))
    return [one for one in check.found() if one["column"] != LABEL]


def _early_features(series: ExaminedSeries) -> list[dict[str, Any]]:
    """Return the features that are the next row's change of a column.

    Only a feature that is a bare column can be: all others are computed from the row and those
    before it. The next row's value of a column proves nothing: an open is often the close before.
    """
    columns, values = series.table.columns, series.table.values[:MAX_ROWS]
    bare = [name for name in columns if str(Column(name)) in series.names]
    if not bare:
        return []
    found, own = [], [columns.index(name) for name in bare]
    for k, column in enumerate(columns[:MAX_COLUMNS]):
        if not np.isfinite(values[:, k]).all():
            continue
        maker = ElementMaker((f"diff({Column(NEXT)})",), (*bare, NEXT))
        check = LookAhead(maker, 1)
        check.push(Ticks("", np.zeros(len(values), np.int64), values[:, [*own, k]]))
        found += [
            one | {"feature": str(Column(one["column"])), "column": column}
            for one in check.found()
            if one["kind"] == "value" and one["column"] in bare
        ]
    return found


# ---- counts ----------------------------------------------------------------------------------


def windows_of(elements: int, config: Config) -> int:
    """Return how many predictions over `elements` elements have a label of the series."""
    stream = config.stream
    return max(0, (elements - stream.window - stream.horizon) // stream.stride + 1)


def labels_of(series: ExaminedSeries, config: Config) -> int:
    """Return how many predictions have a label, without missing ones."""
    stream = config.stream
    if series.table.labels is None:
        return windows_of(len(series.elements), config)
    first = stream.window + stream.horizon - 1
    return int(np.isfinite(series.table.labels[series.at][first :: stream.stride]).sum())


def window_count(elements: int, config: Config, counted: int | None) -> Finding:
    """Compare a number of windows that the user counted with what the stride gives."""
    name, stream = "window_count", config.stream
    labels, room = windows_of(elements, config), elements - stream.window - stream.horizon
    evidence = (
        f"windows of {stream.window:,} every {stream.stride:,} of {elements:,} elements are "
        f"{labels:,} with a label {stream.horizon:,} ahead"
    )
    figures: dict[str, Any] = {"elements": elements, "windows": labels, "counted": counted}
    if not labels:
        need = stream.window + stream.horizon
        remedy = f"give {need:,} elements or more, or a lower --window"
        return Finding(name, "fault", evidence, remedy, figures)
    if counted is None or abs(counted - labels) <= 1:
        return Finding(name, "ok", evidence, "", figures)
    strides = sorted({room // max(counted - 1, 1), elements // max(counted, 1)} - {0})
    fits = [s for s in strides if s > 0 and abs(room // s + 1 - counted) <= 1]
    figures["stride_of_counted"] = fits[0] if fits else None
    evidence += f", not {counted:,}"
    remedy = "there are (elements - window - horizon) // stride + 1 with a label"
    if fits:
        evidence += f", which a stride of {fits[0]:,} gives"
        remedy = f"--stride {fits[0]} for {counted:,}"
    return Finding(name, "warning", evidence, remedy, figures)


def label_count(labels: int, config: Config, elements: int, accuracy: float) -> Finding:
    """Compare the number of labels with the number that shows an accuracy of that size."""
    name, stream, needed = "label_count", config.stream, labels_needed(accuracy)
    figures = {"labels": labels, "needed": needed, "accuracy": accuracy}
    evidence = (
        f"{count(labels, 'labels')}; to distinguish an accuracy of {accuracy:g} from 0.5 takes "
        f"{needed:,} (one-sided 5 %, power 80 %)"
    )
    if labels >= needed:
        return Finding(name, "ok", evidence, "", figures)
    error = 0.5 / math.sqrt(labels) if labels else math.inf
    evidence += f"; an accuracy from these labels has a standard error of {error:.3f}"
    stride = (elements - stream.window - stream.horizon) // max(needed - 1, 1)
    rows = stream.window + stream.horizon + (needed - 1) * stream.stride
    more = f"{rows:,} elements at --stride {stream.stride}"
    remedy = f"--stride {stride}, or {more}" if 1 <= stride < stream.stride else f"give {more}"
    return Finding(name, "warning", evidence, remedy, figures)
