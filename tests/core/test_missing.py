"""Policies of missing values, and repeated ticks with them."""

import math

import numpy as np
import pytest

from stream_lstm.config import build
from stream_lstm.core.expressions import Call, Column
from stream_lstm.core.functions import FUNCTIONS
from stream_lstm.core.missing import (
    Policy,
    _asked,
    missing_policies,
    optional_columns,
)
from stream_lstm.core.old_ticks import NEVER, find_old
from stream_lstm.errors import ConfigurationError, DataError
from stream_lstm.interop.predictor import Predictor

COLUMNS = ("bid", "ask", "size")


def stream(*entries, features=("bid",)):
    return build({"features": features, "on_missing": entries}).stream


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("refuse", Policy()),
        ("zero", Policy("zero")),
        ("last", Policy("last")),
        ("last:5s", Policy("last", 5 * 10**9)),
        ("last:1.5ms", Policy("last", 1_500_000)),
        ("last:20us", Policy("last", 20_000)),
        ("last:2m", Policy("last", 120 * 10**9)),
        ("last:1h", Policy("last", 3600 * 10**9)),
        ("last:3d", Policy("last", 3 * 86_400 * 10**9)),
    ],
)
def test_each_policy_has_a_kind_and_an_age(text, policy):
    assert missing_policies(stream(f"ask={text}"), COLUMNS)["ask"] == policy
    assert missing_policies(stream(f" ask = {text} "), COLUMNS)["ask"] == policy


def test_a_star_is_every_column_without_a_policy_of_its_own():
    for entries in (("*=zero", "bid=refuse"), ("bid=refuse", "*=zero")):
        given = stream(*entries)
        found = missing_policies(given, COLUMNS)
        assert [found[name].kind for name in COLUMNS] == ["refuse", "zero", "zero"]
        assert optional_columns(given, COLUMNS) == ("ask", "size")
    assert optional_columns(stream(), COLUMNS) == ()
    assert missing_policies(stream("a=b=zero"), ("a=b",)) == {"a=b": Policy("zero")}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["aks=zero"], r"'aks=zero': unknown column 'aks'; did you mean 'ask'\? \(there are bid"),
        (["ask"], "write COLUMN=POLICY"),
        (["=zero"], "write COLUMN=POLICY"),
        (["ask=nil"], "with refuse, zero, last or last:5s"),
        (["ask=last:5"], r"units: ns, us, ms, s, m, h, d"),
        (["ask=last:5w"], "units"),
        (["ask=last:0s"], "units"),
        (["ask=last:-5s"], "write COLUMN=POLICY"),
        (["ask=zero:5s"], "write COLUMN=POLICY"),
        (["ask=zero", "ask=last"], "'ask=last': the column 'ask' has a policy already"),
        (["*=zero", "*=last"], "has a policy already"),
    ],
)
def test_a_wrong_entry_is_named_with_the_remedy(entries, words):
    with pytest.raises(ConfigurationError, match=words) as raised:
        missing_policies(stream(*entries), COLUMNS)
    assert raised.value.key == "on_missing"
    with pytest.raises(ConfigurationError, match=words):
        Predictor("bid", COLUMNS, on_missing=entries, hidden=2)


def test_columns_that_missing_names_are_found_anywhere_in_a_tree():
    flagged = Call("missing", (Column("ask"),))
    tree = Call("mid", (Column("bid"), Call("diff", (flagged,))))
    assert list(_asked(tree)) == ["ask"]
    inner = Call("missing", (Call("mid", (Column("bid"), Column("ask"))),))
    assert list(_asked(inner)) == [], "only a column has a raw value that can be missing"


@pytest.mark.parametrize("form", ["zero(size)", "last(size)", "mean(last(size, 5s), 3)"])
def test_functions_that_fill_accept_a_missing_value_without_a_policy(form):
    options = {"hidden": 2, "window": 2, "bptt": 2, "stride": 1}
    one = Predictor(["bid", form], ("bid", "size"), **options)
    assert one.step([1.0, 4.0], t_ns=10**9) is None
    assert one.step([2.0, None], t_ns=2 * 10**9) is not None
    with pytest.raises(DataError, match="'size' of the tick is None, not a number; on_missing"):
        Predictor(["bid", "mean(size, 3)"], ("bid", "size"), hidden=2).step([1.0, None])


def test_zero_fills_nothing_but_missing_values():
    zero = FUNCTIONS["zero"]
    values = np.array([1.5, math.nan, -math.nan, math.inf, -math.inf, -0.0])
    filled = zero.block(values)
    assert filled.tobytes() == np.array([zero.one(x) for x in values.tolist()]).tobytes()
    assert filled.tobytes() == np.array([1.5, 0.0, 0.0, math.inf, -math.inf, -0.0]).tobytes()


def test_a_missing_value_repeats_a_missing_value_and_no_other():
    t_ns, nan = np.full(5, 7, np.int64), math.nan
    values = np.array([[1, nan], [1, nan], [1, 2], [1, 2], [1, nan]])
    latest, last = np.array([NEVER]), np.zeros((1, 2))
    old = find_old(latest, last, np.zeros(1, np.int64), t_ns, values)
    assert old is not None
    assert old.at.tolist() == [1, 3]


@pytest.mark.parametrize("fields", [[1.0, None], [1.0, math.nan], {"x": 1.0}])
def test_a_predictor_refuses_a_repeated_tick_with_a_missing_value(fields):
    one = Predictor("x", ["x", "y"], on_missing=["y=last"], hidden=2, on_old_time="refuse")
    one.step(fields, 10)
    with pytest.raises(DataError, match="it repeats time and values"):
        one.step(fields, 10)
    one.step([1.0, 0.0], 10)
