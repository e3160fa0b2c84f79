"""Within River's pipelines, ensembles and evaluations each `learn_one` is one step."""

from __future__ import annotations

import collections
import pickle

import numpy as np
import pytest

pytest.importorskip("river", reason="River is not installed")

from river import base, compose, drift, ensemble, evaluate, imblearn, metrics, preprocessing
from river.model_selection import SuccessiveHalvingClassifier

from stream_lstm import InputWarning, Predictor, river_classifier
from stream_lstm.errors import DataError
from stream_lstm.interop import river as adapter

pytestmark = pytest.mark.usefixtures("shared_engines")

SMALL = {"window": 6, "bptt": 5, "hidden": 4}
COUNT = 120


@pytest.fixture(scope="module")
def rows():
    """Examples of a series with a strong signal: r, and whether the next is above 0."""
    values = [0.0]
    for shock in np.random.default_rng(0).normal(size=COUNT):
        values.append(0.9 * values[-1] + float(shock))
    return [({"r": values[k], "id": k}, values[k + 1] > 0) for k in range(COUNT)]


@pytest.fixture
def learned(monkeypatch):
    """The number of labels of each classifier, by its identity; and all of them."""
    calls, made = collections.Counter(), {}
    learn_one = adapter.ExampleClassifier.learn_one

    def counted(self, x, y):
        learn_one(self, x, y)
        calls[id(self)] += 1
        made[id(self)] = self

    monkeypatch.setattr(adapter.ExampleClassifier, "learn_one", counted)
    return calls, made


def make(**settings):
    return river_classifier("r", **SMALL | settings)


def steps(model):
    return model.predictor._session.streams["series"].n


def log_loss(rows, model, **how):
    return evaluate.progressive_val_score(rows, model, metrics.LogLoss(), **how).get()


def direct(rows):
    """The log loss of a predictor without River, with the base rate before the warm-up."""
    model = Predictor("r", stride=1, learn=True, labels="external", horizon=0, **SMALL)
    positives, metric = 0, metrics.LogLoss()
    for k, (x, y) in enumerate(rows):
        prediction = model.step(x)
        p = (positives + 0.5) / (k + 1.0) if prediction is None else prediction.p
        metric.update(y, {True: p, False: 1 - p})
        positives += y
        if prediction is not None:
            model.learn(y, prediction.n)
    return metric.get()


@pytest.mark.parametrize(
    "around",
    [lambda m: m, lambda m: compose.Select("r") | m, lambda m: (lambda x: {**x}) | m],
    ids=["alone", "select", "function"],
)
def test_it_is_the_predictor_however_x_is_copied(rows, around):
    model = make()
    assert log_loss(rows, around(model)) == direct(rows)
    assert steps(model) == COUNT
    assert isinstance(model, base.Classifier)


def test_every_kind_of_prediction_may_come_before_a_label(rows):
    model = make()
    pipe, metric = compose.Select("r") | model, metrics.LogLoss()
    for x, y in rows:
        pipe.predict_one(x)
        metric.update(y, pipe.predict_proba_one(x))
        pipe.learn_one(x, y)
    assert metric.get() == direct(rows)
    assert steps(model) == COUNT


def both(model):
    """r and its scaled copy, of which the model takes the scaled one."""
    scaled = compose.Select("r") | preprocessing.StandardScaler()
    return (compose.Select("id") + scaled) | model


AROUND = {
    "scaler": lambda m: preprocessing.StandardScaler() | m,
    "union": both,
    "two scalers": lambda m: (
        preprocessing.StandardScaler() | preprocessing.AdaptiveStandardScaler() | m
    ),
    "bagging": lambda m: ensemble.BaggingClassifier(m, n_models=3, seed=1),
    "bagging behind a scaler": lambda m: (
        preprocessing.StandardScaler() | ensemble.BaggingClassifier(m, n_models=3, seed=1)
    ),
    "bagging of pipelines": lambda m: ensemble.BaggingClassifier(
        preprocessing.StandardScaler() | m, n_models=3, seed=1
    ),
    "ADWIN bagging": lambda m: ensemble.ADWINBaggingClassifier(m, n_models=2, seed=1),
    "boosting": lambda m: ensemble.AdaBoostClassifier(m, n_models=2, seed=1),
    "voting": lambda m: ensemble.VotingClassifier([m, make(seed=1)]),
    "over-sampling": lambda m: imblearn.RandomOverSampler(m, {True: 0.7, False: 0.3}, seed=1),
    "under-sampling": lambda m: imblearn.RandomUnderSampler(m, {True: 0.7, False: 0.3}, seed=1),
    "sampling": lambda m: imblearn.RandomSampler(m, {True: 0.7, False: 0.3}, seed=1),
    "retraining": lambda m: drift.DriftRetrainingClassifier(m, drift.binary.DDM()),
    "selection": lambda m: SuccessiveHalvingClassifier(
        [m, make(seed=1)], metrics.LogLoss(), budget=100, seed=1
    ),
}


@pytest.mark.parametrize("name", AROUND)
def test_each_learn_one_is_a_step_and_nothing_else_is(rows, learned, name):
    calls, made = learned
    evaluate.progressive_val_score(rows, AROUND[name](make()), metrics.Accuracy())
    assert calls
    assert {at: steps(model) for at, model in made.items()} == calls
    assert sum(calls.values()) >= COUNT * 0.4
    if name in ("scaler", "union", "two scalers"):
        assert set(calls.values()) == {COUNT}


def test_it_may_learn_while_predicting(rows):
    model = make()
    with compose.learn_during_predict():
        log_loss(rows, preprocessing.StandardScaler() | model)
    assert steps(model) == COUNT


def test_progress_is_reported(rows):
    model = make()
    pipe = preprocessing.StandardScaler() | model
    states = evaluate.iter_progressive_val_score(rows, pipe, metrics.LogLoss(), step=40)
    assert [(state["Step"], steps(model)) for state in states] == [(40, 40), (80, 80), (120, 120)]


# ---- late labels --------------------------------------------------------------------------


@pytest.mark.parametrize(("delay", "scaled"), [(2, False), (20, False), (2, True), (5, True)])
def test_late_labels_without_a_key_are_rejected(rows, delay, scaled):
    model = make(window=45, bptt=5)
    pipe = preprocessing.StandardScaler() | model if scaled else model
    with pytest.raises(DataError, match=r"the label is late: .* key='id'"):
        log_loss(rows, pipe, delay=delay)


def test_labels_that_are_very_late_without_a_key_warn(rows):
    pipe = preprocessing.StandardScaler() | make()
    with pytest.warns(InputWarning, match="7 predictions since .* key='id'"):
        log_loss(rows, pipe, delay=100)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("delay", [5, lambda x, y: x["id"] % 7])
def test_late_labels_with_a_key_are_each_of_their_own_example(rows, delay, scaled):
    model, calls = make(key="id", max_pending=60), []
    learn = model.predictor.learn
    model.predictor.learn = lambda y, n: calls.append((n, y)) or learn(y, n)
    log_loss(rows, both(model) if scaled else model, delay=delay)
    assert steps(model) == COUNT
    assert sorted(calls) == [(k + 1, rows[k][1]) for k in range(SMALL["window"] - 1, COUNT)]


def test_at_no_delay_a_key_changes_no_bit(rows):
    assert log_loss(rows, make(key="id")) == log_loss(rows, make()) == direct(rows)


def test_a_key_that_a_pipeline_drops_is_named(rows):
    with pytest.raises(DataError, match=r"no field 'id', .* a pipeline must pass it on unchanged"):
        log_loss(rows, compose.Select("r") | make(key="id"))


# ---- copies -------------------------------------------------------------------------------


def test_a_pipeline_is_copied_with_its_state(rows):
    pipe = preprocessing.StandardScaler() | make()
    log_loss(rows[:100], pipe)
    other = pickle.loads(pickle.dumps(pipe))
    assert type(other.steps["StreamLSTMClassifier"]) is type(pipe.steps["StreamLSTMClassifier"])
    assert log_loss(rows[100:], other) == log_loss(rows[100:], pipe)
    assert pipe.clone().steps["StreamLSTMClassifier"]._labels == 0


def test_its_parameters_are_shown(rows):
    assert 'key="id"' in repr(make(key="id"))
