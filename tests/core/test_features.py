"""Feature expressions: what is parsed, what is refused and where, and what they compute."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm import InputWarning, Predictor, replay_frame
from stream_lstm.config import build
from stream_lstm.core.elements import ElementMaker, Memory
from stream_lstm.core.expressions import (
    FUNCTIONS,
    MAX_DEPTH,
    MAX_LENGTH,
    MAX_OPERATORS,
    Call,
    Column,
    Number,
    Span,
    columns_of,
    parse,
)
from stream_lstm.core.features import (
    CHECK_EVERY,
    MAX_CHECKED_LAG,
    TINY,
    FeatureMonitor,
    FeatureSet,
)
from stream_lstm.core.functions import Function, is_pure
from stream_lstm.core.session import Session
from stream_lstm.core.trees import OPERATORS
from stream_lstm.errors import ConfigurationError, ExpressionError
from stream_lstm.events import Output, Prediction, Refusal, Ticks
from stream_lstm.schema import LIMIT

from ..engines import engine_for
from ..engines import settings as configuration

COLUMNS = ("bid", "ask", "odd name")


CHEAP = [f for f in FUNCTIONS.values() if f.block and f.parameters and not f.time]
NUMBERS = st.floats(-1e6, 1e6).map(lambda x: Number(x + 0.0)) | st.integers(-9, 9).map(
    lambda k: Number(float(k), whole=True)
)


def arguments(function: Function, inner: st.SearchStrategy) -> st.SearchStrategy:
    """Arguments of a function without memory, of which the first is never constant."""
    if function.lag:
        return inner.map(lambda x: (x,)) | st.tuples(
            inner, st.integers(2, 3).map(lambda k: Number(float(k), whole=True))
        )
    # A whole number would be the window of min and max.
    numbers = NUMBERS.filter(lambda n: not (function.windowed and n.whole))
    return st.tuples(inner, *[inner | numbers] * (len(function.parameters) - 1))


def trees(depth: int = 4) -> st.SearchStrategy:
    leaves = st.sampled_from(COLUMNS).map(Column) | st.just(Call("elapsed", ()))

    def calls(inner):
        return st.sampled_from(CHEAP).flatmap(
            lambda f: arguments(f, inner).map(lambda given: Call(f.name, given))
        )

    return st.recursive(leaves, calls, max_leaves=depth)


def test_nested_calls_become_a_tree():
    assert parse(" log_return( mid(bid,ask) )") == Call(
        "log_return", (Call("mid", (Column("bid"), Column("ask"))),)
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [("bid", "bid"), ('"odd name"', "odd name"), ('"a ""b"" c"', 'a "b" c'), ("mid", "mid")],
)
def test_a_name_without_parenthesis_is_a_column(text, name):
    assert parse(text) == Column(name)


def written(depth: int = 12) -> st.SearchStrategy:
    """Trees of everything that can be written, some of them refused."""
    leaves = st.sampled_from(COLUMNS).map(Column) | NUMBERS

    def calls(inner):
        pair = st.tuples(inner, inner)
        # A lag of numbers alone is refused, and a lag of 1 is not written.
        looks_back = st.sampled_from(["lag", "diff", "min", "max"])
        k = st.integers(1, 2**63 - 1).map(Span) | st.integers(1, 10**9).map(
            lambda n: Span(n * 1000)
        ) | st.integers(2, 99_999).map(lambda n: Number(float(n), whole=True))  # fmt: skip
        x = pair.map(lambda two: Call("+", (Call("*", (two[0], Column("bid"))), two[1])))
        return st.one_of(
            st.tuples(st.sampled_from([*OPERATORS]), pair).map(lambda a: Call(*a)),
            inner.map(lambda x: Call("neg", (x,))),
            st.tuples(pair, inner).map(lambda a: Call("clip", (*a[0], a[1]))),
            st.tuples(looks_back, x, k).map(lambda a: Call(a[0], a[1:])),
        )

    return st.recursive(leaves, calls, max_leaves=depth)


@settings(max_examples=300)
@given(trees() | written())
def test_the_text_of_a_tree_parses_to_the_same_tree(tree):
    product = Call("*", (Column("bid"), tree))
    assert parse(str(product)) == product


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("((a)+(b*c))", "a + b * c"),
        ("(a+b)*c", "(a + b) * c"),
        ("a-(b-c)-d", "a - (b - c) - d"),
        ("a/(b*c)", "a / (b * c)"),
        ("(a<b)==(c>=0)", "(a < b) == (c >= 0)"),
        ("- a * -2", "-a * -2"),
        ("-(a*b)", "-(a * b)"),
        ("-(2)*a", "-(2) * a"),
        ("a - -(-b)", "a - --b"),
        ("a*-0", "a * 0"),
        ("a+1E-6+.5+2.+007", "a + 1e-06 + 0.5 + 2.0 + 7"),
        ("lag(a, 90s)", "lag(a, 90s)"),
        ("lag(a, 60s)", "lag(a, 1m)"),
        ("lag(a,1.5h)", "lag(a, 90m)"),
        ("lag(a,500ms)+lag(a,20us)", "lag(a, 500ms) + lag(a, 20us)"),
        ("diff(a,1)", "diff(a)"),
    ],
)
def test_the_normal_form_has_as_few_parentheses_as_possible(text, normal):
    assert str(parse(text)) == normal


@pytest.mark.slow
@given(st.text(max_size=40) | st.text(alphabet='abmid(),"_ 1+-*<=.es', max_size=40))
def test_any_text_is_a_tree_or_an_expression_error_inside_the_text(text):
    position = 0
    try:
        parse(text)
    except ExpressionError as error:
        position = error.position
    assert 0 <= position <= len(text)


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 0, "empty"),
        ("   ", 3, "empty"),
        ("diff(log_retrun(x))", 5, "did you mean 'log_return'"),
        ("zebru(x)", 0, "unknown function 'zebru'"),
        ("diff(mid(a))", 5, "mid takes 2 arguments, not 1: mid(bid, ask)"),
        ("elapsed(a)", 0, "elapsed takes no arguments, not 1"),
        ("diff(a, 2, b)", 0, "diff takes 1 or 2 arguments, not 3: diff(x, k=1)"),
        ("diff(a, b)", 8, "k of diff(x, k=1) must be a whole number of elements from 1 to 100000"),
        ("lag(a, 1.0)", 7, "or a span such as 30s, not 1.0"),
        ("lag(a, 100001)", 7, "from 1 to 100000"),
        ("min(a, 0)", 7, "the limit of a series has a point, such as 3.0"),
        ("mid(a, 30s)", 7, "ask of mid(bid, ask) must be a column or an expression, not the span"),
        ("a + 30s", 4, "+ cannot take the span 30s"),
        ("30s * a", 4, "* cannot take the span 30s"),
        ("a + -30s", 5, "a span cannot be negative"),
        ("30s", 0, "a span is for windows"),
        ("mid(a, *b)", 7, "expected a column, a number or a function, found '*'"),
        ("mid(a b)", 6, "expected ',' or ')', found 'b'; a column with an odd name"),
        ("Close Price (USD)", 6, "found 'Price'; a column with an odd name goes in double quotes"),
        ("quagga (USD)", 0, "a column with an odd name goes in double quotes"),
        ("mid(a, b))", 9, "expected the end of the expression, found ')'"),
        ("diff(mid(a, b)", 4, "not closed"),
        ("diff(", 4, "not closed"),
        ("mid(a,", 3, "not closed"),
        ("a +", 3, "found the end"),
        ("a % b", 2, "unexpected character '%'"),
        ("a = b", 2, "write == to compare"),
        ("a ^ 2", 2, "write x * x"),
        ("a < b < c", 6, "cannot be chained"),
        ("2", 0, "a feature needs a column, a clock or a stream"),
        ("log(2) * -3", 0, "a feature needs a column, a clock or a stream"),
        ("a + lag(2, 3)", 8, "lag needs a column"),
        ("1e999 * a", 0, "too large"),
        ("2x", 0, "'2x' is not a number or a span"),
        ("lag(x, 1e3s)", 7, "is not a number or a span"),
        ("lag(x, 0s)", 7, "not a whole number of nanoseconds"),
        ("lag(x, 0.5ns)", 7, "not a whole number of nanoseconds"),
        ("lag(x, 300000d)", 7, "292 years"),
        ("(a", 0, "not closed"),
        ("(" * 20 + "x" + ")" * 20, MAX_DEPTH, "more than 16 nested functions, parentheses"),
        ("-" * 20 + "x", MAX_DEPTH, "more than 16 nested functions, parentheses or minus"),
        ("x" + "+x" * 120, 2 * MAX_OPERATORS + 1, "more than 100 operators"),
        ('diff("a)', 5, "quote is not closed"),
        ("diff(" * 20 + "x" + ")" * 20, 5 * MAX_DEPTH, "more than 16 nested functions"),
    ],
)
def test_errors_point_at_the_character(text, position, message):
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert caught.value.position == position
    assert message in str(caught.value)
    assert str(caught.value).endswith(f"\n  {text}\n  {' ' * position}^")


def test_an_expression_of_any_length_is_refused_in_a_short_message():
    with pytest.raises(ExpressionError, match="more than 1000") as caught:
        parse("x" * (MAX_LENGTH + 1))
    assert len(str(caught.value)) < 200


def test_columns_come_in_order_of_first_use():
    assert columns_of(["mid(bid, ask)", '"odd name"', "diff(bid)", "elapsed()"]) == COLUMNS


def test_an_unknown_column_is_a_configuration_error_with_the_nearest_name():
    with pytest.raises(
        ConfigurationError, match=r"'bidd'; did you mean 'bid'.*bid, ask"
    ) as caught:
        FeatureSet(["diff(bidd)"], ["bid", "ask"])
    assert caught.value.key == "features"


def test_a_function_without_parentheses_is_explained():
    with pytest.raises(ConfigurationError, match=r"elapsed\(\.\.\.\)"):
        FeatureSet(["elapsed"], ["bid", "ask"])


def test_no_features_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="no features"):
        FeatureSet([], ["x"])


T_NS = np.array([10, 20, 1_500_000_020], np.int64)
VALUES = np.array([[1.0, 3.0, 0.5], [2.0, 6.0, 0.0], [4.0, -4.0, 7.0]])


@pytest.mark.parametrize(
    ("text", "lag", "expected"),
    [
        ("bid", 0, [1, 2, 4]),
        ("mid(bid, ask)", 0, [2, 4, 0]),
        ("spread(bid, ask)", 0, [2, 4, -8]),
        ("imbalance(bid, ask)", 0, [-0.5, -0.5, 0]),
        ("diff(bid)", 1, [1, 2]),
        ("lag(bid)", 1, [1, 2]),
        ("lag(lag(bid))", 2, [1]),
        ("mid(lag(bid), ask)", 1, [3.5, -1]),
        ("lag(elapsed())", 2, [1e-8]),
        ("log_return(bid)", 1, [np.log(2), np.log(2)]),
        ('log1p("odd name")', 0, [np.log(1.5), 0, np.log(8)]),
        ("elapsed()", 1, [1e-8, 1.5]),
        ("diff(diff(bid))", 2, [1]),
        ("mid(diff(bid), ask)", 1, [3.5, -1]),
        ("diff(elapsed())", 2, [1.5 - 1e-8]),
    ],
)
def test_functions_compute_what_they_say(text, lag, expected):
    features = FeatureSet([text], COLUMNS)
    elements = features.evaluate(T_NS, VALUES)
    assert features.lag == lag
    assert features.uses_time == ("elapsed" in text)
    np.testing.assert_array_equal(elements[:, 0], np.array(expected, np.float32))


def test_features_of_different_lag_line_up_at_the_same_tick():
    features = FeatureSet(["bid", "diff(bid)", "diff(diff(bid))"], COLUMNS)
    elements = features.evaluate(T_NS, VALUES)
    assert features.names == ("bid", "diff(bid)", "diff(diff(bid))")
    assert features.columns_used == ("bid",)
    assert elements.dtype == np.float32
    assert elements.flags.c_contiguous
    np.testing.assert_array_equal(elements, [[4, 2, 1]])


def test_times_differ_exactly_where_float64_would_not():
    t_ns = np.array([2**62, 2**62 + 1], np.int64)
    elapsed = FeatureSet(["elapsed()"], ["x"]).evaluate(t_ns, np.zeros((2, 1)))
    assert elapsed[0, 0] == np.float32(1e-9)


def test_what_is_not_finite_comes_back_without_a_warning():
    values = np.array([[0.0, 0.0, -2.0], [1.0, np.nan, -2.0], [-1.0, 0.0, -2.0]])
    features = FeatureSet(["log_return(bid)", 'log1p("odd name")', "imbalance(bid, ask)"], COLUMNS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        elements = features.evaluate(T_NS, values)
    assert np.isinf(elements[0, 0])
    assert np.isnan(elements[:, 1]).all()
    assert np.isnan(elements[0, 2])


def test_shared_expressions_are_computed_once():
    one = FeatureSet(["log_return(mid(bid, ask))"], COLUMNS)
    two = FeatureSet(["log_return(mid(bid, ask))", "diff(mid(bid, ask))"], COLUMNS)
    assert len(two._steps) == len(one._steps) + 1


finite = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(
    st.lists(trees().filter(lambda tree: is_pure([tree])), min_size=1, max_size=4),
    st.integers(1, 40).flatmap(
        lambda m: st.lists(st.tuples(finite, finite, finite), min_size=m, max_size=m)
    ),
    st.data(),
)
def test_any_cut_into_blocks_gives_the_same_bits(features, rows, data):
    compiled = FeatureSet([str(tree) for tree in features], COLUMNS)
    values = np.array(rows)
    t_ns = np.cumsum(np.arange(len(rows), dtype=np.int64) * 1_000_003)
    whole = compiled.evaluate(t_ns, values)
    assert whole.shape == (max(len(rows) - compiled.lag, 0), len(compiled))
    cuts = data.draw(st.sets(st.integers(compiled.lag, len(rows)))) if len(whole) else set()
    edges = sorted({compiled.lag, *cuts, len(rows)}) if len(whole) else []
    for start, stop in itertools.pairwise(edges):
        run = slice(start - compiled.lag, stop)
        part = compiled.evaluate(t_ns[run].copy(), values[run].copy())
        expected = whole[start - compiled.lag : stop - compiled.lag]
        assert part.tobytes() == expected.tobytes()


def test_one_tick_at_a_time_gives_the_bits_of_a_long_block():
    generator = np.random.default_rng(5)
    values = np.exp(generator.normal(size=(3000, 3)))
    t_ns = np.arange(3000, dtype=np.int64) * 1_000_000_007
    features = FeatureSet(["log_return(mid(bid, ask))", "log1p(bid)", "elapsed()"], COLUMNS)
    whole = features.evaluate(t_ns, values)
    single = [
        features.evaluate(t_ns[i - 1 : i + 1], values[i - 1 : i + 1]) for i in range(1, 3000)
    ]
    assert np.concatenate(single).tobytes() == whole.tobytes()


# ---- the check of a single tick and the vectorised features never disagree ---

FEATURES = [
    ["x"],
    ["mid(x, y)", "spread(x, y)", "imbalance(x, y)"],
    ["log_return(mid(x, y))"],
    ["diff(diff(x))", "elapsed()"],
    ["log1p(lag(x))", "imbalance(lag(x), diff(y))"],
    ["1 / (log(x) - y)", "sqrt(abs(x)) * y"],
    ["exp(x) / exp(y)", "where(log1p(x) < y, x / y, tanh(x) - y)"],
    ["log_return(diff(log1p(abs(x))))", "clip(x, -1, y) + lag(y, 6)"],
    ["microprice(x, y, x, 2) / 0.5", "min(x, 3.0) - log_return(y, 3)"],
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
@settings(max_examples=60)
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
    if features[0].count("lag(") > MAX_CHECKED_LAG:
        assert not good


@pytest.mark.parametrize(
    "features", [*FEATURES[:5], ["exp(x) - 2 * y", "diff(x, 9) < 0"]], ids=str
)
def test_usual_ticks_are_surely_good(features: list[str]) -> None:
    """Otherwise each of them would go the long way."""
    made = FeatureSet(features, ["x", "y"])
    table = np.exp(np.random.default_rng(0).normal(size=(200, 2)))
    clock = np.arange(200) * 10**9
    view = table.data.cast("B").cast("d")
    assert all(made.good(view, clock.data, k) for k in range(made.lag, 200))


@pytest.mark.parametrize("feature", ["1 / (F(x) - y)", "where(F(x) == y, 1 / 0, 1)"])
@pytest.mark.parametrize("name", ["log", "exp", "tanh", "log1p"])
def test_the_last_bits_of_a_logarithm_do_not_make_a_bad_tick_good(name: str, feature: str) -> None:
    """Plain Python and NumPy differ in them, and y is what NumPy computes."""
    made = FeatureSet([feature.replace("F", name)], ["x", "y"])
    x = np.exp(np.random.default_rng(1).normal(size=500))
    table = np.stack([x, getattr(np, name)(x)], axis=1)
    clock = np.zeros(len(x), np.int64)
    assert not np.isfinite(made.evaluate(clock, table)).any()
    view = table.data.cast("B").cast("d")
    assert not any(made.good(view, clock.data, k) for k in range(len(x)))


def test_the_last_bits_of_a_large_power_do_not_make_a_bad_tick_good() -> None:
    """They alone are beyond the limit, and y is what plain Python computes."""
    made = FeatureSet(["exp(x) - y"], ["x", "y"])
    x = np.linspace(200.0, 300.0, 1000)
    table = np.stack([x, [math.exp(one) for one in x]], axis=1)
    clock = np.zeros(len(x), np.int64)
    really = (np.abs(made.evaluate(clock, table)) < LIMIT).all(axis=1)
    assert not really.all()
    view = table.data.cast("B").cast("d")
    assert [made.good(view, clock.data, k) for k in range(len(x))] == really.tolist()


@settings(max_examples=20)
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


# ---- features of which the scaler leaves nothing are named once, and no others are ---

SMALL = {"window": 10, "hidden": 2}


def noise(count: int = CHECK_EVERY, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count)


def looked(values: np.ndarray, feature: str = "x", **settings: object) -> list[str]:
    """What is found once the values of a stream have gone through a session."""
    config = build({"features": [feature], **SMALL, **settings})
    session = Session(config, ["x"])
    session.push(Ticks("a", np.zeros(len(values), np.int64), values[:, None]))
    session.catch_up()
    clipped = FeatureMonitor(config)
    found = clipped.check(session)
    assert clipped.check(session) == []
    return found


def test_a_level_far_from_zero_is_named_with_its_range_and_what_to_do() -> None:
    (line,) = looked(1000 + noise())
    assert line.startswith("feature x of the stream a is about ")
    for part in ("mostly 99", "at 10 standard", "diff(x) or log_return(x)", 'scaling = "zscore"'):
        assert part in line


def test_a_constant_is_named() -> None:
    (line,) = looked(np.full(CHECK_EVERY, 7.0))
    assert "feature x of the stream a has been constant, 7" in line


@pytest.mark.parametrize(
    ("values", "feature", "settings"),
    [
        (noise(), "x", {}),
        (9 + noise(), "x", {}),
        (1000 + noise(), "x", {"scaling": "zscore"}),
        (1000 + noise(), "x", {"scaling": "none"}),
        (1000 + noise(), "x", {"clip": 1e6}),
        (1000 + noise(), "diff(x)", {}),
        (1000 + noise(CHECK_EVERY - 1), "x", {}),
    ],
)
def test_nothing_else_is(values, feature, settings) -> None:
    assert looked(values, feature, **settings) == []


def test_what_is_named_really_is_cut() -> None:
    """At the bound that is warned of, 95 % of the scaled values are at the clip."""
    values = (12.3 + noise(4 * CHECK_EVERY)).astype(np.float32)
    assert looked(values.astype(np.float64))
    mean, sd = values[:-1].mean(), values[:-1].std()
    assert abs(mean) > 12 * sd
    assert (np.abs(values) > 10 * sd).mean() > 0.95


def test_of_many_features_and_streams_each_feature_is_named_once() -> None:
    config = build({"features": ["x", "y"], **SMALL})
    session = Session(config, ["x", "y"])
    for stream, level in (("a", 0.0), ("b", 500.0), ("c", 900.0)):
        values = np.stack([noise(), level + noise(seed=1)], axis=1)
        session.push(Ticks(stream, np.zeros(CHECK_EVERY, np.int64), values))
    session.catch_up()
    (line,) = FeatureMonitor(config).check(session)
    assert line.startswith("feature y of the stream b ")


def test_a_predictor_warns_once() -> None:
    predictor = Predictor("x", **SMALL)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for x in 1000 + noise(3 * CHECK_EVERY):
            predictor.step([x])
    assert [w.category for w in caught] == [InputWarning]
    assert caught[0].filename == __file__


def test_a_table_warns_once() -> None:
    frame = {"x": 1000 + noise(20 * CHECK_EVERY)}
    with pytest.warns(InputWarning, match="feature x of the stream series") as caught:
        replay_frame(frame, "x", **SMALL)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    replay_frame(frame, "diff(x)", **SMALL)
