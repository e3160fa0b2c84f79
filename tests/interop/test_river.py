"""The classifier for River is a `Predictor`, and detects late labels."""

import copy
import hashlib
import itertools
import math
import pickle
import pickletools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm import InputWarning, Predictor
from stream_lstm.errors import DataError, ExpressionError, SnapshotError, UsageError
from stream_lstm.interop import river
from stream_lstm.interop.river import (
    MAX_UNANSWERED,
    RECENT,
    ExampleClassifier,
    Lateness,
    river_classifier,
)

pytestmark = pytest.mark.usefixtures("shared_engines")

SMALL = {"window": 6, "bptt": 5, "hidden": 4, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def rows():
    """Examples and labels: y says whether x is above the x before it."""
    values = np.random.default_rng(1).normal(size=120)
    return [({"x": float(b)}, bool(b > a)) for a, b in itertools.pairwise(values)]


def predicted(model, rows, delay=0):
    """The p of each example, its label coming `delay` examples later."""
    out = []
    for k, (x, _) in enumerate(rows):
        out.append(model.predict_proba_one(x)[True])
        if k >= delay:
            model.learn_one(*rows[k - delay])
    return out


def numbered(rows):
    """The same examples with a key."""
    return [({**x, "id": k}, y) for k, (x, y) in enumerate(rows)]


def state(model):
    """The snapshot, and the number of elements."""
    session = model.predictor._session
    return model.predictor.snapshot(), session.streams["series"].n


@pytest.mark.parametrize(("key", "delay"), [(None, 0), ("id", 0), ("id", 7)])
def test_its_predictions_are_those_of_a_predictor(rows, key, delay):
    direct = Predictor("x", stride=1, learn=True, labels="external", horizon=0, **SMALL)
    wanted, numbers = [], []
    for k, (x, _) in enumerate(rows):
        prediction = direct.step(x)
        wanted.append(None if prediction is None else prediction.p)
        numbers.append(None if prediction is None else prediction.n)
        if k >= delay and numbers[k - delay] is not None:
            direct.learn(rows[k - delay][1], numbers[k - delay])
    model = ExampleClassifier("x", key=key, **SMALL)
    found = predicted(model, numbered(rows), delay)
    assert wanted[:5] == [None] * 5
    assert found[5:] == wanted[5:]
    assert state(model) == (direct.snapshot(), len(rows))


def test_the_first_predictions_are_the_base_rate(rows):
    found = predicted(ExampleClassifier("x", **SMALL), rows[:5])
    labels = [y for _, y in rows]
    assert found == [(sum(labels[:k]) + 0.5) / (k + 1.0) for k in range(5)]


@pytest.mark.parametrize("key", [None, "id"])
def test_an_example_is_one_step_however_often_it_is_predicted(rows, key):
    model, other = (
        ExampleClassifier("x", key=key, **SMALL),
        ExampleClassifier("x", key=key, **SMALL),
    )
    for x, y in numbered(rows):
        p = model.predict_proba_one(x)
        assert model.predict_proba_one(dict(x)) == p
        assert model.predict_one(x) == (p[True] > 0.5)
        assert math.isclose(sum(p.values()), 1.0)
        model.learn_one(dict(x), y)
        other.learn_one(x, y)
    assert state(model) == state(other)
    assert state(model)[1] == len(rows)


def test_without_a_key_predictions_leave_no_trace(rows):
    model, other = ExampleClassifier("x", **SMALL), ExampleClassifier("x", **SMALL)
    for k, (x, y) in enumerate(rows):
        for far in range(k % 4):
            model.predict_one({"x": float(far)})
        model.predict_one(x)
        for each in (model, other):
            each.learn_one(x, y)
    assert state(model) == state(other)


@pytest.mark.parametrize("key", [None, "id"])
def test_one_dict_that_is_filled_again_is_many_examples(rows, key):
    model, other = (
        ExampleClassifier("x", key=key, **SMALL),
        ExampleClassifier("x", key=key, **SMALL),
    )
    used, found = {}, []
    for x, y in numbered(rows):
        used.update(x)
        found.append(model.predict_proba_one(used)[True])
        model.learn_one(used, y)
    assert found == predicted(other, numbered(rows))


def test_without_a_key_a_late_label_is_rejected_and_changes_nothing(rows):
    model = ExampleClassifier("x", **SMALL)
    predicted(model, rows[:20])
    before = state(model)
    model.predict_one(rows[20][0])
    model.predict_one(rows[21][0])
    with pytest.raises(DataError, match=r"the label is late: .* key='id'"):
        model.learn_one(*rows[20])
    assert state(model) == before
    model.predict_one(rows[20][0])
    model.learn_one(*rows[20])
    assert state(model)[1] == 21


@pytest.mark.parametrize(("labels", "most"), [(0, 6), (1, MAX_UNANSWERED)])
def test_without_a_key_many_predictions_without_a_label_warn_once(rows, labels, most):
    model = ExampleClassifier("x", **SMALL)
    predicted(model, rows[:labels])
    for x, _ in rows[labels : labels + most]:
        model.predict_one(x)
    with pytest.warns(InputWarning, match=f"{most + 1} predictions .* key='id'") as caught:
        model.predict_one(rows[labels + most][0])
    model.predict_one(rows[labels + most + 1][0])
    assert [w.filename for w in caught] == [__file__]


def test_with_a_key_an_example_without_a_label_is_a_step_too(rows):
    model = ExampleClassifier("x", key="id", max_pending=4, **SMALL)
    for x, _ in numbered(rows):
        model.predict_one(x)
    assert state(model)[1] == len(rows)
    assert len(model._examples) == 4


def test_with_a_key_a_label_without_a_step_is_rejected(rows):
    keyed = numbered(rows)
    model = ExampleClassifier("x", key="id", max_pending=4, **SMALL)
    predicted(model, keyed[:20])
    for x, _ in keyed[20:26]:
        model.predict_one(x)
    before = state(model)
    with pytest.raises(DataError, match=r"id=20 is not among the 4 newest: .* raise max_pending"):
        model.learn_one(*keyed[20])
    model.learn_one(*keyed[25])
    with pytest.raises(DataError, match=r"id=25 already has a label; bagging"):
        model.learn_one(*keyed[25])
    assert state(model)[1] == before[1] == 26


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ({"x": 1.0}, r"x has no field 'id', the key of an example \(it has x\)"),
        ({"x": 1.0, "id": math.nan}, "the key id is not a number"),
        ({"x": 1.0, "id": [1]}, r"the key id=\[1\] is not hashable"),
    ],
)
def test_an_invalid_key_is_rejected(x, words):
    model = ExampleClassifier("x", key="id", **SMALL)
    for call in (lambda: model.predict_one(x), lambda: model.learn_one(x, True)):
        with pytest.raises(DataError, match=words):
            call()


def test_mistakes_are_reported():
    model = ExampleClassifier("x", **SMALL)
    with pytest.raises(DataError, match="no field 'x'"):
        model.predict_one({"z": 1.0})
    with pytest.raises(DataError, match="no field 'x'"):
        model.learn_one({"z": 1.0}, True)
    with pytest.raises(UsageError, match="remove labels and horizon"):
        ExampleClassifier("x", labels="external")


@pytest.mark.parametrize("y", [3, -1, 0.5, "yes", None, float("nan")])
def test_an_invalid_label_is_rejected_and_changes_nothing(y):
    model = ExampleClassifier("x", **SMALL)
    model.predict_one({"x": 1.0})
    with pytest.raises(DataError, match=f"a label is a bool, 0 or 1, not {y!r}"):
        model.learn_one({"x": 1.0}, y)
    model.learn_one({"x": 1.0}, np.True_)
    assert (model._labels, model._positives, state(model)[1]) == (1, 1, 1)


def test_measured_labels_are_compared_with_the_threshold():
    model = ExampleClassifier("x", threshold=2.0, **SMALL)
    for y in (1.0, 3.0, 2.0, 5.0):
        model.learn_one({"x": y}, y)
    assert model.predict_proba_one({"x": 0.0})[True] == 2.5 / 5
    with pytest.raises(DataError, match="a label is a finite number, not inf"):
        model.learn_one({"x": 1.0}, math.inf)


def test_an_odd_name_goes_in_quotes():
    with pytest.raises(ExpressionError, match=r"found 'Price'; a column .* goes in double quotes"):
        ExampleClassifier(["Close Price (USD)"])
    model = ExampleClassifier(['"Close Price (USD)"'], **SMALL)
    assert model.predict_one({"Close Price (USD)": 1.0}) is False


# ---- copies -------------------------------------------------------------------------------


def halfway(rows, key, delay):
    """A classifier that has seen half of the rows, the last of which wait for labels."""
    model = ExampleClassifier("x", key=key, **SMALL)
    predicted(model, rows[:60], delay)
    return model


def second_half(model, rows, delay):
    """Its predictions for the rest, and its state after them."""
    found = []
    for k, (x, _) in enumerate(rows[60:], 60):
        found.append(model.predict_proba_one(x))
        model.learn_one(*rows[k - delay])
    return found, state(model), (model._labels, model._positives)


@pytest.mark.parametrize(("key", "delay"), [(None, 0), ("id", 0), ("id", 7)])
@pytest.mark.parametrize(
    "copied",
    [
        lambda model: pickle.loads(pickle.dumps(model)),
        copy.deepcopy,
        lambda model: model.clone(include_attributes=True),
    ],
    ids=["pickle", "deepcopy", "clone"],
)
def test_a_copy_continues_with_the_same_bits_on_its_own(rows, key, delay, copied):
    rows = numbered(rows)
    model = halfway(rows, key, delay)
    before = model.predictor.snapshot()
    other = copied(model)
    found = second_half(other, rows, delay)
    assert model.predictor.snapshot() == before
    assert second_half(model, rows, delay) == found


@pytest.mark.slow
def test_a_pickle_continues_with_the_same_bits_in_another_process(rows, tmp_path):
    rows = numbered(rows)
    model = halfway(rows, "id", 7)
    (tmp_path / "model.pickle").write_bytes(pickle.dumps((model, rows)))
    code = """
import hashlib, pickle, sys
model, rows = pickle.load(open(sys.argv[1], "rb"))
for k, (x, _) in enumerate(rows[60:], 60):
    print(model.predict_proba_one(x)[True].hex())
    model.learn_one(*rows[k - 7])
print(hashlib.sha256(model.predictor.snapshot()).hexdigest())
"""
    line = [sys.executable, "-c", code, str(tmp_path / "model.pickle")]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    found, (snapshot, _), _ = second_half(model, rows, 7)
    wanted = [p[True].hex() for p in found] + [hashlib.sha256(snapshot).hexdigest()]
    assert done.stdout.split() == wanted


def test_the_bytes_of_a_pickle_name_one_function_and_plain_values(rows):
    """The bytes name all that unpickling imports, so nothing else can run."""
    data = pickle.dumps(halfway(numbered(rows), "id", 3))
    named = [text for op, text, _ in pickletools.genops(data) if op.name == "SHORT_BINUNICODE"]
    assert "_restored" in named
    assert sum(op.name in ("STACK_GLOBAL", "GLOBAL") for op, *_ in pickletools.genops(data)) == 1


def test_a_clone_has_the_parameters_and_has_seen_nothing(rows):
    model = halfway(numbered(rows), "id", 0)
    fresh, other = model.clone(), model.clone({"hidden": 3, "key": None})
    assert fresh.predictor.scores()["labels"] == fresh._labels == 0
    assert (fresh.features, fresh.key, fresh.settings) == ("x", "id", SMALL)
    assert (other.key, other.settings) == (None, SMALL | {"hidden": 3})
    with pytest.raises(SnapshotError, match="another configuration"):
        model.clone({"hidden": 3}, include_attributes=True)


def test_without_river_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(river, "installed", lambda name: None)
    river._class.cache_clear()
    with pytest.raises(UsageError, match="pip install river"):
        river_classifier("x")


# ---- late labels ----------------------------------------------------------------------------

XS = np.random.default_rng(0).normal(size=400)


PERIODIC = np.sin(np.arange(400) * 2 * np.pi / 24)


def scaled_late_at(xs, delay, fade=None):
    """The same behind a scaler that learns, from all values or with a fading average."""
    lateness, n, mean, square = Lateness(1), 0, 0.0, 0.0
    for k, x in enumerate(xs):
        sd = np.sqrt(square) or 1.0
        lateness.predicted((float((x - mean) / sd),))
        if k < delay:
            continue
        n += 1
        change = (xs[k - delay] - mean) * (fade or 1 / n)
        square = (1 - (fade or 1 / n)) * (square + change * (xs[k - delay] - mean))
        mean += change
        sd = np.sqrt(square) or 1.0
        if lateness.is_late((float((xs[k - delay] - mean) / sd),)):
            return k - delay
        lateness.labelled()
    return None


def late_at(delay: int, skip: int = 1) -> int | None:
    """The index of the first label detected as late, of labels `delay` predictions late.

    skip: only each so-many-th example has a label.
    """
    lateness = Lateness(1)
    for k, x in enumerate(XS):
        lateness.predicted((float(x),))
        if k < delay or (k - delay) % skip:
            continue
        if lateness.is_late((float(XS[k - delay]),)):
            return k - delay
        lateness.labelled()
    return None


@pytest.mark.parametrize("delay", [1, 5, 30])
def test_unchanged_values_show_at_the_first_label(delay) -> None:
    assert late_at(delay) == 0


@pytest.mark.parametrize("skip", [1, 3, 7])
def test_labels_in_time_are_not_late(skip) -> None:
    assert late_at(0, skip) is None


@pytest.mark.parametrize("xs", [XS, np.cumsum(XS), PERIODIC], ids=["noise", "walk", "sine"])
@pytest.mark.parametrize("delay", [2, 5, 30, RECENT - 10])
def test_scaled_values_show_after_some_labels(xs, delay) -> None:
    assert scaled_late_at(xs, delay) is not None


@pytest.mark.parametrize("xs", [XS, np.cumsum(XS), PERIODIC], ids=["noise", "walk", "sine"])
@pytest.mark.parametrize("fade", [None, 0.01, 0.3])
def test_scaled_labels_in_time_are_not_late(xs, fade) -> None:
    """A scaler that fades fast changes values so much that another prediction is nearer."""
    assert scaled_late_at(xs, 0, fade) is None


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0]), st.integers(0, 3)), max_size=60))
def test_a_label_right_after_its_prediction_is_never_late(steps) -> None:
    """For any values, and any number of labels of each."""
    lateness = Lateness(1)
    for value, times in steps:
        lateness.predicted((value,))
        for _ in range(times):
            assert not lateness.is_late((value,))
            lateness.labelled()


def test_labels_without_predictions_are_never_late() -> None:
    lateness = Lateness(1)
    for x in XS[:100]:
        lateness.predicted((float(x),))
    for x in [*XS[100:], *XS[:50]]:
        lateness.labelled()
        assert not lateness.is_late((float(x),))
