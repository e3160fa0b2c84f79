"""The classifier that River runs gives what a `Predictor` gives that is asked directly."""

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

from stream_lstm import InputWarning, Predictor
from stream_lstm.errors import DataError, ExpressionError, SnapshotError, UsageError
from stream_lstm.interop.river import AHEAD, Examples, river_classifier

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


def numbered(rows):
    """The same examples with a key."""
    return [({**x, "id": k}, y) for k, (x, y) in enumerate(rows)]


def state(model):
    """What the network goes on from, and how many elements it has seen."""
    session = model.predictor._session
    return model.predictor.snapshot(), session.streams["series"].n


@pytest.mark.parametrize(("key", "delay"), [(None, 0), ("id", 0), ("id", 7)])
def test_it_gives_what_a_predictor_gives(rows, key, delay):
    direct = Predictor("x", stride=1, learn=True, labels="external", horizon=0, **SMALL)
    wanted, numbers = [], []
    for k, (x, _) in enumerate(rows):
        prediction = direct.step(x)
        wanted.append(None if prediction is None else prediction.p)
        numbers.append(None if prediction is None else prediction.n)
        if k >= delay and numbers[k - delay] is not None:
            direct.learn(rows[k - delay][1], numbers[k - delay])
    model = Examples("x", key=key, **SMALL)
    found = asked(model, numbered(rows), delay)
    assert wanted[:5] == [None] * 5
    assert found[5:] == wanted[5:]
    assert state(model) == (direct.snapshot(), len(rows))


def test_before_the_network_predicts_it_gives_the_base_rate(rows):
    found = asked(Examples("x", **SMALL), rows[:5])
    truth = [y for _, y in rows]
    assert found == [(sum(truth[:k]) + 0.5) / (k + 1.0) for k in range(5)]


@pytest.mark.parametrize("key", [None, "id"])
def test_an_example_is_one_step_however_often_it_is_asked_about(rows, key):
    model, other = Examples("x", key=key, **SMALL), Examples("x", key=key, **SMALL)
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
    model, other = Examples("x", **SMALL), Examples("x", **SMALL)
    for k, (x, y) in enumerate(rows):
        for far in range(k % 4):
            model.predict_one({"x": float(far)})
        model.predict_one(x)
        for each in (model, other):
            each.learn_one(x, y)
    assert state(model) == state(other)


@pytest.mark.parametrize("key", [None, "id"])
def test_one_dict_that_is_filled_again_is_many_examples(rows, key):
    model, other = Examples("x", key=key, **SMALL), Examples("x", key=key, **SMALL)
    used, found = {}, []
    for x, y in numbered(rows):
        used.update(x)
        found.append(model.predict_proba_one(used)[True])
        model.learn_one(used, y)
    assert found == asked(other, numbered(rows))


def test_without_a_key_a_late_label_is_refused_and_changes_nothing(rows):
    model = Examples("x", **SMALL)
    asked(model, rows[:20])
    before = state(model)
    model.predict_one(rows[20][0])
    model.predict_one(rows[21][0])
    with pytest.raises(DataError, match=r"the label comes late: .* key='id'"):
        model.learn_one(*rows[20])
    assert state(model) == before
    model.predict_one(rows[20][0])
    model.learn_one(*rows[20])
    assert state(model)[1] == 21


@pytest.mark.parametrize(("labels", "most"), [(0, 6), (1, AHEAD)])
def test_without_a_key_many_questions_without_a_label_warn_once(rows, labels, most):
    model = Examples("x", **SMALL)
    asked(model, rows[:labels])
    for x, _ in rows[labels : labels + most]:
        model.predict_one(x)
    with pytest.warns(InputWarning, match=f"{most + 1} predictions .* key='id'") as caught:
        model.predict_one(rows[labels + most][0])
    model.predict_one(rows[labels + most + 1][0])
    assert [w.filename for w in caught] == [__file__]


def test_with_a_key_what_is_never_labelled_is_a_step_too(rows):
    model = Examples("x", key="id", max_pending=4, **SMALL)
    for x, _ in numbered(rows):
        model.predict_one(x)
    assert state(model)[1] == len(rows)
    assert len(model._examples) == 4


def test_with_a_key_a_label_that_belongs_to_no_step_is_refused(rows):
    given = numbered(rows)
    model = Examples("x", key="id", max_pending=4, **SMALL)
    asked(model, given[:20])
    for x, _ in given[20:26]:
        model.predict_one(x)
    before = state(model)
    with pytest.raises(DataError, match=r"id=20 is not among the 4 newest: .* raise max_pending"):
        model.learn_one(*given[20])
    model.learn_one(*given[25])
    with pytest.raises(DataError, match=r"id=25 has its label already; bagging"):
        model.learn_one(*given[25])
    assert state(model)[1] == before[1] == 26


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ({"x": 1.0}, r"x has no field 'id', the key of an example \(it has x\)"),
        ({"x": 1.0, "id": math.nan}, "the key id is not a number"),
        ({"x": 1.0, "id": [1]}, r"the key id=\[1\] cannot be told from others"),
    ],
)
def test_a_key_that_identifies_nothing_is_refused(x, words):
    model = Examples("x", key="id", **SMALL)
    for call in (lambda: model.predict_one(x), lambda: model.learn_one(x, True)):
        with pytest.raises(DataError, match=words):
            call()


def test_mistakes_are_told():
    model = Examples("x", **SMALL)
    with pytest.raises(DataError, match="no field 'x'"):
        model.predict_one({"z": 1.0})
    with pytest.raises(DataError, match="no field 'x'"):
        model.learn_one({"z": 1.0}, True)
    with pytest.raises(UsageError, match="leave labels and horizon out"):
        Examples("x", labels="external")


@pytest.mark.parametrize("y", [3, -1, 0.5, "yes", None, float("nan")])
def test_what_is_no_label_is_refused_from_the_first_x_on_and_changes_nothing(y):
    model = Examples("x", **SMALL)
    model.predict_one({"x": 1.0})
    with pytest.raises(DataError, match=f"a label is a bool, 0 or 1, not {y!r}"):
        model.learn_one({"x": 1.0}, y)
    model.learn_one({"x": 1.0}, np.True_)
    assert (model._labels, model._positives, state(model)[1]) == (1, 1, 1)


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


# ---- copies -------------------------------------------------------------------------------


def halfway(rows, key, delay):
    """A classifier that has seen half of the rows, the last of which wait for labels."""
    model = Examples("x", key=key, **SMALL)
    asked(model, rows[:60], delay)
    return model


def second_half(model, rows, delay):
    """What it gives for the rest, and where that leads."""
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
def test_a_copy_goes_on_to_the_same_bits_and_apart(rows, key, delay, copied):
    rows = numbered(rows)
    model = halfway(rows, key, delay)
    before = model.predictor.snapshot()
    other = copied(model)
    found = second_half(other, rows, delay)
    assert model.predictor.snapshot() == before
    assert second_half(model, rows, delay) == found


def test_a_pickle_goes_on_to_the_same_bits_in_another_process(rows, tmp_path):
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
    """What unpickling imports is in the bytes by name: nothing else may run."""
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


def test_without_river_it_says_what_to_install(monkeypatch):
    from stream_lstm.interop import river

    monkeypatch.setattr(river, "installed", lambda name: None)
    river._class.cache_clear()
    with pytest.raises(UsageError, match="pip install river"):
        river_classifier("x")
