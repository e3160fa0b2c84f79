"""Labels that are missing, of one class, shifted or known in advance are named."""

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

EXTERNAL = {"labels": "external"}


def shifted(values, by: int):
    """A label column in which row i has the sign of row i + by."""
    return np.roll((values > 0).astype(float), -by)


def mostly_zero(moves: float):
    return np.where(np.random.default_rng(2).random(20_000) < moves, noise(20_000), 0.0)


@pytest.mark.parametrize(
    ("values", "level", "zeros", "text"),
    [
        (noise(), "ok", 0.0, "a constant has accuracy 0.515 and log loss 0.6927"),
        (mostly_zero(0.5), "note", 0.5, "compare log loss with"),
        (mostly_zero(0.03), "warning", 0.97, "compare log loss with"),
        (100 + noise(), "fault", 0.0, "--feature 'diff(x)'"),
    ],
)
def test_the_balance_of_labels_is_judged(values, level, zeros, text):
    found = label_balance(series(values), settings())
    assert found.level == level
    assert found.figures["zeros"] == pytest.approx(zeros, abs=0.02)
    assert text in found.evidence + found.remedy


@pytest.mark.parametrize("horizon", [1, 2])
@pytest.mark.parametrize("by", [-1, 1, 2])
def test_a_shifted_label_column_is_named_with_the_horizon_that_fixes_it(by, horizon):
    values = noise()
    config = settings(horizon=horizon, **EXTERNAL)
    found = label_alignment(series(values, labels=shifted(values, by)), config)
    assert (found.level, found.figures["shift"]) == ("fault", by)
    right = horizon - by
    assert f"--horizon {right}" in found.remedy or (right < 0 and "move" in found.remedy)
    assert f"scored on element n + {horizon + by}" in found.evidence


@pytest.mark.parametrize(
    ("labels", "keys", "level", "text"),
    [
        (shifted(noise(), 0), EXTERNAL, "ok", "the sign of that row's target"),
        (shifted(noise(seed=9), 0), EXTERNAL, "ok", "cannot be judged"),
        (1.0 - shifted(noise(), 0), EXTERNAL, "fault", "inverted"),
        (None, {}, "ok", "taken from the series"),
    ],
)
def test_the_place_of_labels_is_judged_where_it_can_be(labels, keys, level, text):
    found = label_alignment(series(noise(), labels=labels), settings(**keys))
    assert found.level == level
    assert text in found.evidence


def test_missing_labels_are_neither_counted_nor_compared():
    values, config = noise(), settings(window=20, **EXTERNAL)
    labels = shifted(values, 0)
    labels[1::2] = np.nan
    some = series(values, labels=labels)
    assert label_alignment(some, config).level == "ok"
    assert labels_of(some, config) == windows_of(3000, config) == 298
    assert len(some.labels(config)) == np.isfinite(labels[1:]).sum()
    labels[20::10] = np.nan
    assert labels_of(series(values, labels=labels), config) == 0


# ---- look-ahead -------------------------------------------------------------------------

PRICE = 100 + np.cumsum(noise())
AHEAD = np.column_stack([PRICE, np.append(np.diff(PRICE), 0.1)])
"""A price, and the next row's change, as `shift(-1)` makes it."""
BARS = np.column_stack([np.roll(PRICE, 1), PRICE])[1:]


@pytest.mark.parametrize(
    ("values", "columns", "features", "level", "text"),
    [
        (AHEAD, "price tip", ["diff(price)", "tip"], "fault", "'tip' contains the label"),
        (AHEAD, "price tip", ["diff(price)"], "note", "'tip' contains the label"),
        (AHEAD, "price tip", ["tip"], "warning",
         "the feature tip is the next row's change of 'price'"),
        (BARS, "open close", ["log_return(close)", "lag(close)", "diff(open)"], "ok", "none"),
    ],
)  # fmt: skip
def test_columns_that_contain_the_label_are_named(values, columns, features, level, text):
    found = look_ahead(series(values, *features, columns=columns), settings(features=features))
    assert found.level == level
    assert text in found.evidence


def test_a_column_that_contains_a_label_column_is_named():
    labels = (noise(seed=8) > 0).astype(float)
    both = np.column_stack([noise(), np.append(labels[1:], 0.0)])
    told = series(both, "x", "spy", columns="x spy", labels=labels)
    config = settings(features=["x", "spy"], **EXTERNAL)
    assert look_ahead(told, config).level == "fault"


# ---- counts -----------------------------------------------------------------------------


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
