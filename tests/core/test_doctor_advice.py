"""Remedies never propose what is set already, or what other settings exclude."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.config import build, flatten
from stream_lstm.core.doctor.advice import proposed, slower
from stream_lstm.core.doctor.inputs import (
    crossed_quotes,
    input_scale,
    missing_values,
    time_gaps,
    time_order,
)
from stream_lstm.core.doctor.labels import label_balance, label_count
from stream_lstm.core.doctor.trials import Forecast, model, planted_signal

from ..engines import settings
from .examined import SECOND, noise, series, table

OPTIONS = {
    "scaling": ["sd", "zscore", "none"],
    "bank": ["default", "none"],
    "optimizer": ["dekf", "adam"],
    "learning_rate": ["1e-3", "0.01"],
    "gain": ["2", "1"],
}


@given(st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in OPTIONS.items()}))
def test_each_proposed_setting_can_be_set_and_changes_something(has: dict[str, str]) -> None:
    config = build({"learn": True} | has)
    every = [f"--{key.replace('_', '-')} {value}" for key in OPTIONS for value in OPTIONS[key]]
    told = proposed(config, *every).split(", or ")
    present = flatten(config)
    for setting in every:
        key, value = setting[2:].replace("-", "_", 1).split()
        key = key.replace("learning-rate", "learning_rate")
        is_there = str(present[key]) == value or present[key] == pytest.approx(_number(value))
        assert (setting in told) != is_there


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def test_a_setting_that_others_exclude_is_not_proposed() -> None:
    assert proposed(settings(learn=False), "--bank default", "--scaling zscore") == (
        "--scaling zscore"
    )


@pytest.mark.parametrize(
    ("has", "setting"),
    [
        ({"learning_rate": 0.01}, "--learning-rate 0.001"),
        ({"optimizer": "dekf"}, "--optimizer-args p0=0.1"),
        ({"optimizer": "dekf", "optimizer_args": ["p0=0.01"]}, "--optimizer-args p0=0.001"),
    ],
)
def test_smaller_steps_are_smaller_than_those_that_are_set(has: Any, setting: str) -> None:
    assert slower(settings(learn=True, **has)) == setting


class Planted:
    """A trial with forecasts of one log loss."""

    def __init__(self, log_loss: float) -> None:
        self.log_loss = log_loss

    def forecast(self, name: str, *, skip: float) -> Forecast:
        return Forecast(name, 1000, 0.8, self.log_loss, 0.6931, 9.0, 0.0)


def test_luck_gains_no_more_than_there_is() -> None:
    found = planted_signal(Planted(0.48), settings(learn=True))  # type: ignore[arg-type]
    assert found.figures["gained"] == 1.0
    assert "(100 % of what there is to gain)" in found.evidence


def test_a_learner_that_is_used_is_not_proposed() -> None:
    blind = Planted(0.6931)
    plain = [Forecast(name, 99, 0.6, 0.6, 0.69, 9.0, 0.0) for name in ("base rate", "best")]
    loser = Forecast("model", 99, 0.5, 0.7, 0.69, 0.0, 1.0)
    better = Forecast("model", 99, 0.7, 0.65, 0.69, 9.0, 0.0)
    for has, forbidden in (
        ({"bank": "default"}, ("--bank", "--optimizer", "--learning-rate")),
        ({"optimizer": "dekf"}, ("--optimizer", "--learning-rate")),
        ({"learning_rate": 1e-3}, ("--learning-rate",)),
    ):
        config = settings(learn=True, **has)
        remedies = planted_signal(blind, config).remedy  # type: ignore[arg-type]
        if "bank" in has:
            remedies += "".join(model(one, plain, config, True).remedy for one in (loser, better))
        assert not [flag for flag in forbidden if flag in remedies]
    assert "--bank default" in model(loser, plain, settings(learn=True), True).remedy


def test_times_that_were_declined_are_not_asked_for() -> None:
    without = table(noise())._replace(t_ns=None)
    found = time_order(without, timed=False)
    assert (found.level, found.remedy) == ("ok", "")
    assert "--time COLUMN" not in found.evidence + time_gaps(without, timed=False).evidence


def test_what_is_a_feature_or_a_policy_already_is_not_proposed() -> None:
    steps = np.full(3000, SECOND)
    steps[700] = 9_000 * SECOND
    gaps = table(noise(), t_ns=np.cumsum(steps))
    assert "elapsed()" in time_gaps(gaps).remedy
    assert time_gaps(gaps, features=("x", "log1p(elapsed())")).remedy == ""
    holes = series(noise())
    holes.table.values[::7] = np.nan
    assert "--on-missing" in missing_values(holes).remedy
    for policies in (("x=last",), ("*=zero",)):
        assert missing_values(holes, policies).remedy == ""
    assert "--on-missing" in missing_values(holes, ("y=last",)).remedy


@pytest.mark.parametrize(
    ("features", "proposes"),
    [
        (["log_return(mid(bid, ask))"], False),
        (["log_return(mid(bid, ask))", "log(ask / bid)"], True),
        (["diff(bid)"], True),
    ],
)
def test_a_mid_that_is_used_is_not_proposed(features: list[str], proposes: bool) -> None:
    quotes = np.column_stack([100 + noise(), 101 + noise(seed=6)])
    found = crossed_quotes(table(quotes, columns="bid ask"), features)
    assert ("mid(bid, ask)" in found.remedy) == proposes


def test_a_scaler_that_centers_is_not_proposed_to_itself() -> None:
    drifting = series(np.exp(np.linspace(0.0, 80.0, 3000)))
    for scaling in ("sd", "zscore"):
        found = input_scale(drifting, settings(scaling=scaling))
        assert f"--scaling {scaling}" not in found.remedy
        assert "--gain 2 --clip 10" not in found.remedy


def test_no_label_advice_repeats_the_stride_or_the_fault() -> None:
    config = settings(window=100, stride=10)
    assert "--stride 10, or" not in label_count(100, config, 100_000, 0.52).remedy
    assert "diff" not in label_balance(series(np.zeros(600)), settings()).remedy
