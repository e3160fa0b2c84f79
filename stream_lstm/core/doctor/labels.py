"""Checks of the labels: how many, of what kind, in which rows, and what already knows them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...config import Config
from ...events import Ticks
from ...typing import Bools
from ..elements import ElementMaker
from ..evidence import labels_needed
from ..expressions import Column
from ..proofs.look_ahead import Foreknowledge
from ..verdict import count
from .series import ExaminedSeries, Finding, Level, percent

RARE, SELDOM = 0.05, 0.2
"""Shares of the rarer class below which accuracy says nothing, or little."""

ZEROS = 0.2
"""A share of zeros in the target that is worth knowing."""


def label_balance(series: ExaminedSeries, config: Config) -> Finding:
    """Look at the share of each class, and of zeros in the target."""
    name, truth = "label_balance", series.truth(config)
    if not len(truth):
        return Finding(name, "fault", "there are no labels", "give more rows")
    positive = float(truth.mean())
    rarer, loss = min(positive, 1.0 - positive), entropy(positive)
    zeros = float((series.target == 0).mean()) if series.table.labels is None else 0.0
    figures = {"positive": positive, "zeros": zeros, "base_rate_log_loss": loss}
    told = f"{percent(positive)} of {count(len(truth), 'labels')} are 1"
    if zeros >= ZEROS:
        told += f"; the target is 0 in {percent(zeros)} of elements, which counts as not positive"
    if rarer == 0.0:
        return Finding(
            name, "fault", f"every label is {int(positive)}: there is nothing to tell apart",
            "the target is the first feature: take a difference or a return of it, such as "
            f"--feature 'diff({series.names[0]})'" if series.table.labels is None
            else "the label column holds one class only: name another, or set --threshold",
            figures,
        )  # fmt: skip
    told += f"; a constant has accuracy {1.0 - rarer:.3f} and log loss {loss:.4f}"
    level: Level = "ok" if rarer >= SELDOM and zeros < ZEROS else "note"
    if rarer < RARE:
        level = "warning"
    remedy = "" if level == "ok" else f"hold log loss against {loss:.4f}, not against ln 2"
    if zeros >= ZEROS:
        remedy += "; to ask for the direction alone, leave out the rows that change nothing"
    return Finding(name, level, told, remedy, figures)


def entropy(p: float) -> float:
    """Return the log loss in nats of always saying p where a share p is positive."""
    return -sum(q * math.log(q) for q in (p, 1.0 - p) if q > 0)


SHIFTS = 5
"""Elements by which a label column may be off and still be found."""

SURE = 0.98


def label_alignment(series: ExaminedSeries, config: Config) -> Finding:
    """Look whether a label column is the sign of the target, and of which element."""
    name, stream = "label_alignment", config.stream
    if series.table.labels is None:
        told = f"labels are the sign of the target {stream.horizon} ahead, taken from the series"
        return Finding(name, "ok", told)
    labels = series.table.labels[series.at]
    threshold = 0.5 if stream.threshold is None else stream.threshold
    known = np.isfinite(labels)
    agreement = {
        shift: _agreement(labels > threshold, known, series.target > 0, shift)
        for shift in range(-SHIFTS, SHIFTS + 1)
    }
    shift = max(agreement, key=lambda k: (abs(agreement[k] - 0.5), -abs(k)))
    share = agreement[shift]
    figures = {"shift": shift, "agreement": share, "by_shift": list(agreement.values())}
    if max(share, 1.0 - share) < SURE:
        told = (
            f"the labels are not the sign of the target, nor of one up to {SHIFTS} rows away (at "
            f"most {percent(max(share, 1 - share))}), so that their place cannot be judged"
        )
        return Finding(name, "ok", told, "", figures)
    if share < 0.5:
        told = (
            f"the labels are the other way round: {percent(1 - share)} are not the target's sign"
        )
        return Finding(name, "fault", told, "exchange 0 and 1 in the label column", figures)
    if shift == 0:
        told = f"the label in a row is the sign of that row's target ({percent(share)} alike)"
        return Finding(name, "ok", told, "", figures)
    return _off(name, shift, share, stream.horizon, figures)


def _off(name: str, shift: int, share: float, horizon: int, figures: dict[str, Any]) -> Finding:
    far, where = abs(shift), "after" if shift > 0 else "before"
    told = (
        f"labels stand {count(far, 'rows')} {'early' if shift > 0 else 'late'}: the one in a row "
        f"is the sign of the target {count(far, 'elements')} {where} it ({percent(share)} alike), "
        f"so that the prediction after element n is scored on element n + {horizon + shift}"
    )
    if horizon + shift <= 0:
        told += ", which it has seen"
    if shift > 0 and horizon >= shift:
        remedy = f"--horizon {horizon - shift} --label-delay {shift}"
    elif shift > 0:
        remedy = f"move the label column {count(shift, 'rows')} down"
    else:
        remedy = f"--horizon {horizon - shift}"
    told_remedy = f"{remedy}, so that it is scored on element n + {horizon}"
    return Finding(name, "fault", told, told_remedy, figures)


def _agreement(label: Bools, known: Bools, sign: Bools, shift: int) -> float:
    """Return how often label i is the sign of element i + shift."""
    at = np.flatnonzero(known)
    at = at[(at + shift >= 0) & (at + shift < len(sign))]
    return float((label[at] == sign[at + shift]).mean()) if len(at) >= 100 else 0.5


LOOKED_AT = 200_000
"""Rows in which it is looked for what knows the label."""

MAX_COLUMNS = 64
"""Columns of a file that are looked at."""


def look_ahead(series: ExaminedSeries, config: Config) -> Finding:
    """Look for columns that know the label, and for features that know the next row."""
    name, table = "look_ahead", series.table
    knowing = [one for one in _knowing(series, config) if one["column"] != ""]
    used = [one for one in knowing if one["column"] in series.used]
    early = _early_features(series)
    figures = {"columns": knowing, "features": early}
    told = [
        f"the column {one['column']!r} knows the label ({one['relation']} of its {one['kind']} "
        f"with the label's element {one['next']:.4f}, with its own {one['own']:.4f})"
        for one in used or knowing
    ] + [
        f"the feature {one['feature']} is the next row's change of {one['column']!r} "
        f"({one['relation']} {one['next']:.4f}, with its own row's {one['own']:.4f})"
        for one in early
    ]
    if used:
        remedy = (
            "leave it out, or move it down to the row in which it is known: --feature 'lag(x)'"
        )
        return Finding(name, "fault", "; ".join(told), remedy, figures)
    if early:
        remedy = (
            "if it was shifted by hand it stands a row early, and what is predicted lies one "
            f"further ahead: --feature 'diff({Column(early[0]['column'])})' needs no shifting"
        )
        return Finding(name, "warning", "; ".join(told), remedy, figures)
    if knowing:
        remedy = "no feature uses it; leave it so"
        return Finding(name, "note", "; ".join(told), remedy, figures)
    whole = count(len(table.columns), "columns")
    return Finding(name, "ok", f"of {whole} none knows the label before it is there", "", figures)


def _knowing(series: ExaminedSeries, config: Config) -> list[dict[str, Any]]:
    table, horizon = series.table, max(config.stream.horizon, 1)
    columns, values, features = table.columns, table.values[:LOOKED_AT], config.stream.features
    whole = [k for k in range(len(columns)) if np.isfinite(values[:, k]).all()][:MAX_COLUMNS]
    columns, values = tuple(columns[k] for k in whole), values[:, whole]
    if table.labels is not None:
        labels = table.labels[:LOOKED_AT]
        if not np.isfinite(labels).all():
            return []
        threshold = 0.5 if config.stream.threshold is None else config.stream.threshold
        columns, features = (*columns, LABEL), (str(Column(LABEL)),)
        values = np.column_stack([values, labels - threshold])
    check = Foreknowledge(ElementMaker(features, columns), horizon)
    times = np.zeros(len(values), np.int64) if table.t_ns is None else table.t_ns[:LOOKED_AT]
    check.push(Ticks("", times, values))
    return [one for one in check.found() if one["column"] != LABEL]


LABEL = "the label"


def _early_features(series: ExaminedSeries) -> list[dict[str, Any]]:
    """Return the features that are the next row's change of a column.

    Only a column as it is can be: whatever is computed here comes from the row and those before.
    The next row's value of a column proves nothing, as where an open is the close before it.
    """
    columns, values = series.table.columns, series.table.values[:LOOKED_AT]
    plain = [name for name in columns if str(Column(name)) in series.names]
    if not plain:
        return []
    found, own = [], [columns.index(name) for name in plain]
    times = np.zeros(len(values), np.int64)
    for k, column in enumerate(columns[:MAX_COLUMNS]):
        if not np.isfinite(values[:, k]).all():
            continue
        ticks = Ticks("", times, np.column_stack([values[:, own], values[:, k]]))
        maker = ElementMaker((f"diff({Column(NEXT)})",), (*plain, NEXT))
        check = Foreknowledge(maker, 1)
        check.push(ticks)
        found += [
            one | {"feature": str(Column(one["column"])), "column": column}
            for one in check.found()
            if one["kind"] == "value" and one["column"] in plain
        ]
    return found


NEXT = "the next row"


def windows_of(elements: int, config: Config) -> int:
    """Return how many predictions of that many elements have a label of the series."""
    stream = config.stream
    return max(0, (elements - stream.window - stream.horizon) // stream.stride + 1)


def labels_of(series: ExaminedSeries, config: Config) -> int:
    """Return how many predictions have a label, where it is not missing."""
    stream, windows = config.stream, windows_of(len(series.elements), config)
    if series.table.labels is None:
        return windows
    first = stream.window + stream.horizon - 1
    due = series.table.labels[series.at][first :: stream.stride]
    return int(np.isfinite(due).sum())


COUNTING = "there are (elements - window - horizon) // stride + 1 with a label"


def window_count(elements: int, config: Config, counted: int | None) -> Finding:
    """Hold the number of windows that somebody counted against what the stride gives."""
    name, stream = "window_count", config.stream
    labels = windows_of(elements, config)
    told = (
        f"windows of {stream.window:,} every {stream.stride:,} of {elements:,} elements are "
        f"{labels:,} with a label {stream.horizon:,} ahead"
    )
    figures: dict[str, Any] = {"elements": elements, "windows": labels, "counted": counted}
    if not labels:
        need = stream.window + stream.horizon
        return Finding(
            name, "fault", told, f"give {need:,} elements or more, or a lower --window", figures
        )
    if counted is None or abs(counted - labels) <= 1:
        return Finding(name, "ok", told, "", figures)
    room = elements - stream.window - stream.horizon
    strides = [s for s in {room // max(counted - 1, 1), elements // max(counted, 1)} if s > 0]
    fits = [s for s in sorted(strides) if abs(room // s + 1 - counted) <= 1]
    figures["stride_of_counted"] = fits[0] if fits else None
    told += f", not {counted:,}" + (f", which a stride of {fits[0]:,} gives" if fits else "")
    remedy = f"--stride {fits[0]} for {counted:,}" if fits else COUNTING
    return Finding(name, "warning", told, remedy, figures)


def label_count(labels: int, config: Config, elements: int, accuracy: float) -> Finding:
    """Hold the number of labels against what an accuracy of that size needs to show."""
    needed = labels_needed(accuracy)
    standard = 0.5 / math.sqrt(labels) if labels else math.inf
    figures = {"labels": labels, "needed": needed, "accuracy": accuracy}
    told = (
        f"{count(labels, 'labels')}; to tell an accuracy of {accuracy:g} from 0.5 takes "
        f"{needed:,} (one-sided 5 %, power 80 %)"
    )
    if labels >= needed:
        return Finding("label_count", "ok", told, "", figures)
    stream = config.stream
    told += f"; theirs has a standard error of {standard:.3f}"
    room = elements - stream.window - stream.horizon
    stride = room // max(needed - 1, 1)
    rows = stream.window + stream.horizon + (needed - 1) * stream.stride
    more = f"{rows:,} elements at --stride {stream.stride}"
    remedy = f"--stride {stride}, or {more}" if stride >= 1 else f"give {more}"
    return Finding("label_count", "warning", told, remedy, figures)
