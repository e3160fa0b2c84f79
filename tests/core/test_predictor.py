"""The one-stream API: what a caller's own loop sees."""

from __future__ import annotations

import copy
import datetime
import decimal
import fractions
import math
import pickle
import pickletools
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from stream_lstm import (
    ConfigurationError,
    DataError,
    InputWarning,
    Prediction,
    Predictor,
    StreamLSTMError,
    replay_frame,
)
from stream_lstm.config import build
from stream_lstm.errors import InputMissingError, SnapshotError, UsageError

SETTINGS = {"window": 20, "stride": 5, "hidden": 4, "bptt": 10}


def drive(predictor: Predictor, xs: np.ndarray) -> list[Prediction]:
    made = (predictor.step([x]) for x in xs)
    return [p for p in made if p is not None]


@pytest.fixture(scope="module")
def series() -> np.ndarray:
    return np.random.default_rng(3).normal(size=200)


def test_predictions_come_when_due_and_scores_follow(series: np.ndarray) -> None:
    predictor = Predictor("x", learn=True, **SETTINGS)
    before = predictor.weights()
    made = drive(predictor, series[:100])
    assert [p.n for p in made] == list(range(20, 101, 5))
    assert predictor.scores()["labels"] == len(made) - 1
    assert predictor.last_score is not None
    assert predictor.last_score.label == int(series[95] > 0)
    assert predictor.last_update is not None
    assert predictor.last_update.accepted
    after = predictor.weights()
    assert not np.array_equal(before["head"]["kernel"], after["head"]["kernel"])


def test_a_restored_predictor_goes_on_to_the_same_bits(series: np.ndarray) -> None:
    first = Predictor("diff(x)", learn=True, **SETTINGS)
    drive(first, series[:97])
    taken = first.snapshot()
    second = Predictor("diff(x)", learn=True, **SETTINGS)
    drive(second, series[:33])
    second.restore(taken)
    assert drive(first, series[97:]) == drive(second, series[97:])
    assert first.scores() == second.scores()
    assert first.snapshot() == second.snapshot()


def test_a_snapshot_that_is_damaged_or_foreign_changes_nothing(series: np.ndarray) -> None:
    predictor = Predictor("x", **SETTINGS)
    drive(predictor, series[:50])
    taken = predictor.snapshot()
    for at in (0, 5, 20, len(taken) // 2, len(taken) - 1):
        damaged = bytearray(taken)
        damaged[at] ^= 1
        with pytest.raises(SnapshotError):
            predictor.restore(bytes(damaged))
    for cut in (0, 4, 37, len(taken) - 1):
        with pytest.raises(SnapshotError):
            predictor.restore(taken[:cut])
    other = Predictor("x", **{**SETTINGS, "stride": 4})
    with pytest.raises(SnapshotError, match="stride is 5 in the snapshot, and 4 here"):
        other.restore(taken)
    assert predictor.snapshot() == taken


def test_labels_from_outside(series: np.ndarray) -> None:
    predictor = Predictor("x", labels="external", learn=True, **SETTINGS)
    with pytest.raises(DataError, match="no prediction waits"):
        predictor.learn(1)
    made = drive(predictor, series[:40])
    assert [p.n for p in made] == [20, 25, 30, 35, 40]
    score = predictor.learn(True, n=30)
    assert (score.n, score.label, score.p) == (30, 1, made[2].p)
    assert predictor.learn(0).n == 20
    assert predictor.last_update is None  # learned from after the next publication
    drive(predictor, series[40:45])
    assert predictor.last_update.n == 20
    with pytest.raises(DataError, match="has this label"):
        predictor.learn(1, n=30)
    with pytest.raises(DataError, match="0 or 1"):
        predictor.learn(2)
    with pytest.raises(DataError, match="not a number"):
        predictor.learn("one")
    assert predictor.learn(1, n=50) is None  # its prediction is not there yet
    assert predictor.scores()["labels"] == 2
    restored = Predictor("x", labels="external", learn=True, **SETTINGS)
    restored.restore(predictor.snapshot())
    assert restored.learn(1) == predictor.learn(1)
    assert restored.snapshot() == predictor.snapshot()


def test_what_is_wrong_is_refused_and_changes_nothing(series: np.ndarray) -> None:
    predictor = Predictor(["log_return(mid(bid, ask))", "spread(bid, ask)"], **SETTINGS)
    assert predictor.columns == ("bid", "ask")
    with pytest.raises(UsageError, match="external"):
        predictor.learn(1)
    predictor.step({"bid": 1.0, "ask": 1.1, "venue": 7})
    taken = predictor.snapshot()
    for bad, why in (
        ({"bid": 1.0}, "no field 'ask'"),
        ({"bid": "one", "ask": 1.0}, "not a number"),
        ([1.0], "2 fields"),
        ([float("nan"), 1.0], "bid is nan"),
        ([-1.0, -2.0], "log_return"),
    ):
        with pytest.raises(DataError, match=why):
            predictor.step(bad)
    with pytest.raises(ConfigurationError, match="did you mean 'stride'"):
        Predictor("x", strid=3)
    with pytest.raises(StreamLSTMError, match="layer_0"):
        Predictor("x", weights={"head": {"kernel": np.zeros(3)}})
    counted = predictor.snapshot()
    assert len(counted) == len(taken)
    assert predictor.step([1.0, 1.2]) is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Specifying a key")
def test_an_optimiser_that_draws_at_random_is_restored_with_its_key(series: np.ndarray) -> None:
    first = Predictor("x", learn=True, optimizer="noisy_sgd", **SETTINGS)
    drive(first, series[:60])
    second = Predictor("x", learn=True, optimizer="noisy_sgd", **SETTINGS)
    second.restore(first.snapshot())
    assert drive(first, series[60:]) == drive(second, series[60:])
    assert first.snapshot() == second.snapshot()


def test_what_only_looks_like_a_value_is_refused() -> None:
    predictor = Predictor("x", labels="external", **{**SETTINGS, "hidden": np.int64(4)})
    for fields in ({"x": "1.0"}, ["1.0"], "1", 1.0, None):
        with pytest.raises(DataError):
            predictor.step(fields)
    with pytest.raises(DataError, match="nanoseconds"):
        predictor.step([1.0], t_ns=1.5)
    for value in np.linspace(-1, 1, 20):
        predictor.step(np.array([value]), t_ns=np.int64(1))
    with pytest.raises(DataError, match="0 or 1"):
        predictor.learn(0.5)
    score = predictor.learn(np.bool_(True))
    assert score is not None
    assert score.label == 1


def test_a_label_that_may_be_revised_counts_when_it_is_settled(series: np.ndarray) -> None:
    predictor = Predictor(
        "x", labels="external", revisions="last", threshold=2.5, learn=True, **SETTINGS
    )
    drive(predictor, series[:40])
    assert predictor.learn(3.0, n=20) is None
    assert predictor.learn(2.0, n=20) is None
    assert predictor.scores()["labels"] == 0
    predictor.settle()
    assert predictor.last_score is not None
    assert (predictor.last_score.n, predictor.last_score.label) == (20, 0)
    with pytest.raises(ConfigurationError, match="mapping of layers"):
        Predictor("x", weights=1)  # type: ignore[arg-type]
    with pytest.raises(InputMissingError, match="no such file of weights"):
        Predictor("x", weights="none.safetensors")
    with pytest.raises(ConfigurationError, match="there are size"):
        Predictor("price", "size")


# ---- copies, and what people hand over --------------------------------------------------

ONE_BY_ONE = {"window": 1, "hidden": 2, "stride": 1}
COPIED = {"window": 10, "hidden": 4, "stride": 2}


def moved(**settings):
    predictor = Predictor("x", **COPIED, **settings)
    for k in range(40):
        predictor.step([math.sin(k)])
    return predictor


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [copy.deepcopy, copy.copy, lambda p: pickle.loads(pickle.dumps(p))]
)
@pytest.mark.parametrize("settings", [{}, {"learn": True}], ids=str)
def test_a_copy_continues_to_the_same_bits(how, settings):
    predictor = moved(**settings)
    made = how(predictor)
    assert made.snapshot() == predictor.snapshot()
    assert (made.last_update, made.last_score) == (predictor.last_update, predictor.last_score)
    for k in range(20):
        assert made.step([0.1 * k]) == predictor.step([0.1 * k])
    predictor.step([5.0])
    assert made.snapshot() != predictor.snapshot(), "they have a state each"


@pytest.mark.slow
def test_a_pickle_goes_to_another_process_and_names_no_code_but_the_class(tmp_path):
    predictor = moved(learn=True)
    data = pickle.dumps(predictor)
    (tmp_path / "p").write_bytes(data)
    names = [arg for op, arg, _ in pickletools.genops(data) if op.name == "SHORT_BINUNICODE"]
    modules = {name for name in names if name.startswith("stream_lstm")}
    assert modules <= {"stream_lstm.interop.predictor"}
    code = (
        "import pickle, sys\n"
        "p = pickle.load(open(sys.argv[1], 'rb'))\n"
        "p.step([0.5])\n"
        "print(p.step([0.25]).p)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "p")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second = predictor.step([0.5]), predictor.step([0.25])
    assert first is None
    assert float(done.stdout) == second.p


TICKS = {
    "a list": [1.5],
    "a tuple": (1.5,),
    "an array": np.array([1.5]),
    "of 0 dimensions": [np.array(1.5)],
    "a mapping": {"x": 1.5},
    "a row of pandas": pd.Series({"x": 1.5, "other": 2.0}),
    "a row of itertuples": next(pd.DataFrame({"x": [1.5]}).itertuples(index=False)),
    "a decimal": [decimal.Decimal("1.5")],
    "a fraction": [fractions.Fraction(3, 2)],
    "of JAX": jnp.array([1.5]),
}


@pytest.mark.parametrize("name", TICKS)
def test_what_stands_for_a_tick_is_taken_as_one(name):
    predictor, plain = Predictor("x", **ONE_BY_ONE), Predictor("x", **ONE_BY_ONE)
    for _ in range(3):
        assert predictor.step(TICKS[name]) == plain.step([1.5])


NO_TICKS = {
    "an array without dimensions": (np.array(1.5), "one row of values"),
    "a table": (np.array([[1.5]]), "one row of values"),
    "a number": (1.5, "such as [1.5], not float"),
    "a set": ({1.5}, "not set"),
    "a text": ("1.5", "not str"),
    "a text within": (["1.5"], "is text"),
    "a whole number beyond float": ([10**400], "too large"),
    "complex": ([1 + 0j], "is complex"),
    "complex of NumPy": ([np.complex128(1)], "is complex"),
    "nothing": ([None], "not a number"),
    "a missing value": ([pd.NA], "not a number"),
    "a date": ([datetime.datetime.now(datetime.UTC)], "not a number"),
    "a row of pandas without it": (pd.Series({"y": 1.0, 0: 2.0}), "no field 'x' (it has y, 0)"),
}


@pytest.mark.parametrize("name", NO_TICKS)
def test_what_is_no_tick_is_refused_with_the_remedy(name):
    fields, words = NO_TICKS[name]
    predictor = Predictor("x", **ONE_BY_ONE)
    before = predictor.snapshot()
    with pytest.raises(DataError, match=re.escape(words)):
        predictor.step(fields)
    assert predictor.snapshot() == before


INSTANT = 1_704_067_200_123_456_000


@pytest.mark.parametrize(
    "t_ns",
    [
        np.int64(INSTANT),
        np.datetime64(INSTANT, "ns"),
        pd.Timestamp(INSTANT, tz="UTC"),
        pd.Timestamp(INSTANT, tz="UTC").tz_convert("Asia/Tokyo"),
        pd.Timestamp(INSTANT, tz="UTC").to_pydatetime(),
    ],
    ids=repr,
)
def test_a_time_may_be_a_date_that_knows_its_zone(t_ns):
    assert Predictor("x", **ONE_BY_ONE).step([1.0], t_ns).t_ns == INSTANT


def test_the_nanoseconds_of_a_date_of_pandas_count():
    time = pd.Timestamp(INSTANT + 789, tz="UTC")
    assert Predictor("x", **ONE_BY_ONE).step([1.0], time).t_ns == INSTANT + 789


@pytest.mark.parametrize(
    ("t_ns", "words"),
    [
        (datetime.datetime(2024, 1, 1), "no time zone"),
        (pd.NaT, "NaT"),
        (np.datetime64("NaT"), "whole number of nanoseconds"),
        (1.7e18, "whole number of nanoseconds"),
        ("2024-01-01", "whole number of nanoseconds"),
        (None, "whole number of nanoseconds"),
        (2**63, "64 bits"),
    ],
    ids=repr,
)
def test_what_is_no_time_is_refused(t_ns, words):
    with pytest.raises(DataError, match=words):
        Predictor("x", **ONE_BY_ONE).step([1.0], t_ns)


@pytest.mark.parametrize("n", ["2", None.__class__, 2.5, [2], float("nan"), float("inf")])
def test_what_is_no_number_of_a_prediction_is_refused(n):
    predictor = Predictor("x", **ONE_BY_ONE, labels="external", horizon=0)
    predictor.step([1.0])
    predictor.step([1.0])
    with pytest.raises(DataError, match="is not the number of a prediction"):
        predictor.learn(1, n)
    assert predictor.learn(1, np.int64(2)).n == 2
    assert predictor.learn(1, 1.0).n == 1


def test_text_is_no_label():
    predictor = Predictor("x", **ONE_BY_ONE, labels="external", horizon=0)
    predictor.step([1.0])
    with pytest.raises(DataError, match="'1' is not a number"):
        predictor.learn("1")


def test_the_reach_of_learning_follows_a_shorter_window():
    assert build({"features": ["x"], "learn": True, "window": 20}).learning.bptt == 20
    assert build({"features": ["x"], "learn": True, "window": 200}).learning.bptt == 50
    assert build({"features": ["x"], "learn": True, "window": 20, "bptt": 5}).learning.bptt == 5
    assert build({"features": ["x"], "window": 20}).learning.bptt == 50
    with pytest.raises(ConfigurationError, match="bptt=30 reaches back further"):
        Predictor("x", learn=True, window=20, bptt=30)


def old_times(policy):
    return Predictor("x", window=4, stride=2, hidden=4, on_old_time=policy)


def test_a_predictor_warns_once_of_old_ticks():
    predictor = old_times("warn")
    for t_ns in (1, 2, 3):
        predictor.step([float(t_ns)], t_ns)
    with pytest.warns(InputWarning, match="its time 1970-01-01T00:00:00.000000001Z") as found:
        predictor.step([1.0], 1)
    assert len(found) == 1
    predictor.step([2.0], 2)  # a warning is an error in tests
    assert found[0].filename == __file__


def test_a_predictor_refuses_old_ticks_where_it_is_to_and_is_as_before():
    predictor, other = old_times("refuse"), old_times("refuse")
    for t_ns in (1, 2, 3):
        predictor.step([float(t_ns)], t_ns)
        other.step([float(t_ns)], t_ns)
        with pytest.raises(DataError, match="the tick is refused: it repeats time and values"):
            predictor.step([float(t_ns)], t_ns)
    with pytest.raises(DataError, match="which the stream had reached"):
        predictor.step([9.0], 1)
    for t_ns in (4, 5, 6):
        assert predictor.step([float(t_ns)], t_ns) == other.step([float(t_ns)], t_ns)


def test_a_predictor_takes_old_ticks_without_a_word_where_it_is_to():
    predictor = old_times("take")
    for t_ns in (3, 2, 2, 1):
        predictor.step([1.0], t_ns)


# ---- a tick on trial is predicted as it would be, and leaves no trace ---

PEEKED = {
    "window": 10, "stride": 1, "horizon": 0, "labels": "external", "hidden": 4, "bptt": 5,
    "learn": True,
}  # fmt: skip
XS = np.random.default_rng(0).normal(size=60)


@pytest.mark.parametrize(
    ("feature", "settings"),
    [
        ("x", {}),
        ("diff(x)", {}),
        ("diff(x)", {"learn": False, "stride": 3}),
        ("diff(x)", {"mode": "window"}),
        ("x", {"mode": "window", "calibrate": True, "learn": False}),
        ("diff(x)", {"calibrate": True, "twins": ("frozen", "stateless")}),
        pytest.param("x", {"bank": "default"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_it_has_the_bits_of_the_step_and_leaves_none(feature, settings) -> None:
    one, other = (Predictor(feature, **PEEKED | settings) for _ in range(2))
    made = 0
    for k, x in enumerate(XS):
        p = one.peek({"x": x})
        one.peek([x + 1.0])
        prediction, same = one.step([x]), other.step([x])
        assert prediction == same
        assert p == (None if prediction is None else prediction.p)
        if prediction is not None:
            made += 1
            for predictor in (one, other):
                predictor.learn(k % 2, prediction.n)
    assert made > 10
    assert one.snapshot() == other.snapshot()


def test_what_step_refuses_is_refused() -> None:
    predictor = Predictor("log_return(x)", **PEEKED)
    predictor.step([1.0])
    before = predictor.snapshot()
    with pytest.raises(DataError, match=r"the tick is refused: feature log_return\(x\) is nan"):
        predictor.peek([-1.0])
    with pytest.raises(DataError, match="no field 'x'"):
        predictor.peek({"y": 1.0})
    with pytest.raises(DataError, match="whole number of nanoseconds"):
        predictor.peek([1.0], t_ns=0.5)
    assert predictor.snapshot() == before


def test_labels_of_the_series_leave_nothing_to_try() -> None:
    with pytest.raises(UsageError, match='labels="external"'):
        Predictor("x", window=10, bptt=5, hidden=4).peek([1.0])


def test_a_stream_that_cannot_come_is_named() -> None:
    features = ["x", "of(ES, x)"]
    with pytest.raises(ConfigurationError, match=r"unknown stream ES \(there are series\)"):
        Predictor(features, **ONE_BY_ONE)
    with pytest.raises(ConfigurationError, match=r"unknown stream ES"):
        replay_frame({"x": np.ones(9)}, features, **ONE_BY_ONE)
    assert len(Predictor(["x", "of(series, lag(x))"], **ONE_BY_ONE).columns) == 1
