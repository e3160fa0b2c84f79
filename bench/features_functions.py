"""Every function of features against pandas or plain NumPy on random rows with gaps.

The times are irregular, with equal ones and pauses, and 2 % of the values are missing. `absolute`
is the worst difference, `relative` the worst one over the larger of the value and its typical
size (the median magnitude of the reference). `missing` counts rows where only one of both has a
value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from stream_lstm.core.expressions import parse
from stream_lstm.core.functions import FUNCTIONS, expand
from stream_lstm.core.machine import StatefulFeatures

COLUMNS = ("x", "y", "bid", "ask", "v", "w")

SEED = 3
MISSING = 0.02
OTHER = "b"

Frame: TypeAlias = pd.DataFrame
Reference: TypeAlias = Callable[[Frame], Any]


def frame(rows: int) -> Frame:
    """Return random columns by time: x, y, a bid and an ask on a grid, two sizes."""
    rng = np.random.default_rng(SEED)
    mid = 100 * np.exp(np.cumsum(rng.normal(0, 1e-4, rows)))
    bid = np.round(mid - 0.01, 2)
    data = {
        "x": rng.standard_t(4, rows),
        "y": np.round(rng.normal(0, 2, rows), 1),  # with equal values
        "bid": bid,
        "ask": np.round(bid + rng.integers(1, 4, rows) * 0.01, 2),
        "v": rng.integers(0, 50, rows).astype(np.float64),
        "w": rng.integers(1, 50, rows).astype(np.float64),
    }
    for values in data.values():
        values[rng.random(rows) < MISSING] = np.nan
    gaps = rng.exponential(2e8, rows) * (rng.random(rows) > 0.1)
    gaps[rng.random(rows) < 1e-3] = 3e11
    start = 1_700_000_000_000_000_000
    return pd.DataFrame(data, pd.to_datetime(start + np.cumsum(gaps).astype(np.int64)))


def times(f: Frame) -> np.ndarray:
    """Return the times of the rows in nanoseconds."""
    return np.asarray(f.index.to_numpy().astype("datetime64[ns]").astype(np.int64))


def ours(expression: str, f: Frame) -> np.ndarray:
    """Return an expression over all rows in float64, by its block form."""
    features = StatefulFeatures([expression], [expand(parse(expression))], COLUMNS)
    values, t_ns = f.to_numpy(), times(f)
    if not features.others:
        return features.machine("a").columns(t_ns, values)[0]
    machine, other = features.machine("a"), features.machine(OTHER)
    out = np.full(len(f), np.nan)
    for k, (t, row) in enumerate(zip(t_ns.tolist(), values.tolist(), strict=True)):
        if k % 3:
            out[k] = machine.step(t, row)[0]
        else:
            other.accept(t, row)
    return out


# ---- references --------------------------------------------------------------------------------


def _roll(name: str, window: Any, **more: Any) -> Reference:
    return lambda f: getattr(f["x"].rolling(window, min_periods=1), name)(**more)


def _spread(window: Any, power: float) -> Reference:
    def value(f: Frame) -> Any:
        rolling = f["x"].rolling(window, min_periods=1)
        return rolling.var().where(rolling.count() != 1, 0.0) ** power

    return value


def _zscore(f: Frame) -> Any:
    rolling = f["x"].rolling(1000, min_periods=1)
    return ((f["x"] - rolling.mean()) / rolling.std()).where(rolling.count() != 1, 0.0 * f["x"])


def _rank(f: Frame) -> Any:
    rolling = f["y"].rolling(500, min_periods=1)
    return (rolling.rank() - 0.5) / rolling.count()


def _pairs(f: Frame) -> Any:
    both = f["x"].notna() & f["y"].notna()
    return f["x"].where(both), f["y"].where(both)


def _corr(f: Frame) -> Any:
    x, y = _pairs(f)
    found = x.rolling(1000, min_periods=1).corr(y)
    return found.where(x.rolling(1000, min_periods=1).count() != 1, 0.0)


def _beta(f: Frame) -> Any:
    x, y = _pairs(f)
    rolling = y.rolling(1000, min_periods=1)
    found = x.rolling(1000, min_periods=1).cov(y) / rolling.var()
    return found.where(rolling.count() != 1, 0.0)


def _ewm(name: str, **more: Any) -> Reference:
    return lambda f: getattr(f["x"].ewm(halflife=100, ignore_na=True), name)(**more)


def _ewm_time(f: Frame) -> Any:
    return f["x"].ewm(halflife="10s", times=f.index).mean()


def _since(f: Frame) -> Any:
    at = np.arange(len(f))
    last = np.maximum.accumulate(np.where(f["x"] > 2, at, -1))
    return at - last


def _count(f: Frame) -> Any:
    true = (f["x"] > 1).astype(float).where(f["x"].notna())
    return true.rolling(1000, min_periods=1).sum()


def _bar(field: str) -> Reference:
    def value(f: Frame) -> Any:
        bars = (
            f["x"]
            .resample("60s")
            .agg({"open": "first", "high": "max", "low": "min", "close": "last"}[field])
        )
        bars = bars.dropna()
        bars.index = bars.index + pd.Timedelta("60s")  # known from its end on
        return pd.merge_asof(
            pd.DataFrame(index=f.index), bars.rename("bar"), left_index=True, right_index=True
        )["bar"]

    return value


def _tick_sign(f: Frame) -> Any:
    moves = np.sign(f["bid"].dropna().diff())
    signs = pd.Series(np.nan, np.arange(len(f)))
    signs[f["bid"].notna().to_numpy()] = moves.replace(0.0, np.nan).to_numpy()
    return signs.ffill().fillna(0.0).to_numpy()


def _ofi(f: Frame) -> Any:
    part = f[["bid", "v", "ask", "w"]].dropna()
    bid, v, ask, w = (part[name].to_numpy() for name in part)
    flow = (bid[1:] >= bid[:-1]) * v[1:] - (bid[1:] <= bid[:-1]) * v[:-1]
    flow += (ask[1:] >= ask[:-1]) * w[:-1] - (ask[1:] <= ask[:-1]) * w[1:]
    out = np.zeros(len(f))
    out[f[["bid", "v", "ask", "w"]].notna().all(axis=1)] = np.concatenate(([0.0], flow))
    return out


def _vwap(f: Frame) -> Any:
    traded = (f["bid"] * f["w"]).rolling(100, min_periods=1).sum()
    return traded / f["w"].rolling(100, min_periods=1).sum()


def _volatility(f: Frame) -> Any:
    squares = (np.log(f["bid"] / f["bid"].ffill().shift()) ** 2).rolling(1000, min_periods=1)
    return np.sqrt(squares.sum())


def _before(f: Frame) -> Any:
    """Return x 5 s before: at the last row that is at least that old."""
    t = times(f)
    at = np.searchsorted(t, t - 5 * 10**9, side="right") - 1
    return f["x"].ffill().to_numpy()[np.maximum(at, 0)]


def _elapsed(f: Frame) -> Any:
    return np.concatenate(([np.nan], np.diff(times(f)) / 1e9))


def _clock(days: int, turn: Callable[[Any], Any]) -> Reference:
    def value(f: Frame) -> Any:
        at = f.index.tz_localize("UTC").tz_convert(ZONE)
        seconds = (at.hour * 60 + at.minute) * 60 + at.second + at.microsecond / 1e6
        seconds = seconds + at.nanosecond / 1e9 + (at.day_of_week * 86_400 if days > 1 else 0)
        return turn(2 * np.pi * seconds.to_numpy() / (days * 86_400))

    return value


def _opened(f: Frame) -> Any:
    """Return minutes since the session opened, NaN while it is closed."""
    at = f.index.tz_localize("UTC").tz_convert(ZONE)
    minutes = (f.index - (at.normalize() + pd.Timedelta("8h")).tz_convert(None)).total_seconds()
    return pd.Series(minutes / 60).where((minutes >= 0) & (minutes < 8.5 * 3600)).to_numpy()


def _of(f: Frame) -> Any:
    there = np.arange(len(f)) % 3 == 0
    seen = pd.Series(np.where(there, f["x"], np.nan)).ffill().to_numpy()
    return np.where(there, np.nan, seen)


def _age(f: Frame) -> Any:
    t = times(f)
    at = np.arange(len(f)) // 3 * 3
    return np.where(np.arange(len(f)) % 3 == 0, np.nan, (t - t[at]) / 1e9)


def _compared(name: str) -> tuple[str, str, Reference]:
    def value(f: Frame) -> Any:
        found = getattr(f["y"], name[1:])(f["v"] - 25).astype(float)
        return found.where(f["y"].notna() & f["v"].notna())

    sign = {".lt": "<", ".le": "<=", ".gt": ">", ".ge": ">=", ".eq": "==", ".ne": "!="}[name]
    return f"y {sign} v - 25", f"y{name}(v - 25), NaN where either is", value


ZONE = "Asia/Tokyo"
_HOURS = f'"08:00-16:30", "{ZONE}"'

PANDAS: dict[str, tuple[str, str, Reference]] = {
    "+": ("x + y", "x + y", lambda f: f.x + f.y),
    "-": ("x - y", "x - y", lambda f: f.x - f.y),
    "*": ("x * y", "x * y", lambda f: f.x * f.y),
    "/": ("x / bid", "x / bid", lambda f: f.x / f.bid),
    "neg": ("-x", "-x", lambda f: -f.x),
    "<": _compared(".lt"),
    "<=": _compared(".le"),
    ">": _compared(".gt"),
    ">=": _compared(".ge"),
    "==": _compared(".eq"),
    "!=": _compared(".ne"),
    "abs": ("abs(x)", "x.abs()", lambda f: f.x.abs()),
    "sign": ("sign(y)", "np.sign(y)", lambda f: np.sign(f.y)),
    "sqrt": ("sqrt(v)", "np.sqrt(v)", lambda f: np.sqrt(f.v)),
    "exp": ("exp(x)", "np.exp(x)", lambda f: np.exp(f.x)),
    "log": ("log(w)", "np.log(w)", lambda f: np.log(f.w)),
    "log1p": ("log1p(v)", "np.log1p(v)", lambda f: np.log1p(f.v)),
    "tanh": ("tanh(x)", "np.tanh(x)", lambda f: np.tanh(f.x)),
    "min": ("min(x, y)", "min(axis=1, skipna=False)",
            lambda f: f[["x", "y"]].min(axis=1, skipna=False)),
    "max": ("max(x, y)", "max(axis=1, skipna=False)",
            lambda f: f[["x", "y"]].max(axis=1, skipna=False)),
    "clip": ("clip(x, -1, 1)", "x.clip(-1, 1)", lambda f: f.x.clip(-1, 1)),
    "where": ("where(v > 9, x, y)", "x.where(v > 9, y), NaN where v is",
              lambda f: f.x.where(f.v > 9, f.y).where(f.v.notna())),
    "missing": ("missing(x)", "x.isna()", lambda f: f.x.isna().astype(float)),
    "zero": ("zero(x)", "x.fillna(0)", lambda f: f.x.fillna(0.0)),
    "last": ("last(x)", "x.ffill()", lambda f: f.x.ffill()),
    "mid": ("mid(bid, ask)", "(bid + ask) / 2", lambda f: (f.bid + f.ask) / 2),
    "spread": ("spread(bid, ask)", "ask - bid", lambda f: f.ask - f.bid),
    "spread_bps": ("spread_bps(bid, ask)", "2e4 * (ask - bid) / (ask + bid)",
                   lambda f: 2e4 * (f.ask - f.bid) / (f.ask + f.bid)),
    "imbalance": ("imbalance(v, w)", "(v - w) / (v + w)", lambda f: (f.v - f.w) / (f.v + f.w)),
    "microprice": ("microprice(bid, ask, v, w)", "(bid * w + ask * v) / (v + w)",
                   lambda f: (f.bid * f.w + f.ask * f.v) / (f.v + f.w)),
    "lag": ("lag(x, 30)", "x.ffill().shift(30)", lambda f: f.x.ffill().shift(30)),
    "lag, span": ("lag(x, 5s)", "x.ffill(), np.searchsorted", _before),
    "diff": ("diff(x, 3)", "x - x.ffill().shift(3)", lambda f: f.x - f.x.ffill().shift(3)),
    "log_return": ("log_return(bid, 2)", "np.log(bid) - np.log(bid).ffill().shift(2)",
                   lambda f: np.log(f.bid) - np.log(f.bid).ffill().shift(2)),
    "elapsed": ("elapsed()", "np.diff of nanoseconds", _elapsed),
    "sum": ("sum(x, 1000)", "rolling(1000).sum()", _roll("sum", 1000)),
    "sum, span": ("sum(x, 30s)", 'rolling("30s").sum()', _roll("sum", "30s")),
    "mean": ("mean(x, 1000)", "rolling(1000).mean()", _roll("mean", 1000)),
    "mean, span": ("mean(x, 30s)", 'rolling("30s").mean()', _roll("mean", "30s")),
    "std": ("std(x, 1000)", "rolling(1000).std()", _spread(1000, 0.5)),
    "var": ("var(x, 1000)", "rolling(1000).var()", _spread(1000, 1.0)),
    "var, span": ("var(x, 30s)", 'rolling("30s").var()', _spread("30s", 1.0)),
    "rolling_min": ("min(x, 1000)", "rolling(1000).min()", _roll("min", 1000)),
    "rolling_max": ("max(x, 30s)", 'rolling("30s").max()', _roll("max", "30s")),
    "median": ("median(x, 1000)", "rolling(1000).median()", _roll("median", 1000)),
    "quantile": ("quantile(x, 0.9, 30s)", 'rolling("30s").quantile(0.9)',
                 _roll("quantile", "30s", q=0.9)),
    "rank": ("rank(y, 500)", "(rolling(500).rank() - 1/2) / count", _rank),
    "zscore": ("zscore(x, 1000)", "(x - rolling.mean()) / rolling.std()", _zscore),
    "count": ("count(x > 1, 1000)", "rolling(1000).sum() of x > 1", _count),
    "corr": ("corr(x, y, 1000)", "rolling(1000).corr(y)", _corr),
    "beta": ("beta(x, y, 1000)", "rolling(1000).cov(y) / rolling(1000).var()", _beta),
    "ewm_mean": ("ewm_mean(x, 100)", "ewm(halflife=100, ignore_na=True).mean()", _ewm("mean")),
    "ewm_mean, span": ("ewm_mean(x, 10s)", 'ewm(halflife="10s", times=...).mean()', _ewm_time),
    "ewm_var": ("ewm_var(x, 100)", "ewm(...).var(bias=True)", _ewm("var", bias=True)),
    "ewm_std": ("ewm_std(x, 100)", "ewm(...).std(bias=True)", _ewm("std", bias=True)),
    "cumulative": ("cumulative(x)", "x.cumsum().ffill()", lambda f: f.x.cumsum().ffill()),
    "bar_open": ("bar_open(x, 60s)", 'resample("60s").first(), merge_asof', _bar("open")),
    "bar_high": ("bar_high(x, 60s)", 'resample("60s").max(), merge_asof', _bar("high")),
    "bar_low": ("bar_low(x, 60s)", 'resample("60s").min(), merge_asof', _bar("low")),
    "bar_close": ("bar_close(x, 60s)", 'resample("60s").last(), merge_asof', _bar("close")),
    "tick_sign": ("tick_sign(bid)", "np.sign(bid.diff()), carried", _tick_sign),
    "signed_volume": ("signed_volume(bid, v)", "v * np.sign(bid.diff()), carried",
                      lambda f: f.v * _tick_sign(f)),
    "vwap": ("vwap(bid, w, 100)", "rolling sums of bid * w over w", _vwap),
    "realized_volatility": ("realized_volatility(bid, 1000)", "root of rolling(1000).sum()",
                            _volatility),
    "day_sin": (f'day_sin("{ZONE}")', "np.sin of the time, tz_convert()", _clock(1, np.sin)),
    "day_cos": (f'day_cos("{ZONE}")', "np.cos of the time, tz_convert()", _clock(1, np.cos)),
    "week_sin": (f'week_sin("{ZONE}")', "the same of the week", _clock(7, np.sin)),
    "week_cos": (f'week_cos("{ZONE}")', "the same of the week", _clock(7, np.cos)),
    "session": (f"session({_HOURS})", "open, tz_convert()",
                lambda f: np.where(np.isnan(_opened(f)), 0.0, 1.0)),
    "since_open": (f"since_open({_HOURS})", "minutes from 08:00, tz_convert()",
                   lambda f: np.nan_to_num(_opened(f))),
    "of": ('of("b", last(x))', "the rows of b, ffill()", _of),
}  # fmt: skip
"""By function: an expression, what it is compared with in words, and the reference."""

NUMPY: dict[str, tuple[str, str, Reference]] = {
    "since": ("since(x > 2)", "NumPy: np.maximum.accumulate of places", _since),
    "ofi": ("ofi(bid, v, ask, w)", "NumPy: the sums of the definition", _ofi),
    "age": ('age("b")', "NumPy: differences of nanoseconds", _age),
}
"""The same for functions that no package has."""


def run(rows: int) -> dict[str, dict[str, Any]]:
    """Return {function: figures}, one for each function of the registry."""
    known, f = PANDAS | NUMPY, frame(rows)
    found = {}
    for name, (expression, words, reference) in known.items():
        if name.split(",")[0] in FUNCTIONS:
            kind = "numpy" if name in NUMPY else "pandas"
            with np.errstate(all="ignore"):
                wanted = np.asarray(reference(f), np.float64)
            found[expression] = {kind: words, **compared(ours(expression, f), wanted)}
    rest = [name for name in FUNCTIONS if name not in known]
    return found | {name: {"note": "no reference here"} for name in rest}


def compared(got: np.ndarray, wanted: np.ndarray) -> dict[str, Any]:
    """Return the worst differences of two arrays."""
    wanted = np.where(np.isfinite(wanted), wanted, np.nan)
    got = np.where(np.isfinite(got), got, np.nan)
    both = (got == got) & (wanted == wanted)
    gap = np.abs(got[both] - wanted[both])
    sizes = np.abs(wanted[both])
    typical = float(np.median(sizes)) or 1.0
    relative = gap / np.maximum(sizes, typical)
    worst = {"absolute": gap, "relative": relative}
    return {
        "rows": int(both.sum()),
        **{name: float(f"{max(values, default=math.nan):.1e}") for name, values in worst.items()},
        "missing": int(((got == got) != (wanted == wanted)).sum()),
    }
