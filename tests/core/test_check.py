"""The check of a single tick and the vectorised features never disagree."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.core.elements import ElementMaker, Memory
from stream_lstm.core.features import MOST_LAGS, TINY, FeatureSet
from stream_lstm.core.session import Session
from stream_lstm.events import Output, Prediction, Refusal, Ticks
from stream_lstm.schema import LIMIT

from ..engines import engine_for
from ..engines import settings as configuration

FEATURES = [
    ["x"],
    ["mid(x, y)", "spread(x, y)", "imbalance(x, y)"],
    ["log_return(mid(x, y))"],
    ["diff(diff(x))", "elapsed()"],
    ["log1p(lag(x))", "imbalance(lag(x), diff(y))"],
    ["lag(lag(lag(lag(lag(x)))))"],
]
EDGES = [
    0.0, -0.0, 1.0, -1.0, 1e-45, -1e-40, 5e-324, 1e-300, LIMIT, -LIMIT,
    float(np.nextafter(LIMIT, 0)), LIMIT * (1 - 1e-7), LIMIT / 2, 1e308, -1e308, math.inf,
    -math.inf, math.nan,
]  # fmt: skip
numbers = st.sampled_from(EDGES) | st.floats(width=64) | st.floats(-2, 2)
rows = st.lists(st.tuples(numbers, numbers), min_size=8, max_size=8)
times = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=8, max_size=8)


@pytest.mark.parametrize("features", FEATURES, ids=str)
@settings(max_examples=150, deadline=None)
@given(values=rows, t_ns=times)
def test_what_is_surely_good_is_good(
    features: list[str], values: list[tuple[float, float]], t_ns: list[int]
) -> None:
    made = FeatureSet(features, ["x", "y"])
    table, clock = np.array(values), np.array(t_ns, np.int64)
    elements = made.evaluate(clock, table)
    at = len(table) - 1
    try:
        good = made.good(table.data.cast("B").cast("d"), clock.data, at)
    except (ArithmeticError, ValueError):
        good = False
    really = bool((np.abs(elements[-1]) < LIMIT).all())
    assert not good or really
    if made.lag > MOST_LAGS:
        assert not good


@pytest.mark.parametrize("features", FEATURES[:-1], ids=str)
def test_usual_ticks_are_surely_good(features: list[str]) -> None:
    """Otherwise each of them would go the long way."""
    made = FeatureSet(features, ["x", "y"])
    table = np.exp(np.random.default_rng(0).normal(size=(200, 2)))
    clock = np.arange(200) * 10**9
    view = table.data.cast("B").cast("d")
    assert all(made.good(view, clock.data, k) for k in range(made.lag, 200))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_ticks_one_by_one_are_accepted_and_refused_as_in_a_block(data: st.DataObject) -> None:
    """With the same reasons, and to the same bits."""
    features = data.draw(st.sampled_from(FEATURES))
    config = configuration(features=features, window=3, stride=2)
    values = np.array(data.draw(st.lists(st.tuples(numbers, numbers), max_size=40)) or [(1, 1)])
    t_ns = np.arange(len(values)) * 10**9
    events = list[Output](), list[Output]()
    engine = engine_for(config, len(features))
    singly, whole = (Session(config, ["x", "y"], out.append, engine=engine) for out in events)
    counts = [singly.tick("a", int(t), row, "s", k, "w") for k, (t, row) in enumerate(
        zip(t_ns, values.tolist(), strict=True)
    )]  # fmt: skip
    made = whole.push(Ticks("a", t_ns, values, "s", 0, "w")) if len(values) > 1 else sum(counts)
    if len(values) == 1:
        return
    singly.catch_up()
    assert sum(counts) == made
    told = [[(e.reason if isinstance(e, Refusal) else e) for e in out] for out in events]
    assert told[0] == told[1]


def test_a_value_that_compiled_code_takes_for_zero_is_zero() -> None:
    tiny = np.array([[TINY / 2], [-TINY / 2], [TINY], [-TINY], [1e-300]])
    made = FeatureSet(["x"], ["x"]).evaluate(np.zeros(5, np.int64), tiny)
    assert made[:, 0].tolist() == [0.0, 0.0, np.float32(TINY), -np.float32(TINY), 0.0]


def test_numbers_of_another_kind_go_the_long_way() -> None:
    """None is a value that lacks; a whole number is as good as a float."""
    config = configuration(window=2, stride=1)
    out: list[Any] = []
    session = Session(config, ["x"], out.append, engine=engine_for(config))
    for k, value in enumerate((1, None, True, 2.5, np.float32(3))):
        session.tick("a", k, [value])
    assert [type(event) for event in out] == [Refusal, Prediction, *[type(e) for e in out[2:]]]
    assert out[0].reason == "x is nan"
    assert session.streams["a"].n == 4


def test_a_maker_accepts_what_it_would_make() -> None:
    maker = ElementMaker(["diff(x)"], ["x"])
    memory = Memory(np.zeros(1, np.int64), np.ones((1, 1)))
    assert maker.accepts(memory, np.ones(1, np.int64), np.ones((1, 1)))
    assert not maker.accepts(memory, np.ones(1, np.int64), np.full((1, 1), np.nan))
