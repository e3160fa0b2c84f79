"""Checks of the rows themselves: what cannot be used, times, gaps, crossed quotes.

Checks of what the network sees: its scale, and whether there is anything in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...config import Config
from ...model.forecaster import network_shape
from ...model.network import init_weights, seed_key
from ...model.probe import activity, scaled_inputs
from ...typing import Float32s
from ..verdict import count
from .series import ExaminedSeries, Finding, Level, TickTable, percent, worst

LOOKED_AT = 20_000
"""Elements whose scaling is followed."""

WALK = 2_000
"""Elements along which a network is watched."""

FAINT, DIM = 0.01, 0.1
"""Standard deviations of an input below which a network does not see it, or hardly does."""

LOUD, DEAFENING = 30.0, 100.0
"""Root mean squares above which gates are full open or shut at most elements."""

BLIND = 1e-3
"""Standard deviation of an untrained network's logits below which it is blind to its inputs."""

CUT = 0.2
"""A share of values at the limit of the scaler above which their size is lost."""


class SeenInputs(NamedTuple):
    """A feature as it comes and as the network sees it, `cut` being the share at the limit."""

    name: str
    raw_sd: float
    raw_mean: float
    sd: float
    rms: float
    cut: float


def input_scale(series: ExaminedSeries, config: Config) -> Finding:
    """Hold the inputs against what an LSTM can see, raw and as they are scaled."""
    name = "input_scale"
    if len(series.elements) < 2:
        return Finding(name, "ok", "there are too few elements to tell")
    elements = series.elements[:LOOKED_AT]
    scaled = seen_inputs(elements, config)
    features = [
        _seen(feature, elements[:, k], scaled[:, k], config)
        for k, feature in enumerate(series.names)
    ]
    raw_spread, spread = (logit_spread(part[-WALK:], config) for part in (elements, scaled))
    figures = {
        "features": [one._asdict() for one in features],
        "logit_sd_raw": raw_spread,
        "logit_sd": spread,
    }
    judged = [(_judge(one), one) for one in features if one.raw_sd > 0]
    level = worst(*(level for level, _ in judged))
    shown = next((one for found, one in judged if found == level), features[0])
    hidden = config.model.hidden
    told = (
        f"{shown.name} has a s.d. of {shown.raw_sd:.2g}, and the network sees {shown.sd:.2g} "
        f"(scaling={config.scaling.scaling}); logits of an untrained LSTM({hidden}) vary by "
        f"{raw_spread:.1g} on raw inputs and by {spread:.2g} on these"
    )
    if shown.cut >= CUT:
        told += f"; {percent(shown.cut)} of its values are cut at {config.scaling.clip:g} s.d."
    return Finding(name, level, told, _scale_remedy(level, shown, raw_spread, config), figures)


def seen_inputs(elements: Float32s, config: Config, start: Any = None) -> Float32s:
    """Return what the network sees of elements (K, F), the scaler's state before them `start`."""
    return scaled_inputs(config.scaling, elements, start)


def logit_spread(inputs: Float32s, config: Config) -> float:
    """Return the standard deviation of an untrained network's logits along inputs (K, F)."""
    shape = network_shape(config.model, inputs.shape[1])
    weights = init_weights(shape, key=seed_key(config.model.seed))
    walked = activity(shape, weights, inputs)
    return float(walked.logits[len(inputs) // 4 :].std())  # without the start from zero


def _seen(name: str, raw: Float32s, scaled: Float32s, config: Config) -> SeenInputs:
    settled = scaled[len(scaled) // 10 :].astype(np.float64)
    limit = config.scaling.clip * config.scaling.gain
    cut = 0.0
    if config.scaling.scaling != "none":
        cut = float((np.abs(settled) >= 0.999 * limit).mean())
    raw = raw.astype(np.float64)
    rms = float(np.sqrt(np.mean(settled**2)))
    return SeenInputs(name, float(raw.std()), float(raw.mean()), float(settled.std()), rms, cut)


def _judge(seen: SeenInputs) -> Level:
    if seen.sd < FAINT or seen.rms > DEAFENING:
        return "fault"
    if seen.sd < DIM or seen.rms > LOUD or seen.cut >= CUT:
        return "warning"
    return "note" if not FAINT <= seen.raw_sd <= LOUD else "ok"


def _scale_remedy(level: Level, seen: SeenInputs, raw_spread: float, config: Config) -> str:
    if level == "ok":
        return ""
    if level == "note":
        effect = "saturate its gates"
        if seen.raw_sd < FAINT:
            effect = (
                "alone keep a loss at ln 2" if raw_spread < BLIND else "go unseen beside others"
            )
        return (
            "nothing to do here; unscaled, as in a plain Keras or PyTorch model, such inputs "
            f"{effect}: divide them by their s.d. there"
        )
    if config.scaling.scaling == "none":
        return "--scaling sd"
    if seen.cut >= CUT or abs(seen.raw_mean) > 5 * seen.raw_sd:
        return (
            f"its mean is {abs(seen.raw_mean) / max(seen.raw_sd, 1e-300):.0f} s.d. from 0, and "
            f"nothing is centred: use --feature 'diff({seen.name})' or 'log_return({seen.name})', "
            "or --scaling zscore"
        )
    return "--gain 2 --clip 10, the defaults"


STRETCH = 0.1
"""A share of all elements for which a feature may be the same without being told of."""


def constant_inputs(series: ExaminedSeries) -> Finding:
    """Look for features that never change, or not for long."""
    name, elements = "constant_inputs", series.elements
    if not len(elements):
        return Finding(name, "fault", "there are no elements", "give more rows")
    figures: dict[str, Any] = {"features": []}
    constant, stretches = [], []
    for k, feature in enumerate(series.names):
        length, start = longest_run(elements[:, k])
        zeros = float((elements[:, k] == 0).mean())
        row = int(series.table.rows[series.at[start]])
        one = {"name": feature, "zeros": zeros, "longest_run": length, "row": row}
        figures["features"].append(one)
        if length == len(elements):
            constant.append(f"{feature} is always {elements[0, k]:g}")
        elif length > STRETCH * len(elements) or zeros > 0.99:
            stretches.append(
                f"{feature} is {elements[start, k]:g} for {count(length, 'elements')} on end "
                f"from row {row:,}, and 0 in {percent(zeros)} of all"
            )
    if constant:
        level: Level = (
            "fault"
            if len(np.unique(series.target[:1000])) == 1
            and ((series.target == series.target[0]).all())
            else "warning"
        )
        return Finding(
            name, level, "; ".join(constant),
            "leave it out, or look into why it never changes: a constant scales to 0 and says "
            "nothing", figures,
        )  # fmt: skip
    if stretches:
        return Finding(
            name, "note", "; ".join(stretches),
            "see whether the feed stood still there; a feature that does not change scales to 0",
            figures,
        )  # fmt: skip
    return Finding(
        name, "ok", f"each of {count(len(series.names), 'features')} changes", "", figures
    )


def longest_run(values: Float32s) -> tuple[int, int]:
    """Return (length, start) of the longest run of equal values (n,), n >= 1."""
    edges = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]]))
    lengths = np.diff(edges)
    at = int(lengths.argmax())
    return int(lengths[at]), int(edges[at])


NS_PER_S = 1e9

MANY = 0.01
"""A share of rows from which on what is wrong with them is no accident."""

GRID = 0.8
"""Share of intervals that are the same in a series of regular times."""

LONG = 30
"""How many times as long as 99 in 100 of them an interval of irregular times is in a gap."""

OFTEN = 0.01
"""A share of all intervals above which gaps in regular times are not closing hours."""

CROSSED = 0.001
"""A share of crossed quotes that is no accident."""

DOUBLE = 0.2
"""A share of repeated rows that is not that of trades alike at one time."""

HOUR_S = 3600


def unusable_rows(series: ExaminedSeries, left_out: int, first: Sequence[str]) -> Finding:
    """Look at rows that could not be read (`left_out`, and why) or that made no element."""
    bad, whole = left_out + series.refusals, left_out + len(series.table.values)
    figures = {"rows": whole, "unusable": bad}
    if not bad:
        return Finding(
            "unusable_rows", "ok", f"all {count(whole, 'rows')} can be used", "", figures
        )
    share = bad / whole
    level: Level = "fault" if share > 0.5 else "warning" if share >= MANY else "note"
    told = "; ".join([*first, *series.refused][:2])
    return Finding(
        "unusable_rows",
        level,
        f"{bad:,} of {count(whole, 'rows')} ({percent(share)}) cannot be used: {told}",
        "mend these rows or leave them out; replay stops at the first without --on-bad-row skip",
        figures,
    )


def time_order(table: TickTable) -> Finding:
    """Look for times that go back."""
    name = "time_order"
    if table.t_ns is None:
        return Finding(
            name,
            "note",
            "not looked at: no column of times was found",
            "name it with --time COLUMN; without one, see to it that the oldest row comes first",
        )
    steps = np.diff(table.t_ns)
    back = int((steps < 0).sum())
    figures = {"back": back, "intervals": len(steps)}
    if not back:
        return Finding(name, "ok", "times never go back", "", figures)
    at = int(np.argmax(steps < 0)) + 1
    if back > 0.5 * len(steps):
        return Finding(
            name,
            "fault",
            f"the newest row comes first: time goes back in {back:,} of {len(steps):,} intervals",
            "sort the rows by time, oldest first: as they are, the past is predicted from what "
            "came after it",
            figures,
        )
    return Finding(
        name,
        "fault" if back >= MANY * len(steps) else "warning",
        f"time goes back {count(back, 'times')} in {len(steps):,} intervals, first at row "
        f"{table.rows[at]:,} (by {_seconds(-steps[at - 1])})",
        _sorting(float(-steps[steps < 0].min()) / NS_PER_S, back),
        figures,
    )


def repeated_rows(table: TickTable) -> Finding:
    """Look for rows that are there twice, and for equal times."""
    name = "repeated_rows"
    if table.t_ns is None:
        return _no_times(name)
    same_time = np.diff(table.t_ns) == 0
    before, after = table.values[:-1], table.values[1:]
    equal = (before == after) | (np.isnan(before) & np.isnan(after))
    twice = int((same_time & equal.all(axis=1)).sum())
    together, whole = int(same_time.sum()), max(len(same_time), 1)
    figures = {"repeated": twice, "equal_times": together, "intervals": len(same_time)}
    if twice >= DOUBLE * whole:
        return Finding(
            name,
            "warning",
            f"{twice:,} rows ({percent(twice / whole)}) repeat time and values of the row before",
            "leave repeated rows out: each makes one more element, a return of 0 and a label of 0",
            figures,
        )
    if together:
        return Finding(
            name,
            "note",
            f"{together:,} rows ({percent(together / whole)}) have the time of the row before, "
            f"{twice:,} of them with the same values",
            "nothing to do where these came one by one, in this order, such as trades; leave out "
            "what was written twice",
            figures,
        )
    return Finding(name, "ok", "no two neighbouring rows have the same time", "", figures)


def time_gaps(table: TickTable) -> Finding:
    """Look for missing stretches: of regular times any, of irregular ones the very long."""
    name = "gaps"
    if table.t_ns is None:
        return _no_times(name)
    steps = np.diff(table.t_ns)
    steps = steps[steps > 0]
    if len(steps) < 2:
        return Finding(name, "ok", "there are too few times to see a gap in them")
    usual = float(np.median(steps))
    regular = float((np.abs(steps - usual) <= 0.01 * usual).mean()) >= GRID
    gaps = steps > (1.5 * usual if regular else LONG * float(np.quantile(steps, 0.99)))
    missed = float((np.round(steps[gaps] / usual) - 1).sum()) if regular else 0.0
    figures = {
        "gaps": int(gaps.sum()),
        "usual_s": usual / NS_PER_S,
        "longest_s": float(steps.max()) / NS_PER_S,
        "regular": regular,
        "missed": int(missed),
    }
    if not gaps.any():
        longest = f"the longest {_seconds(steps.max())}"
        return Finding(name, "ok", f"no gaps: {_usual(usual)}, {longest}", "", figures)
    at = int(np.flatnonzero(np.diff(table.t_ns) == steps.max())[0]) + 1
    often = regular and gaps.sum() > OFTEN * len(steps)
    rows = f", {missed:,.0f} rows missing" if regular else ""
    return Finding(
        name,
        "warning" if often else "note",
        f"{count(int(gaps.sum()), 'gaps')}{rows}: {_usual(usual)}, and the longest interval is "
        f"{_seconds(steps.max())} (before row {table.rows[at]:,})",
        "a difference or a return over a gap is one like any other to the network: add the "
        "feature 'log1p(elapsed())' (with --time), which shows it, or fill the rows in",
        figures,
    )


def _sorting(back_s: float, times: int) -> str:
    told = "sort the rows by time, oldest first: a row in the wrong place shows what came after it"
    if times == 1 and back_s <= HOUR_S:
        told += "; if these are local times, clocks were put back there: write them in UTC"
    return told


def _usual(step: float) -> str:
    return f"the median interval is {_seconds(step)}"


def _seconds(step: float) -> str:
    seconds = step / NS_PER_S
    return f"{seconds:,.0f} s" if seconds >= 1000 else f"{seconds:.4g} s"


def _no_times(name: str) -> Finding:
    return Finding(name, "ok", "not looked at: there are no times (--time COLUMN names them)")


SIZES = ("qty", "quantity", "size", "vol", "amount", "count", "num")
"""Parts of the names of columns that are no prices."""


def crossed_quotes(table: TickTable) -> Finding:
    """Look for asks below their bids, in columns that are called bid and ask."""
    name = "crossed_quotes"
    pairs = _quotes(table.columns)
    if not pairs:
        return Finding(name, "ok", "no columns are called bid and ask")
    bid, ask = pairs
    bids, asks = (table.values[:, table.columns.index(side)] for side in pairs)
    crossed = int((asks < bids).sum())
    share = crossed / max(len(bids), 1)
    figures = {"crossed": crossed, "rows": len(bids), "bid": bid, "ask": ask}
    if not crossed:
        return Finding(name, "ok", f"{ask} is never below {bid}", "", figures)
    told = f"{ask} is below {bid} in {crossed:,} of {count(len(bids), 'rows')} ({percent(share)})"
    if share > 0.5:
        remedy = f"the two columns are exchanged: {bid} holds the asks"
        return Finding(name, "fault", told, remedy, figures)
    return Finding(
        name,
        "warning" if share >= CROSSED else "note",
        told,
        f"such rows are stale on one side: leave them out, or use mid({bid}, {ask}) rather than "
        f"a spread or one side alone",
        figures,
    )


def _quotes(columns: Sequence[str]) -> tuple[str, str] | None:
    def prices(word: str) -> list[str]:
        found = [name for name in columns if word in name.lower()]
        return [name for name in found if not any(size in name.lower() for size in SIZES)]

    bids, asks = prices("bid"), prices("ask")
    return (bids[0], asks[0]) if bids and asks else None
