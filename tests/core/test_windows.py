"""Memories of features: values against pandas and a plain definition, bits against any cut."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.core import memory, queues, recurrences, windows
from stream_lstm.core.memory import stepped
from stream_lstm.core.queues import Lag, Quantile, Rank
from stream_lstm.core.recurrences import (
    FIELDS,
    Bar,
    Cumulative,
    EwmMean,
    EwmStd,
    EwmVar,
    Last,
    OrderFlow,
    Since,
    TickSign,
)
from stream_lstm.core.windows import (
    Beta,
    Corr,
    Count,
    Max,
    Mean,
    Min,
    Pair,
    Std,
    Sum,
    Var,
    Window,
    ZScore,
)

SECOND = 1_000_000_000
EXTENTS = ({"elements": 20}, {"elements": 1000}, {"span_ns": 30 * SECOND})
WINDOWS = (Sum, Mean, Min, Max, Var, Std, ZScore, Count, Corr, Beta, Quantile, Rank)

# ---- pandas ---------------------------------------------------------------------------------

ROLLING = {
    "sum": (Sum, lambda r, x, y: r.sum()),
    "mean": (Mean, lambda r, x, y: r.mean()),
    "min": (Min, lambda r, x, y: r.min()),
    "max": (Max, lambda r, x, y: r.max()),
    "var": (Var, lambda r, x, y: r.var().where(r.count() != 1, 0.0)),
    "std": (Std, lambda r, x, y: r.std().where(r.count() != 1, 0.0)),
    "zscore": (ZScore, lambda r, x, y: ((x - r.mean()) / r.std()).where(r.count() != 1, x * 0)),
    "median": (Quantile, lambda r, x, y: r.median()),
    "quantile": (partial(Quantile, 0.9), lambda r, x, y: r.quantile(0.9)),
    "rank": (Rank, lambda r, x, y: r.rank(pct=True) - 0.5 / r.count()),
    "corr": (Corr, lambda r, x, y: r.corr(y).where(r.count() != 1, 0.0)),
    "beta": (Beta, lambda r, x, y: r.cov(y) / y.rolling(r.window, 1).var()),
}
EWM = {
    "ewm_mean": (EwmMean, lambda e: e.mean()),
    "ewm_var": (EwmVar, lambda e: e.var(bias=True)),
    "ewm_std": (EwmStd, lambda e: e.std(bias=True)),
}
NAMES = [f"{name} {next(iter(e.values()))}" for name in (*ROLLING, *EWM) for e in EXTENTS]
NAMES.remove("ewm_std 30000000000")


def series(n: int = 100_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return irregular times (some go back), a walk and another one, with gaps in both."""
    rng = np.random.default_rng(3)
    times = np.cumsum(rng.integers(0, 2 * SECOND, n)) - rng.integers(0, 2, n) * SECOND // 3
    common = rng.normal(size=n)
    x = 100 + np.cumsum(common + rng.normal(size=n))
    y = 20 + np.cumsum(common)
    gaps = np.convolve(rng.random(n) < 0.01, np.ones(40), "same") > 0
    x[gaps | (rng.random(n) < 0.05)] = np.nan
    y[np.isnan(x)] = np.nan
    return times, x, y


def values_of(name: str) -> tuple[np.ndarray, dict, list[np.ndarray]]:
    """Return the values of one of NAMES, its extent, and the series: times, x and y."""
    function, size = name.split()
    factory = (EWM[function] if function in EWM else ROLLING[function])[0]
    extent = next(e for e in EXTENTS if str(next(iter(e.values()))) == size)
    times, x, y = series()
    made = factory(**extent)
    values = made.block(times, *((x, y) if isinstance(made, Pair) else (x,)))
    return values, extent, [np.maximum.accumulate(times), x, y]


def relative(values: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference relative to the largest value."""
    known = np.isfinite(wanted) & np.isfinite(values)
    assert known.mean() > 0.5
    return float(np.abs(values - wanted)[known].max() / np.abs(wanted[known]).max())


def from_pandas(name: str) -> float:
    """Return the largest difference from pandas for one of NAMES, over 100,000 ticks."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    function, size = name.split()
    values, extent, (times, *xs) = values_of(name)
    index = pandas.to_datetime(times, unit="ns")
    x, y = (pandas.Series(v, index=index) for v in xs)
    span = pandas.Timedelta(int(size), "ns") if "span_ns" in extent else None
    if function in EWM and span:  # pandas has no var with times
        mean, square = (v.ewm(halflife=span, times=index).mean() for v in (x, x * x))
        wanted = mean if function == "ewm_mean" else square - mean * mean
    elif function in EWM:
        wanted = EWM[function][1](x.ewm(halflife=int(size), adjust=True, ignore_na=True))
    else:
        wanted = ROLLING[function][1](x.rolling(span or int(size), min_periods=1), x, y)
    return relative(values, np.asarray(wanted))


def from_definition(name: str) -> float:
    """Return the largest difference from two passes in NumPy, at every 97th tick."""
    values, extent, (times, x, y) = values_of(name)
    kind = ROLLING[name.split()[0]][0]
    wanted = np.full(len(x), math.nan)
    for i in range(0, len(x), 97):
        least = max(0, i + 1 - extent.get("elements", 1000))
        inside = times[least : i + 1] > times[i] - extent.get("span_ns", 1 << 60)
        a, b = (v[least : i + 1][inside] for v in (x, y))
        good = np.isfinite(a)
        wanted[i] = DEFINED[kind](a[good], b[good], x[i]) if good.any() else math.nan
    return relative(values[::97], wanted[::97])


LOOSE = {"std": 1e-6, "corr": 1e-4, "beta": 1e-5}
"""Where pandas itself loses digits in windows of a few values; the next test has the proof."""


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_pandas(name: str) -> None:
    exact = name.split()[0] in ("min", "max", "median", "quantile", "rank")
    assert from_pandas(name) <= (1e-15 if exact else LOOSE.get(name.split()[0], 1e-9))


@pytest.mark.parametrize("name", [name for name in NAMES if name[:4] in ("var ", "std ", "zsco")])
def test_variances_are_those_of_two_passes(name: str) -> None:
    assert from_definition(name) <= 3e-14


@pytest.mark.parametrize("name", [name for name in NAMES if name[:4] in ("corr", "beta")])
def test_slopes_are_those_of_two_passes(name: str) -> None:
    assert from_definition(name) <= 1e-12


# ---- the definition -------------------------------------------------------------------------


def var(x: np.ndarray) -> float:
    return float(np.var(x - x[0], ddof=1)) if len(x) > 1 else 0.0


def pair(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    if len(x) < 2 or not np.ptp(x) or not np.ptp(y):
        return 0.0, 0.0
    c = np.cov(x, y)
    return c[0, 1] / math.sqrt(c[0, 0] * c[1, 1]), c[0, 1] / c[1, 1]


def zscore(x: np.ndarray, newest: float) -> float:
    return ((newest - x[0]) - (x - x[0]).mean()) / math.sqrt(var(x)) if var(x) else 0.0


DEFINED = {
    Sum: lambda x, y, now: x.sum(),
    Mean: lambda x, y, now: x.mean(),
    Min: lambda x, y, now: x.min(),
    Max: lambda x, y, now: x.max(),
    Var: lambda x, y, now: var(x),
    Std: lambda x, y, now: math.sqrt(var(x)),
    ZScore: lambda x, y, now: zscore(x, now) if now == now else math.nan,
    Count: lambda x, y, now: np.count_nonzero(x),
    Quantile: lambda x, y, now: np.median(x),
    Rank: lambda x, y, now: (x < now).mean() + (x == now).mean() / 2 if now == now else math.nan,
    Corr: lambda x, y, now: pair(x, y)[0],
    Beta: lambda x, y, now: pair(x, y)[1],
}


@pytest.mark.parametrize("most", [7, 100_000])
@pytest.mark.parametrize("extent", [{"elements": 1}, {"elements": 5}, {"span_ns": 6}], ids=str)
@pytest.mark.parametrize("kind", WINDOWS)
def test_values_are_those_of_the_definition(kind, extent, most, monkeypatch) -> None:
    """Times repeat and go back, and bursts have more ticks than the largest window."""
    monkeypatch.setattr(memory, "MAX_WINDOW", most)
    rng = np.random.default_rng(5)
    n = 1500
    times = np.cumsum(rng.choice([-3, 0, 0, 0, 1, 1, 2, 9], n))
    xs = rng.integers(-3, 4, (2, n)) / 4.0
    xs[:, rng.random(n) < 0.3] = np.nan
    made = kind(**extent)
    values = made.block(times, *xs[: 2 if isinstance(made, Pair) else 1])
    now = np.maximum.accumulate(times)
    for i in range(n):
        inside = slice(max(0, i + 1 - extent.get("elements", most)), i + 1)
        x, y = xs[:, inside][:, now[inside] > now[i] - extent.get("span_ns", 1 << 60)]
        good = np.isfinite(x)
        wanted = DEFINED[kind](x[good], y[good], xs[0, i]) if good.any() else math.nan
        assert values[i] == pytest.approx(wanted, rel=1e-12, abs=1e-14, nan_ok=True), i


def test_a_variance_is_exact_at_a_high_level() -> None:
    x = 1e9 + np.random.default_rng(2).normal(size=300)
    values = Var(50).block(np.arange(300), x)
    for i in range(60, 300, 7):
        inside = [Fraction(v) for v in x[i - 49 : i + 1].tolist()]
        mean = sum(inside) / 50
        wanted = float(sum((v - mean) ** 2 for v in inside) / 49)
        assert values[i] == pytest.approx(wanted, rel=1e-13)


@pytest.mark.parametrize("kind", [Var, Std, ZScore, Corr, Beta])
@pytest.mark.parametrize("level", [0.1, 1e-300, 1e300, -123456.789])
def test_equal_values_have_no_variance(kind, level) -> None:
    x = np.full(200, level)
    x[::7] = np.nan
    made = kind(30)
    values = made.block(np.arange(200), *[x] * made.columns)
    assert set(values[~np.isnan(values)].tolist()) == {0.0}


@pytest.mark.parametrize("extent", [{"elements": 25}, {"span_ns": 25}], ids=str)
@pytest.mark.parametrize("at", [0, 24, 25, 100, 143, 144, 145])
@pytest.mark.parametrize("kind", WINDOWS)
def test_an_outlier_leaves_no_trace(kind, at, extent) -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 300))
    with_it = x.copy()
    with_it[at] = 1e12
    made = [kind(**extent), kind(**extent)]
    rest = [y] if isinstance(made[0], Pair) else []
    plain, hit = (
        m.block(np.arange(300), v, *rest) for m, v in zip(made, (x, with_it), strict=True)
    )
    assert (plain[at + 25 :] == hit[at + 25 :]).all()


# ---- bits -----------------------------------------------------------------------------------

MADE = {
    **{
        f"{kind.__name__} {extent}": partial(kind, **{unit: extent})
        for kind in (*WINDOWS, Lag, EwmMean, EwmVar, EwmStd)
        for unit, extent in (("elements", 1), ("elements", 2), ("elements", 9), ("span_ns", 13))
    },
    **{f"Bar {field}": partial(Bar, field, 10) for field in FIELDS},
    **{kind.__name__: kind for kind in (Cumulative, Since, Last, TickSign, OrderFlow)},
    "Last 12": partial(Last, 12),
    "Quantile 0.3": partial(Quantile, 0.3, 6),
}
VALUES = st.sampled_from([1.0, -0.0, 0.0, 0.1, -3.7, 1e12, 0.3, math.nan, math.inf, 2.5])
TICKS = st.lists(
    st.tuples(st.sampled_from([-5, 0, 0, 1, 2, 3, 30]), VALUES, VALUES, VALUES, VALUES),
    max_size=80,
)
ACTIONS = st.lists(st.sampled_from(["step", "undo", "save", 1, 2, 5, 30]), min_size=1)


def columns_of(made) -> int:
    return 4 if isinstance(made, OrderFlow) else 2 if isinstance(made, Pair) else 1


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=40, deadline=None)
@given(ticks=TICKS, actions=ACTIONS, most=st.sampled_from([9, 100_000]))
def test_bits_do_not_depend_on_cuts_undone_steps_or_restarts(name, ticks, actions, most) -> None:
    with (
        mock.patch.object(memory, "MAX_WINDOW", most),
        mock.patch.object(windows, "FEW", 1),
        mock.patch.object(queues, "FEW", 1),
    ):
        made, whole = MADE[name](), MADE[name]()
        times = np.cumsum([tick[0] for tick in ticks], dtype=np.int64)
        xs = [np.array([t[i] for t in ticks], np.float64) for i in range(1, 1 + columns_of(made))]
        wanted = stepped(whole, times, xs)
        found: list[float] = []
        cuts = iter(actions * (len(ticks) + 1))
        while len(found) < len(ticks):
            action, n = next(cuts), len(found)
            if action == "undo":
                made.step(times.item(n) + 7, *[4.0] * len(xs))
                made.undo()
            elif action == "save":
                before, made = made, MADE[name]()
                made.restore(before.state())
            if isinstance(action, int):
                part = slice(n, n + action)
                found += made.block(times[part], *(x[part] for x in xs)).tolist()
            else:
                found.append(made.step(times.item(n), *(x.item(n) for x in xs)))
        assert np.array_equal(bits(found), bits(wanted))
        for a, b in zip(made.state(), whole.state(), strict=True):
            assert np.array_equal(bits(a), bits(b))


@pytest.mark.parametrize("name", MADE)
def test_a_late_tick_counts_as_of_the_newest_time(name) -> None:
    rng = np.random.default_rng(8)
    times = np.cumsum(
        rng.choice([-30, -3, 0, 1, 5, 30], 400, p=[0.05, 0.2, 0.1, 0.35, 0.25, 0.05])
    )
    xs = [rng.normal(size=400) for _ in range(columns_of(MADE[name]()))]
    late = MADE[name]().block(times, *xs)
    assert np.array_equal(bits(late), bits(MADE[name]().block(np.maximum.accumulate(times), *xs)))


def test_a_lag_of_time_is_bounded_in_a_burst(monkeypatch) -> None:
    monkeypatch.setattr(memory, "MAX_WINDOW", 7)
    times, x = np.arange(40) // 20, np.arange(40.0)
    wanted = np.maximum(x - 6, 0.0)
    assert (Lag(span_ns=50).block(times, x) == wanted).all()
    assert (stepped(Lag(span_ns=50), times, [x]) == wanted).all()


def bits(values) -> np.ndarray:
    array = np.asarray(values, np.float64)
    return np.where(np.isnan(array), math.nan, array).view(np.int64)


@pytest.mark.parametrize("extent", [{"elements": 300}, {"span_ns": 300}], ids=str)
@pytest.mark.parametrize("kind", [*WINDOWS, Lag])
def test_bits_do_not_depend_on_cuts_in_long_windows(kind, extent) -> None:
    rng = np.random.default_rng(4)
    n = 3000
    times = np.cumsum(rng.choice([0, 0, 1, 2, 200], n, p=[0.3, 0.2, 0.3, 0.19, 0.01]))
    xs = rng.normal(size=(2, n)) + 50
    xs[:, rng.random(n) < 0.1] = np.nan
    made = kind(**extent)
    xs = xs[: columns_of(made)]
    wanted = stepped(made, times, list(xs))
    for size in (40, 150, 1000, n):
        made = kind(**extent)
        parts = [slice(i, i + size) for i in range(0, n, size)]
        found = np.concatenate([made.block(times[p], *(x[p] for x in xs)) for p in parts])
        assert np.array_equal(bits(found), bits(wanted)), size


# ---- the rest -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MADE)
def test_what_does_not_fit_is_refused(name) -> None:
    made = MADE[name]()
    for i in range(30):
        made.step(i * 3, *[float(i)] * columns_of(made))
    state = made.state()
    for wrong in (
        [],
        state[:-1],
        [*state, state[0]],
        [state[0].astype(np.float32), *state[1:]],
        [np.zeros((3, 3, 3)), *state[1:]],
        [np.zeros(len(state[0]) + 1), *state[1:]],
        [*state[:-1], np.zeros(99, np.int64)],
    ):
        with pytest.raises(ValueError, match="memory of"):
            MADE[name]().restore(wrong)
    if isinstance(made, Window):
        with pytest.raises(ValueError, match="do not fit together"):
            made.restore([*state[:2], np.array([10_000, 0, 0])])


@pytest.mark.parametrize("name", MADE)
def test_after_clear_it_is_as_new(name) -> None:
    made, new = MADE[name](), MADE[name]()
    for i in range(30):
        made.step(i * 3, *[float(i)] * columns_of(made))
    made.clear()
    for a, b in zip(made.state(), new.state(), strict=True):
        assert np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("kind", [*WINDOWS, Lag])
@pytest.mark.parametrize(
    "extent", [{}, {"elements": 3, "span_ns": 3}, {"elements": 100_001}, {"span_ns": -1}]
)
def test_a_window_that_is_invalid_is_refused(kind, extent) -> None:
    with pytest.raises(ValueError, match="window"):
        kind(**extent)


def run(made, *xs: list[float], times: list[int] | None = None) -> list[float]:
    n = len(xs[0])
    return made.block(np.array(times or range(n)), *(np.array(x, float) for x in xs)).tolist()


def test_a_lag_is_the_value_before() -> None:
    nan = pytest.approx(math.nan, nan_ok=True)
    assert run(Lag(2), [1, 2, 3, 4]) == [nan, nan, 1, 2]
    times = [0, 4, 5, 5, 9, 8, 30]
    assert run(Lag(span_ns=5), [1, 2, 3, 4, 5, 6, 7], times=times) == [1, 1, 1, 1, 2, 2, 6]


def test_a_total_keeps_what_is_lost() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=20_000) * 10.0 ** rng.integers(-9, 9, 20_000)
    values = Cumulative().block(np.arange(len(x)), x)
    assert values[-1] == pytest.approx(math.fsum(x.tolist()), rel=1e-15)
    assert run(Cumulative(), [1, 1e100, 1, -1e100])[-1] == 2.0


def test_since_counts_from_the_tick_at_which_the_condition_is_true() -> None:
    assert run(Since(), [0, 0, 1, 0, math.nan, 1]) == [1, 2, 0, 1, 2, 0]


def test_the_last_value_is_kept_up_to_its_age() -> None:
    nan = pytest.approx(math.nan, nan_ok=True)
    x = [math.nan, 1, math.nan, math.nan, 2]
    assert run(Last(), x) == [nan, 1, 1, 1, 2]
    assert run(Last(5), x, times=[0, 1, 6, 7, 8]) == [nan, 1, 1, nan, 2]


def test_a_bar_is_known_at_its_end() -> None:
    nan = pytest.approx(math.nan, nan_ok=True)
    prices, times = [3, 5, 1, 4, math.nan, 9, 2], [11, 12, 13, 19, 31, 45, 50]
    found = {field: run(Bar(field, 10), prices, times=times) for field in FIELDS}
    for field, value in {"open": 3, "high": 5, "low": 1, "close": 4}.items():
        assert found[field] == [nan, nan, nan, nan, value, value, 9]


def test_bars_are_those_of_pandas() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    times, x, _ = series(20_000)
    times = np.maximum.accumulate(times)
    bars = pandas.Series(x, pandas.to_datetime(times, unit="ns")).resample("60s").ohlc()
    for field in FIELDS:
        done = bars[field].ffill().shift(1)
        wanted = done.reindex(pandas.to_datetime(times // (60 * SECOND) * 60 * SECOND, unit="ns"))
        found = Bar(field, 60 * SECOND).block(times, x)
        assert np.array_equal(found, wanted.to_numpy(), equal_nan=True)


def test_the_tick_rule_keeps_the_last_sign() -> None:
    assert run(TickSign(), [5, 5, 6, 6, math.nan, 4, 4, 7]) == [0, 0, 1, 1, 1, -1, -1, 1]


def test_order_flow_is_that_of_the_paper() -> None:
    rng = np.random.default_rng(6)
    pb, qb, pa, qa = rng.integers(1, 4, (4, 200)).astype(float)
    wanted = (
        (pb[1:] >= pb[:-1]) * qb[1:]
        - (pb[1:] <= pb[:-1]) * qb[:-1]
        - (pa[1:] <= pa[:-1]) * qa[1:]
        + (pa[1:] >= pa[:-1]) * qa[:-1]
    )
    assert OrderFlow().block(np.arange(200), pb, qb, pa, qa).tolist() == [0.0, *wanted.tolist()]


def test_half_lives_of_elements_skip_missing_values_and_infinities() -> None:
    made = recurrences.EwmMean(1)
    assert run(made, [1, math.inf, math.nan, 4])[1:] == [1, 1, 3]
