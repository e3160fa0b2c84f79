"""Feature expressions: what is parsed, what is refused and where, and what they compute."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.core.expressions import (
    FUNCTIONS,
    MAX_DEPTH,
    MAX_LENGTH,
    Call,
    Column,
    columns_of,
    parse,
)
from stream_lstm.core.features import FeatureSet
from stream_lstm.errors import ConfigurationError, ExpressionError

COLUMNS = ("bid", "ask", "odd name")


def trees(depth: int = 4) -> st.SearchStrategy:
    leaves = st.sampled_from(COLUMNS).map(Column) | st.just(Call("elapsed", ()))

    def calls(inner):
        def of(name):
            return st.tuples(*[inner] * FUNCTIONS[name].arity).map(lambda a: Call(name, a))

        return st.sampled_from([n for n in FUNCTIONS if FUNCTIONS[n].arity]).flatmap(of)

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


@given(trees())
def test_the_text_of_a_tree_parses_to_the_same_tree(tree):
    assert parse(str(tree)) == tree


@given(st.text(max_size=40) | st.text(alphabet='abmid(),"_ 1', max_size=40))
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
        ("foo(x)", 0, "there are diff, elapsed, imbalance, lag, log1p, log_return, mid, spread"),
        ("diff(mid(a))", 5, "mid takes 2 arguments, not 1"),
        ("elapsed(a)", 0, "elapsed takes no arguments, not 1"),
        ("diff(a, b)", 0, "diff takes 1 argument, not 2"),
        ("mid(a, (b))", 7, "expected a column or a function, found '('"),
        ("mid(a b)", 6, "expected ',' or ')', found 'b'; a column with an odd name"),
        ("Close Price (USD)", 6, "found 'Price'; a column with an odd name goes in double quotes"),
        ("zebra (USD)", 0, "mid, spread); a column with an odd name goes in double quotes"),
        ("mid(a, b))", 9, "expected the end of the expression, found ')'"),
        ("diff(mid(a, b)", 4, "never closed"),
        ("diff(", 4, "never closed"),
        ("mid(a,", 3, "never closed"),
        ("a + b", 2, "unexpected character '+'"),
        ("2", 0, "unexpected character '2'"),
        ('diff("a)', 5, "quote is never closed"),
        ("diff(" * 20 + "x" + ")" * 20, 5 * MAX_DEPTH, "more than 16 functions"),
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


@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_ways_to_compute_a_function_agree(name):
    function = FUNCTIONS[name]
    given = np.random.default_rng(0).uniform(0.5, 2.0, size=(max(function.arity, 1), 50))
    block = function.block(*given)
    before = [[*row] for row in given[:, :-1].T] if function.lag else [[]] * 50
    now = given[:, 1:].T if function.lag else given.T
    one = [function.one(*a, *b) for a, b in zip(now, before, strict=True)]
    np.testing.assert_allclose(block, one, rtol=1e-12)


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
    st.lists(trees(), min_size=1, max_size=4),
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
