"""Which columns foreknow the label, and which only look as if they did."""

import numpy as np
import pytest

from stream_lstm.core.elements import ElementMaker
from stream_lstm.core.proofs.causality import LookAhead
from stream_lstm.events import Ticks

COUNT = 3000
RETURNS = np.random.default_rng(2).standard_t(4, COUNT) * 1e-4
PRICE = 100 * np.exp(np.cumsum(RETURNS))


def ahead(values, by=1):
    return np.concatenate([values[by:], values[:by]])


def found(columns, feature, *, horizon=1, blocks=(COUNT,)):
    maker = ElementMaker((feature,), tuple(columns))
    check = LookAhead(maker, horizon)
    values = np.column_stack(list(columns.values())).astype(np.float64)
    start = 0
    for size in blocks:
        part = values[start : start + size]
        check.push(Ticks("s", np.zeros(len(part), np.int64), part))
        start += size
    return check.found()


GUILTY = {
    "the next return": ahead(RETURNS),
    "the next return, of other size and sign": 5 - 3e6 * ahead(RETURNS),
    "the label": ahead(RETURNS) > 0,
    "the label as -1 and 1, with slips": np.where(
        np.arange(COUNT) % 200 == 0, 1, np.sign(ahead(RETURNS))
    ),
    "the next price": ahead(PRICE),
}


@pytest.mark.parametrize("name", GUILTY)
def test_a_column_that_knows_the_label_is_named(name):
    (one,) = found({"price": PRICE, "other": GUILTY[name]}, "log_return(price)")
    assert one["column"] == "other"
    assert one["next"] > 0.99 > 0.9 > one["own"]
    assert one["kind"] == ("change" if name == "the next price" else "value")
    assert one["relation"] == ("sign" if "label" in name else "correlation")


INNOCENT = {
    "the return": RETURNS,
    "the price before": ahead(PRICE, -1),
    "a constant": np.ones(COUNT),
    "noise": np.random.default_rng(9).normal(size=COUNT),
    "a hint": ahead(RETURNS) + 1e-4 * np.random.default_rng(9).normal(size=COUNT),
}


@pytest.mark.parametrize("name", INNOCENT)
def test_a_column_that_does_not_is_left_alone(name):
    assert found({"price": PRICE, "other": INNOCENT[name]}, "log_return(price)") == []


def test_a_target_that_hardly_changes_is_related_to_both_sides():
    level = np.cumsum(np.random.default_rng(1).normal(size=COUNT))
    assert found({"x": level, "twin": level + 1e-3}, "x") == []
    assert [one["column"] for one in found({"x": level, "next": ahead(level)}, "x")] == ["next"]


def test_a_constant_knows_a_rare_label_no_better_than_anyone():
    rare = np.where(np.arange(COUNT) % 150 == 0, 1.0, -1.0)
    assert found({"x": rare, "low": -np.ones(COUNT), "noise": INNOCENT["noise"]}, "x") == []
    assert [one["column"] for one in found({"x": rare, "next": ahead(rare)}, "x")] == ["next"]


def test_it_is_the_label_of_the_horizon_that_counts():
    columns = {"price": PRICE, "third": ahead(RETURNS, 3)}
    assert [one["column"] for one in found(columns, "log_return(price)", horizon=3)] == ["third"]
    assert found(columns, "log_return(price)") == []


@pytest.mark.parametrize("blocks", [(1, 1, 1, 7, 990, 2000), (2999, 1), (COUNT,)])
@pytest.mark.parametrize("horizon", [1, 4])
def test_it_does_not_matter_how_the_series_is_cut(blocks, horizon):
    price = PRICE.copy()
    price[[0, 5, 1500]] = np.nan, 0.0, -1.0
    columns = {"price": price, "other": ahead(RETURNS, horizon)}
    (whole,) = found(columns, "log_return(price)", horizon=horizon)
    (cut,) = found(columns, "log_return(price)", horizon=horizon, blocks=blocks)
    assert cut["column"] == whole["column"] == "other"
    assert cut["next"] == pytest.approx(whole["next"])
    assert cut["own"] == pytest.approx(whole["own"])


def test_little_is_no_proof():
    columns = {"price": PRICE, "other": ahead(RETURNS)}
    assert found(columns, "log_return(price)", blocks=(90,)) == []
