"""The classifier that River runs gives what a `Predictor` gives that is asked directly."""

import itertools
import math

import numpy as np
import pytest

from stream_lstm import Predictor
from stream_lstm.errors import DataError, ExpressionError, UsageError
from stream_lstm.interop.river import Examples, river_classifier

SMALL = {"window": 6, "bptt": 5, "hidden": 4, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def rows():
    """Examples and labels: y says whether x is above the x before it."""
    values = np.random.default_rng(1).normal(size=120)
    return [({"x": float(b)}, bool(b > a)) for a, b in itertools.pairwise(values)]


def asked(model, rows, delay=0):
    """The p of each example, its label coming `delay` examples later."""
    out = []
    for k, (x, _) in enumerate(rows):
        out.append(model.predict_proba_one(x)[True])
        if k >= delay:
            model.learn_one(*rows[k - delay])
    return out


@pytest.mark.parametrize("delay", [0, 7])
def test_it_gives_what_a_predictor_gives(rows, delay):
    direct = Predictor("x", stride=1, learn=True, labels="external", horizon=0, **SMALL)
    wanted, numbers = [], []
    for k, (x, _) in enumerate(rows):
        prediction = direct.step(x)
        wanted.append(None if prediction is None else prediction.p)
        numbers.append(None if prediction is None else prediction.n)
        if k >= delay and numbers[k - delay] is not None:
            direct.learn(rows[k - delay][1], numbers[k - delay])
    found = asked(Examples("x", **SMALL), rows, delay)
    assert wanted[:5] == [None] * 5
    assert found[5:] == wanted[5:]


def test_before_the_network_predicts_it_gives_the_base_rate(rows):
    found = asked(Examples("x", **SMALL), rows[:5])
    truth = [y for _, y in rows]
    assert found == [(sum(truth[:k]) + 0.5) / (k + 1.0) for k in range(5)]


def test_an_example_is_carried_once_however_often_it_is_asked_about(rows):
    model, other = Examples("x", **SMALL), Examples("x", **SMALL)
    for x, y in rows:
        p = model.predict_proba_one(x)
        assert model.predict_proba_one(x) == p
        assert model.predict_one(x) == (p[True] > 0.5)
        assert math.isclose(sum(p.values()), 1.0)
        model.learn_one(x, y)
        other.learn_one(x, y)
    weights = (m.predictor.weights()["head"]["kernel"] for m in (model, other))
    np.testing.assert_array_equal(*weights)


def test_of_equal_examples_the_oldest_gets_the_label():
    model = Examples("x", **SMALL)
    for _ in range(8):
        model.predict_one({"x": 1.0})
    for _ in range(8):
        model.learn_one({"x": 1.0}, True)
    assert model.predictor.scores()["labels"] == 3


def test_no_more_wait_than_may(rows):
    model = Examples("x", **SMALL, max_pending=4)
    for x, _ in rows:
        model.predict_one(x)
    assert model._count == len(model._waiting) == 4


def test_mistakes_are_told():
    model = Examples("x", **SMALL)
    with pytest.raises(DataError, match="no field 'x'"):
        model.predict_one({"z": 1.0})
    with pytest.raises(UsageError, match="leave labels and horizon out"):
        Examples("x", labels="external")


@pytest.mark.parametrize("y", [3, -1, 0.5, "yes", None, float("nan")])
def test_what_is_no_label_is_refused_from_the_first_x_on_and_changes_nothing(y):
    model = Examples("x", **SMALL)
    model.predict_one({"x": 1.0})
    with pytest.raises(DataError, match=f"a label is a bool, 0 or 1, not {y!r}"):
        model.learn_one({"x": 1.0}, y)
    model.learn_one({"x": 1.0}, np.True_)
    assert (model._labels, model._positives, model._count) == (1, 1, 0)


def test_measured_labels_are_compared_with_the_threshold():
    model = Examples("x", threshold=2.0, **SMALL)
    for y in (1.0, 3.0, 2.0, 5.0):
        model.learn_one({"x": y}, y)
    assert model.predict_proba_one({"x": 0.0})[True] == 2.5 / 5
    with pytest.raises(DataError, match="a label is a finite number, not inf"):
        model.learn_one({"x": 1.0}, math.inf)


def test_an_odd_name_goes_in_quotes():
    with pytest.raises(ExpressionError, match=r"found 'Price'; a column .* goes in double quotes"):
        Examples(["Close Price (USD)"])
    model = Examples(['"Close Price (USD)"'], **SMALL)
    assert model.predict_one({"Close Price (USD)": 1.0}) is False


def test_river_runs_it(rows):
    river = pytest.importorskip("river", reason="River is not installed")
    from river import evaluate, metrics, preprocessing  # noqa: F401

    model = river_classifier("x", **SMALL)
    metric = evaluate.progressive_val_score(rows, model, metrics.Accuracy() + metrics.LogLoss())
    found = asked(Examples("x", **SMALL), rows)
    losses = [-math.log(p if y else 1 - p) for p, (_, y) in zip(found, rows, strict=True)]
    assert metric.get()[1] == pytest.approx(sum(losses) / len(losses))
    assert isinstance(model, river.base.Classifier)
    delayed = evaluate.progressive_val_score(
        rows, model.clone(), metrics.LogLoss(), moment=None, delay=3
    )
    assert delayed.get() > 0
    assert model.clone().predictor.scores()["labels"] == 0


def test_without_river_it_says_what_to_install(monkeypatch):
    from stream_lstm.interop import river

    monkeypatch.setattr(river, "installed", lambda name: None)
    river._class.cache_clear()
    with pytest.raises(UsageError, match="pip install river"):
        river_classifier("x")
