"""The one-stream API: what a caller's own loop sees."""

from __future__ import annotations

import numpy as np
import pytest

from stream_lstm import ConfigurationError, DataError, Prediction, Predictor, StreamLSTMError
from stream_lstm.errors import SnapshotError, UsageError

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
    with pytest.raises(SnapshotError, match="another configuration"):
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
        Predictor("x", weights="w.safetensors")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="there are size"):
        Predictor("price", "size")
