"""The whole examination: nothing to learn is told from not learning, and health is let be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stream_lstm.core.doctor.inputs import LEVELS, Finding, percent, worst_first
from stream_lstm.core.doctor.trials import BEST, STAY, elements_tried, plant
from stream_lstm.core.expressions import parse

from ..engines import settings
from .examined import bad, diagnose, graded, named, noise

SHORT = 4000


@pytest.mark.parametrize("name", ["s1-ar", "hidden-level"])
def test_a_series_that_is_learned_raises_nothing(name: str):
    found = diagnose(graded(name, SHORT))
    assert bad(found) == {}
    assert found.kind == "learning"
    assert named(found, "planted_signal").figures["gained"] > 0.5


@pytest.mark.slow
def test_nothing_to_learn_is_told_from_not_learning():
    returns = 1e-5 * graded("s0-garch", SHORT)
    found = diagnose(returns)
    assert found.kind == "nothing_found"
    assert bad(found) == {"label_count": "warning"}, "there are too few labels, and no other fault"
    assert named(found, "input_scale").level == "note"
    blind = diagnose(returns, scaling="none")
    assert blind.kind == "not_learning"
    faults = {"input_scale", "constant_output", "planted_signal"}
    assert {name for name, level in bad(blind).items() if level == "fault"} == faults
    assert [one.name for one in blind.findings][:3] == [
        "input_scale",
        "constant_output",
        "planted_signal",
    ]
    assert "3 faults: input_scale" in blind.verdict


def test_a_learner_that_misses_what_a_plain_forecaster_finds_is_told():
    found = diagnose(graded("s1-ar", SHORT), learn_until=1)
    assert found.kind == "missing_it"
    assert named(found, "baselines").figures["logistic_on_lags"]["better"] > 3
    assert (named(found, "model").level, named(found, "planted_signal").level) == ("warning", "ok")


@pytest.mark.slow
def test_a_learner_that_runs_off_is_told():
    found = diagnose(graded("s1-ar", SHORT), max_update=1e-9)
    assert named(found, "updates").level == "fault"
    assert found.kind == "not_learning"


def test_learning_that_is_off_without_weights_is_a_fault():
    values = graded("s1-ar", SHORT)
    assert bad(diagnose(values, learn=False))["learning"] == "fault"


def test_labels_from_a_column_are_learned_from_and_missing_ones_said():
    values = graded("s1-ar", SHORT)
    labels = (values > 0).astype(float)
    found = diagnose(values, labels=labels)
    assert found.kind in ("learning", "missing_it")
    assert named(found, "label_alignment").figures["shift"] == 0
    none = diagnose(values, labels=np.full(SHORT, math.nan))
    assert none.kind == "no_labels"


def test_one_class_and_too_few_elements_end_in_a_sentence_and_not_in_an_error():
    assert diagnose(100 + noise(600)).kind == "one_class"
    assert diagnose(np.zeros(600)).kind == "one_class"
    assert diagnose(noise(15)).kind == "no_labels"
    assert diagnose(noise(0)).kind == "no_labels"


def test_weights_that_do_not_fit_are_named_and_the_rest_is_looked_at_all_the_same():
    weights = {"layer_0": {"kernel": np.zeros((11, 32))}, "head": {"kernel": np.zeros(9)}}
    found = diagnose(graded("s1-ar", SHORT), more={"weights": weights})
    assert bad(found) == {"feature_count": "fault"}
    assert named(found, "model").level == "ok"


def test_the_same_input_gives_the_same_findings():
    values = graded("s1-ar", 1500)
    assert diagnose(values).findings == diagnose(values).findings


# ---- what it rests on -------------------------------------------------------------------


@pytest.mark.parametrize(("horizon", "labels"), [(1, "series"), (3, "external"), (0, "external")])
def test_a_planted_signal_keeps_everything_but_the_signs(horizon: int, labels: str):
    elements = np.column_stack([noise(300), noise(300, 7)]).astype(np.float32)
    elements[::3, 0] = 0.0
    given = plant(elements, settings(horizon=horizon, features=["x", "y"], labels=labels))
    values = given.ticks.values
    assert given.config.learning.learn
    np.testing.assert_array_equal(values[:300, 1], elements[:, 1].astype(float))
    kept = elements[:, 0] != 0
    np.testing.assert_array_equal(np.abs(values[:300, 0])[kept], np.abs(elements[:, 0])[kept])
    signs = values[:, 0] > 0
    back = max(horizon, 1)
    stays = float((signs[back:] == signs[:-back]).mean())
    if labels == "external":
        ahead = 0 if horizon else 1
        assert (given.labels[: len(signs) - ahead] == signs[ahead:]).all()
    assert stays == pytest.approx(STAY, abs=0.01)
    assert (values[:, 0] != 0).all()
    assert pytest.approx(-STAY * math.log(STAY) - 0.2 * math.log(0.2)) == BEST


def test_nothing_is_planted_in_a_target_of_zeros():
    assert plant(np.zeros((50, 1), np.float32), settings()) is None


def test_a_trial_is_no_longer_than_its_labels():
    small, large = settings(window=100, stride=10), settings(window=100, stride=10, hidden=512)
    assert elements_tried(small) == 100 + 1 + 8000 * 10
    assert elements_tried(large) < elements_tried(small)


def test_findings_are_ordered_from_the_worst():
    given = [Finding(level, level, "") for level in LEVELS]
    assert [one.level for one in worst_first(given)] == list(reversed(LEVELS))
    assert [percent(s) for s in (0, 1, 0.123, 0.0004)] == ["0 %", "100 %", "12.3 %", "0.04 %"]


def test_remedies_name_features_that_can_be_read():
    found = diagnose(100 + 0.1 * noise(600))
    text = named(found, "input_scale").remedy.split("--feature '")[1].split("'")[0]
    assert str(parse(text)) == text == "diff(x)"
