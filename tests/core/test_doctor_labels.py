"""Labels that are missing, one-sided, shifted or foreknown are named."""

from __future__ import annotations

import numpy as np
import pytest

from stream_lstm.core.doctor.labels import (
    label_alignment,
    label_balance,
    label_count,
    labels_of,
    look_ahead,
    window_count,
    windows_of,
)
from stream_lstm.core.evidence import labels_needed
from stream_lstm.core.session import Session
from stream_lstm.events import Score, Ticks

from ..engines import engine_for, settings
from .examined import noise, series


def shifted(values, by: int):
    """A label column in which row i holds the sign of row i + by."""
    return np.roll((values > 0).astype(float), -by)


def test_balanced_labels_are_let_be():
    found = label_balance(series(noise()), settings())
    assert found.level == "ok"
    assert "a constant has accuracy 0.515 and log loss 0.6927" in found.evidence


@pytest.mark.parametrize(("moves", "level"), [(0.5, "note"), (0.03, "warning")])
def test_a_target_that_is_mostly_zero_is_told_with_what_a_constant_reaches(moves, level):
    values = np.where(np.random.default_rng(2).random(20_000) < moves, noise(20_000), 0.0)
    found = label_balance(series(values), settings())
    assert found.level == level
    assert found.figures["zeros"] == pytest.approx(1 - moves, abs=0.02)
    assert "compare log loss with" in found.remedy


def test_labels_of_one_class_are_a_fault():
    found = label_balance(series(100 + noise()), settings())
    assert found.level == "fault"
    assert "--feature 'diff(x)'" in found.remedy


@pytest.mark.parametrize("horizon", [1, 2])
@pytest.mark.parametrize("by", [-1, 1, 2])
def test_a_label_column_that_is_off_is_named_with_the_horizon_that_mends_it(by, horizon):
    values = noise()
    config = settings(labels="external", horizon=horizon)
    found = label_alignment(series(values, labels=shifted(values, by)), config)
    assert (found.level, found.figures["shift"]) == ("fault", by)
    right = horizon - by
    assert f"--horizon {right}" in found.remedy or (right < 0 and "move" in found.remedy)
    assert f"scored on element n + {horizon + by}" in found.evidence


def test_labels_in_their_place_are_let_be_and_unrelated_ones_not_judged():
    values, config = noise(), settings(labels="external")
    assert label_alignment(series(values, labels=shifted(values, 0)), config).level == "ok"
    found = label_alignment(series(values, labels=shifted(noise(seed=9), 0)), config)
    assert found.level == "ok"
    assert "cannot be judged" in found.evidence
    assert label_alignment(series(values), settings()).level == "ok"


def test_labels_that_are_the_other_way_round_are_named():
    values = noise()
    turned = 1.0 - shifted(values, 0)
    found = label_alignment(series(values, labels=turned), settings(labels="external"))
    assert found.level == "fault"
    assert "inverted" in found.evidence


def test_missing_labels_are_neither_counted_nor_compared():
    values, config = noise(), settings(labels="external", window=20)
    labels = shifted(values, 0)
    labels[1::2] = np.nan
    told = series(values, labels=labels)
    assert label_alignment(told, config).level == "ok"
    assert labels_of(told, config) == windows_of(3000, config) == 298
    labels[20::10] = np.nan
    assert labels_of(series(values, labels=labels), config) == 0
    assert len(told.labels(config)) == np.isfinite(labels[1:]).sum()


def walk_with(tip):
    price = 100 + np.cumsum(noise())
    return np.column_stack([price, tip(price)])


def ahead(price):
    """The next row's change, as `shift(-1)` makes."""
    return np.append(np.diff(price), 0.1)


def test_a_feature_that_knows_the_label_is_a_fault_and_an_idle_column_a_note():
    features = ("diff(price)", "tip")
    told = series(walk_with(ahead), *features, columns="price tip")
    found = look_ahead(told, settings(features=features))
    assert found.level == "fault"
    assert "'tip' contains the label" in found.evidence
    alone = series(walk_with(ahead), features[0], columns="price tip")
    assert look_ahead(alone, settings(features=features[:1])).level == "note"


def test_a_target_that_was_shifted_by_hand_is_named():
    told = series(walk_with(ahead), "tip", columns="price tip")
    found = look_ahead(told, settings(features=["tip"]))
    assert found.level == "warning"
    assert "the feature tip is the next row's change of 'price'" in found.evidence


def test_a_column_that_knows_a_label_column_is_named():
    values = noise()
    labels = (noise(seed=8) > 0).astype(float)
    both = np.column_stack([values, np.append(labels[1:], 0.0)])
    told = series(both, "x", "spy", columns="x spy", labels=labels)
    config = settings(features=["x", "spy"], labels="external")
    assert look_ahead(told, config).level == "fault"


def test_an_open_that_is_the_close_before_and_a_lag_are_no_look_ahead():
    price = 100 + np.cumsum(noise())
    bars = np.column_stack([np.roll(price, 1), price])[1:]
    features = ("log_return(close)", "lag(close)", "diff(open)")
    told = series(bars, *features, columns="open close")
    assert look_ahead(told, settings(features=features)).level == "ok"


def test_windows_are_counted_as_a_session_counts_its_labels():
    values = noise(345)[:, None]
    for window, stride, horizon in ((12, 10, 1), (12, 7, 3), (20, 1, 2), (30, 40, 1)):
        config = settings(window=window, stride=stride, horizon=horizon)
        scores = []
        session = Session(config, ("x",), scores.append, engine=engine_for(config))
        session.push(Ticks("a", np.zeros(345, np.int64), values))
        labels = sum(isinstance(event, Score) for event in scores)
        assert windows_of(345, config) == labels
        assert window_count(345, config, labels).level == "ok"


def test_the_questions_windows_are_those_of_another_stride():
    config = settings(window=100, bptt=50)
    found = window_count(1_047_700, config, 10_477)
    assert (found.level, found.figures["stride_of_counted"]) == ("warning", 100)
    assert "104,760 with a label 1 ahead, not 10,477, which a stride of 100" in found.evidence
    assert window_count(1_047_700, config, None).level == "ok"
    assert window_count(5, settings(), None).level == "fault"


def test_the_labels_that_an_effect_needs_are_told_and_how_to_get_them():
    config = settings(window=20)
    found = label_count(1_048, config, 10_500, 0.51)
    assert (found.level, found.figures["needed"]) == ("warning", labels_needed(0.51))
    assert found.figures["needed"] == pytest.approx(15_460, abs=10)
    assert "--stride" not in found.remedy.split(" elements")[0], "not even a stride of 1 is enough"
    enough = label_count(1_048, config, 10_500, 0.55)
    assert enough.level == "ok"
    closer = label_count(1_048, config, 10_500, 0.52).remedy
    stride = int(closer.split()[1].rstrip(","))
    assert windows_of(10_500, settings(window=20, stride=stride)) >= labels_needed(0.52)
