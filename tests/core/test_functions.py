"""The functions without memory: both their forms agree to the bit, and what they compute."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.core.expressions import FUNCTIONS, Call, Column, Expression, Number, Span, parse
from stream_lstm.core.features import FeatureSet
from stream_lstm.core.functions import (
    MAX_PURE_LAG,
    Function,
    constant,
    exactly,
    expand,
    is_constant,
    is_pure,
    register,
    resolve,
    signature,
    uses_time,
)
from stream_lstm.core.machine import StatefulFeatures
from stream_lstm.errors import ConfigurationError

EDGES = (
    0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 1e-45, 5e-324, -5e-324, 1e-300, 709.7, 709.79, -745.2, 1e308,
    -1e308, math.nextafter(1.0, 2.0), math.nextafter(-1.0, 0.0), math.inf, -math.inf, math.nan,
)  # fmt: skip
CHEAP = [name for name, f in FUNCTIONS.items() if f.block and not f.time]
floats = st.sampled_from(EDGES) | st.floats() | st.floats(-3, 3)


def width(function: Function) -> int:
    """How many values `block` and `one` take."""
    return 2 if function.lag else len(function.parameters)


def of_block(function: Function, rows: np.ndarray) -> np.ndarray:
    """The block over rows (m, width), whose columns are not contiguous."""
    assert function.block
    with np.errstate(all="ignore"):
        made: np.ndarray = function.block(*[rows[:, k] for k in range(rows.shape[1])])
    assert made.dtype == np.float64
    assert made.shape == (len(rows),)
    return made


def bits(values: np.ndarray | list[float]) -> bytes:
    """The bytes of values, with a single NaN."""
    made = np.array(values, np.float64)
    return np.where(np.isnan(made), math.nan, made).tobytes()


def edge_rows(function: Function) -> np.ndarray:
    edges = EDGES if width(function) < 4 else EDGES[:4] + EDGES[-3:]
    return np.array(list(itertools.product(edges, repeat=width(function))))


@pytest.mark.parametrize("name", CHEAP)
def test_one_value_has_the_bits_of_the_block_at_every_edge(name: str) -> None:
    """Nothing raises, and NumPy does not warn either."""
    function, rows = FUNCTIONS[name], edge_rows(FUNCTIONS[name])
    block, value = of_block(function, rows), exactly(function)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bits([value(*row) for row in rows.tolist()]) == bits(block)


@pytest.mark.parametrize("name", CHEAP)
@given(data=st.data())
def test_one_value_has_the_bits_of_the_block(name: str, data: st.DataObject) -> None:
    function = FUNCTIONS[name]
    row = st.tuples(*[floats] * width(function))
    rows = np.array(data.draw(st.lists(row, min_size=1, max_size=40)))
    value = exactly(function)
    made = [value(*one) for one in rows.tolist()]
    assert bits(made) == bits(of_block(function, rows))
    assert function.one
    loose = [function.one(*one) for one in rows.tolist()]
    if function.inexact:
        np.testing.assert_allclose(loose, made, rtol=1e-12)
    else:
        assert bits(loose) == bits(made)


@pytest.mark.parametrize("name", CHEAP)
def test_a_long_block_has_the_bits_of_one_value(name: str) -> None:
    """As long as the loops of NumPy that take several values per instruction."""
    function = FUNCTIONS[name]
    rows = np.exp(np.random.default_rng(2).normal(size=(3000, width(function)), scale=3))
    value = exactly(function)
    assert bits([value(*row) for row in rows.tolist()]) == bits(of_block(function, rows))


@pytest.mark.parametrize("name", [name for name in CHEAP if width(FUNCTIONS[name]) > 1])
def test_a_number_among_the_arguments_is_a_series_of_that_number(name: str) -> None:
    function = FUNCTIONS[name]
    if function.lag:
        return
    rows = edge_rows(function)
    assert function.block
    for number in EDGES:
        for at in range(1, width(function)):
            whole, mixed = rows.copy(), list[object](rows.T)
            whole[:, at], mixed[at] = number, number
            with np.errstate(all="ignore"):
                made = function.block(*mixed)
            assert bits(made) == bits(of_block(function, whole))


# ---- what they compute -------------------------------------------------------------------------

NAN, INF = math.nan, math.inf
A = [1.0, 2.0, 3.0, NAN, -4.0]
B = [2.0, 2.0, 2.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b", [3, 4, 5, NAN, -4]),
        ("a - b - 1", [-2, -1, 0, NAN, -5]),
        ("a * b", [2, 4, 6, NAN, 0]),
        ("a / b", [0.5, 1, 1.5, NAN, -INF]),
        ("-a", [-1, -2, -3, NAN, 4]),
        ("1 - -a * 2", [3, 5, 7, NAN, -7]),
        ("a < b", [1, 0, 0, NAN, 1]),
        ("a <= b", [1, 1, 0, NAN, 1]),
        ("a > b", [0, 0, 1, NAN, 0]),
        ("a >= b", [0, 1, 1, NAN, 0]),
        ("a == b", [0, 1, 0, NAN, 0]),
        ("a != b", [1, 0, 1, NAN, 1]),
        ("abs(a)", [1, 2, 3, NAN, 4]),
        ("sign(a)", [1, 1, 1, NAN, -1]),
        ("sqrt(a)", [1, math.sqrt(2), math.sqrt(3), NAN, NAN]),
        ("exp(b)", [math.exp(2)] * 3 + [math.e, 1]),
        ("log(b)", [math.log(2)] * 3 + [0, -INF]),
        ("log1p(b)", [math.log(3)] * 3 + [math.log(2), 0]),
        ("tanh(b)", [math.tanh(2)] * 3 + [math.tanh(1), 0]),
        ("min(a, b)", [1, 2, 2, NAN, -4]),
        ("max(a, b)", [2, 2, 3, NAN, 0]),
        ("max(a, 2.0)", [2, 2, 3, NAN, 2]),
        ("clip(a, -1, b)", [1, 2, 2, NAN, -1]),
        ("where(a < b, a, 9)", [1, 9, 9, NAN, -4]),
        ("where(b, 1, 0)", [1, 1, 1, 1, 0]),
        ("missing(a)", [0, 0, 0, 1, 0]),
        ("where(missing(a), 0, a)", [1, 2, 3, 0, -4]),
        ("mid(a, b)", [1.5, 2, 2.5, NAN, -2]),
        ("spread(a, b)", [1, 0, -1, NAN, 4]),
        ("spread_bps(b, b + 1)", [4000, 4000, 4000, 2e4 / 3, 2e4]),
        ("imbalance(a, b)", [-1 / 3, 0, 0.2, NAN, 1]),
        ("microprice(1, 2, b, 3 * b)", [1.25, 1.25, 1.25, 1.25, 1.5]),
        ("a - log(b) * 0 + 2 * 3", [7, 8, 9, NAN, NAN]),
    ],
)
def test_functions_compute_what_they_say(text: str, expected: list[float]) -> None:
    made = FeatureSet([text], ["a", "b"])
    elements = made.evaluate(np.zeros(5, np.int64), np.array([A, B]).T)
    assert made.lag == 0
    np.testing.assert_allclose(elements[:, 0], np.array(expected, np.float32), rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "lag", "expected"),
    [
        ("diff(x, 3)", 3, [7, 14]),
        ("lag(x, 2)", 2, [1, 2, 4]),
        ("log_return(x, 2)", 2, [math.log(4)] * 3),
        ("diff(lag(x, 2), 2)", 4, [3]),
        ("x - lag(x) - lag(x, 3)", 3, [3, 6]),
        ("lag(x) * 2", 1, [2, 4, 8, 16]),
        ("2 / lag(x)", 1, [2, 1, 0.5, 0.25]),
    ],
)
def test_a_lag_counts_elements(text: str, lag: int, expected: list[float]) -> None:
    made = FeatureSet([text], ["x"])
    elements = made.evaluate(np.zeros(5, np.int64), np.array([[1.0], [2], [4], [8], [16]]))
    assert made.lag == lag
    np.testing.assert_allclose(elements[:, 0], np.array(expected, np.float32))
    short = made.evaluate(np.zeros(lag, np.int64), np.ones((lag, 1)))
    assert short.shape == (0, 1)


# ---- the registry ------------------------------------------------------------------------------


def test_a_set_is_pure_up_to_its_longest_lag_without_spans_and_windows() -> None:
    pure = ["x", "elapsed()", f"lag(x, {MAX_PURE_LAG})", f"diff(lag(x, {MAX_PURE_LAG - 1}))"]
    for text in pure:
        assert is_pure([parse(text)])
    assert FeatureSet(pure, ["x"]).lag == MAX_PURE_LAG
    others = [f"lag(x, {MAX_PURE_LAG + 1})", f"diff(lag(x, {MAX_PURE_LAG}))", "lag(x, 30s)"]
    for text in [*others, "min(x, 3)", "x + lag(min(x, 3), 2)"]:
        assert not is_pure([parse("x"), parse(text)])
    with pytest.raises(ConfigurationError, match="16 elements"):
        FeatureSet([others[0]], ["x"])


def test_a_whole_number_is_the_window_of_min_and_max() -> None:
    def named(text: str) -> str:
        call = parse(text)
        assert isinstance(call, Call)
        return resolve(call)[0].name

    assert named("min(x, 3)") == named("min(x, 30s)") == "rolling_min"
    assert named("max(x, 3)") == "rolling_max"
    assert named("min(x, 3.0)") == named("min(x, 3e0)") == named("min(x, y)") == "min"


def test_arguments_equal_to_their_default_are_left_out() -> None:
    assert parse("diff(x, 1)") == parse("diff(x)") == Call("diff", (Column("x"),))
    tree = parse("diff(x)")
    assert isinstance(tree, Call)
    assert resolve(tree)[1] == (Column("x"), Number(1.0, whole=True))


def test_only_trees_without_columns_and_clock_are_constant() -> None:
    x, two = Column("x"), Number(2.0, whole=True)
    assert is_constant(Call("*", (two, Call("log", (two,)))))
    assert constant(Call("/", (two, Number(0.0)))) == math.inf
    assert not is_constant(Call("*", (two, x)))
    assert not is_constant(parse("elapsed() * 2"))


@pytest.mark.parametrize("name", ["log1p", "exp", "tanh", "sign", "abs"])
def test_a_function_of_a_stream_s_own_age_has_a_block(name: str) -> None:
    text = f'{name}(age("a"))'
    machine = StatefulFeatures([text], [parse(text)], ["x"]).machine("a")
    (made,) = machine.columns(np.arange(3), np.ones((3, 1)))
    assert made.tolist() == [machine.step(3, [1.0])[0]] * 3


def test_uses_of_time_are_clocks_and_spans() -> None:
    assert uses_time(parse("1 + diff(elapsed())"))
    assert uses_time(Call("lag", (Column("x"), Span(5))))
    assert not uses_time(parse("lag(x, 5)"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("clip", "clip(x, low, high)"),
        ("lag", "lag(x, k=1)"),
        ("elapsed", "elapsed()"),
        ("+", "a + b"),
        ("neg", "-x"),
    ],
)
def test_a_signature_shows_how_a_function_is_written(name: str, text: str) -> None:
    assert signature(FUNCTIONS[name]) == text


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=lambda f: f.name)
def test_every_function_is_described_in_a_line(function: Function) -> None:
    assert function.doc
    assert not function.doc.endswith(".")
    assert not function.doc[0].isupper()
    assert len(function.doc) < 90
    assert bool(function.block) == bool(function.one)


def test_a_function_can_be_short_for_an_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    double = FUNCTIONS["abs"]._replace(
        name="twice", block=None, one=None, expands=lambda x: Call("*", (x, Number(2.0)))
    )
    monkeypatch.setitem(FUNCTIONS, "twice", double)
    register(double)
    made = FeatureSet(["twice(twice(x)) + 1"], ["x"])
    assert made.names == ("twice(twice(x)) + 1",)
    assert made.evaluate(np.zeros(1, np.int64), np.array([[3.0]])).tolist() == [[13.0]]
    assert str(expand(parse("1 / twice(x)"))) == "1 / (x * 2.0)"


def test_nested_short_forms_cannot_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    def thrice(x: Expression) -> Expression:
        return Call("/", (Call("-", (x, x)), x))

    short = FUNCTIONS["abs"]._replace(name="thrice", block=None, one=None, expands=thrice)
    monkeypatch.setitem(FUNCTIONS, "thrice", short)
    assert FeatureSet(["thrice(" * 5 + "x" + ")" * 5], ["x"]).lag == 0
    with pytest.raises(ConfigurationError, match="thrice is too deep"):
        FeatureSet(["thrice(" * 16 + "x" + ")" * 16], ["x"])


def test_functions_take_texts_numbers_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = parse("lag(x)")
    assert isinstance(tree, Call)
    k, text = FUNCTIONS["lag"].parameters[1], FUNCTIONS["lag"].parameters[1]
    odd = Function(
        "odd",
        (FUNCTIONS["abs"].parameters[0], text._replace(kind="text", default=None), k),
        "a test",
        "clock",
        lambda t_ns, x, word, number: t_ns + x * len(word) + number,
        lambda t_ns, x, word, number: t_ns + x * len(word) + number,
        time=True,
    )
    monkeypatch.setitem(FUNCTIONS, "odd", odd)
    made = FeatureSet(["odd(x, abc, 5)", 'odd(1, "a b") + lag(x)'], ["x"])
    values, t_ns = np.array([[1.0], [2.0]]), np.array([100, 200])
    assert made.uses_time
    assert made.evaluate(t_ns, values).tolist() == [[211.0, 205.0]]
    assert made.names == ('odd(x, "abc", 5)', 'odd(1, "a b") + lag(x)')
    assert made.good(values.data.cast("B").cast("d"), t_ns.data, 1)
