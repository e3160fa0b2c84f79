"""The state check against two sessions, the textbook, and networks whose memory is known."""

import numpy as np
import pytest

from stream_lstm.core.elements import ElementMaker
from stream_lstm.core.evidence import Bet
from stream_lstm.core.losses import log_loss
from stream_lstm.core.proofs import state
from stream_lstm.core.proofs.state import BLOCK, StateCheck, forgetting
from stream_lstm.core.session import Session
from stream_lstm.core.stateful import maker_of
from stream_lstm.events import Prediction, Ticks
from stream_lstm.model.network import Shape, init_weights, seed_key

from ..engines import engine_for, settings

COUNT = 2_300
SERIES = np.random.default_rng(8).normal(size=(COUNT, 1))


def ticks(values):
    return Ticks("s", np.zeros(len(values), np.int64), values)


def checked(values, weights=None, blocks=None, scaler=None, queries=None, **keys):
    config = settings(window=20, stride=3, **keys)
    maker = ElementMaker(config.stream.features, ("x",))
    shape = Shape(1, config.model.hidden, config.model.layers)
    check = StateCheck(
        config,
        maker,
        weights or init_weights(shape, key=seed_key(0)),
        scaler=scaler,
        queries=queries,
    )
    start = 0
    for size in blocks or [len(values)]:
        check.push(ticks(values[start : start + size]))
        start += size
    return check.record()


def in_a_session(mode, **keys):
    """(p by n, mean log loss, accuracy) of a session in one of the modes."""
    events, config = [], settings(window=20, stride=3, mode=mode, **keys)
    session = Session(config, ("x",), events.append, engine=engine_for(config))
    session.push(ticks(SERIES))
    p = {event.n: event.p for event in events if isinstance(event, Prediction)}
    figures = session.streams["s"].scores.means()
    return p, figures["log_loss"], figures["accuracy"]


@pytest.mark.parametrize("horizon", [1, 7])
def test_both_columns_are_those_of_sessions_in_the_two_modes(horizon):
    found = checked(SERIES, horizon=horizon)
    carried, windowed = (in_a_session(mode, horizon=horizon) for mode in ("carry", "window"))
    for name, (_, loss, accuracy) in (("carried", carried), ("windowed", windowed)):
        assert found[name]["log_loss"] == pytest.approx(loss, abs=1e-6)
        assert found[name]["accuracy"] == pytest.approx(accuracy)
    dp = {n: abs(carried[0][n] - windowed[0][n]) for n in carried[0]}
    assert found["predictions"] == len(dp)
    assert found["labels"] == sum(n + horizon <= COUNT for n in dp)
    assert found["mean_abs_dp"] == pytest.approx(np.mean(list(dp.values())), abs=1e-6)
    assert found["max_abs_dp"] == pytest.approx(max(dp.values()), abs=1e-6)
    assert dp[found["max_abs_dp_n"]] == pytest.approx(max(dp.values()), abs=1e-6)
    assert found["max_abs_dp"] > 1e-4


@pytest.mark.parametrize("on_pause", ["continue", "reset", "forget"])
def test_both_columns_are_those_of_sessions_that_pause(on_pause):
    keys = {"features": ["diff(x)"], "pause": "1m", "on_pause": on_pause}
    times = np.arange(1, COUNT + 1) * 10**9
    times[COUNT // 3 :] += 3600 * 10**9
    times[COUNT // 2 :] += 3600 * 10**9
    block, found = Ticks("s", times, SERIES), {}
    for mode in ("carry", "window"):
        config = settings(window=20, stride=3, mode=mode, **keys)
        session = Session(config, ("x",), engine=engine_for(config))
        session.push(block)
        stream = session.streams["s"]
        found[mode] = stream.scores.means()["log_loss"], stream.counters.predictions
    config = settings(window=20, stride=3, **keys)
    weights = init_weights(Shape(1, 4, 1), key=seed_key(0))
    check = StateCheck(config, maker_of(config.stream, ("x",)), weights)
    for start in range(0, COUNT, 77):
        part = slice(start, start + 77)
        check.push(Ticks("s", times[part], SERIES[part]))
    record = check.record()
    assert record["predictions"] == found["carry"][1] == found["window"][1]
    assert record["carried"]["log_loss"] == pytest.approx(found["carry"][0], abs=1e-6)
    assert record["windowed"]["log_loss"] == pytest.approx(found["window"][0], abs=1e-6)


def test_the_bands_are_of_the_differences_of_two_sessions():
    found = checked(SERIES)
    carried, windowed = (in_a_session(mode)[0] for mode in ("carry", "window"))
    band = Bet()
    for n in range(20, COUNT, 3):
        label = int(SERIES[n, 0] > 0)
        band.add(log_loss(windowed[n], label) - log_loss(carried[n], label))
    wanted = dict(zip(("mean", "low", "high"), (band.mean(), *band.interval()), strict=True))
    wanted |= {"log_loss": band.mean(), "cut": 0}
    assert found["windowed_more"] == pytest.approx(wanted, abs=1e-6)
    assert found["fresh_more"]["low"] < 0 < found["fresh_more"]["high"]
    assert found["fresh"] != found["carried"]


def test_labels_that_are_asked_for_are_also_scored_apart():
    asked = np.zeros(COUNT, np.bool_)
    asked[[19, 22, 25, 30]] = True  # after elements 20, 23, 26 and 31, of which 31 is not due
    found = checked(SERIES, queries=asked)["queries"]
    p = in_a_session("carry")[0]
    right = [(p[n] > 0.5) == (SERIES[n, 0] > 0) for n in (20, 23, 26)]
    assert (found["labels"], found["carried"]["accuracy"]) == (3, pytest.approx(np.mean(right)))
    assert checked(SERIES, queries=np.ones(COUNT, np.bool_))["queries"]["labels"] == 760


@pytest.mark.parametrize("blocks", [[1] * 60 + [COUNT - 60], [BLOCK + 1, 999, 276], [COUNT]])
def test_it_does_not_matter_how_the_series_is_cut(blocks):
    assert checked(SERIES, blocks=blocks) == checked(SERIES)


def keeping(forget):
    """Weights of one unit whose state keeps a share sigmoid(forget) of itself each element."""
    kernel = np.zeros((3, 4), np.float32)
    kernel[2] = [-20.0, forget, 0.0, 20.0]  # the input gate is shut, the output gate open
    return {"layer_0": {"kernel": kernel}, "head": {"kernel": np.float32([1.0, 0.0])}}


def test_a_memory_of_known_length_is_measured():
    """c halves each element: |dp| = |tanh(c 2^-k)| / 4 about, below 1e-6 after 17 or 18."""
    found = checked(SERIES, keeping(0.0), hidden=1)["forgetting"]
    assert (found["positions"], found["limit"], found["not_within_limit"]) == (2, 1000, 0)
    assert 10 <= found["median"] <= found["max"] <= 18


def test_the_other_starts_are_zero_and_random():
    """A cell that counts: c is the number of elements since the start, and h is full at once."""
    weights = keeping(30.0)
    weights["layer_0"]["kernel"][2, [0, 2]] = 30.0  # the input gate is open, the candidate one
    config = settings(window=20, stride=3, hidden=1)
    check = StateCheck(config, ElementMaker(("x",), ("x",)), weights)
    check.push(ticks(SERIES[:1025]))  # five elements into the second stretch
    carried, zero, random = np.asarray(check._states)[:, 1]
    assert (carried, zero) == (1025.0, 5.0)
    assert 4.0 < random < 6.0
    assert random != 5.0


def test_a_memory_that_does_not_end_is_not_within_the_limit():
    found = checked(SERIES, keeping(30.0), hidden=1)["forgetting"]
    assert (found["positions"], found["not_within_limit"]) == (2, 2)
    assert found["median"] is None
    assert found["max"] is None


def test_a_network_without_memory_has_forgotten_at_once():
    weights = keeping(0.0)
    weights["head"]["kernel"] = np.zeros(2, np.float32)
    found = checked(SERIES, weights, hidden=1)
    assert (found["max_abs_dp"], found["forgetting"]["max"]) == (0.0, 0)


def test_a_short_series_has_nothing_to_tell():
    for count in (0, 19):
        found = checked(SERIES[:count])
        assert (found["predictions"], found["labels"]) == (0, 0)
        assert found["mean_abs_dp"] is found["max_abs_dp"] is found["max_abs_dp_n"] is None
        assert found["carried"] == {"accuracy": None, "log_loss": None}
        assert found["forgetting"]["positions"] == 0
    assert checked(SERIES[:20])["predictions"] == 1


def test_the_scaler_can_start_from_what_is_known():
    """A deviation of 4 that a thousand million elements stand behind does not move."""
    warm = checked(SERIES, scaler=[1e9, 0.0, 4.0], memory=1e10, gain=2.0)
    halved = checked(SERIES / 2, scaling="none")
    assert warm["max_abs_dp"] == pytest.approx(halved["max_abs_dp"], abs=1e-6)
    assert warm["carried"]["log_loss"] == pytest.approx(halved["carried"]["log_loss"], abs=1e-6)
    assert warm["carried"]["log_loss"] != checked(SERIES)["carried"]["log_loss"]


def test_ticks_that_make_no_element_are_left_out():
    holed = np.insert(SERIES, [5, 700], np.nan, axis=0)
    assert checked(holed) == checked(SERIES)


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(state, "SEGMENT", 50)
    monkeypatch.setattr(state, "SEGMENT_WINDOWS", 1)
    monkeypatch.setattr(state, "MAX_SEGMENTS", 4)
    assert checked(SERIES)["forgetting"]["positions"] == 4


def test_median_and_most():
    assert forgetting([5, 1, 3], 10)["median"] == 3
    assert forgetting([5, 1, 3], 10)["max"] == 5
    some = forgetting([10, 1, 3, 10], 10)
    assert (some["median"], some["max"], some["not_within_limit"]) == (3, None, 2)
    assert forgetting([10, 10, 1], 10)["median"] is None
    assert forgetting([], 10)["median"] is None
