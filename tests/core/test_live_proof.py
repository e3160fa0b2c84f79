"""Where two runs part, and the cause that is named: planted differences of every kind."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from stream_lstm.core.elements import ElementMaker
from stream_lstm.core.pauses import NO_PAUSES, Pauses
from stream_lstm.core.proofs.live import Recording, RunDifference, first_difference
from stream_lstm.core.session import Session
from stream_lstm.events import Output, Prediction, Ticks
from stream_lstm.model.network import Shape, init_weights, seed_key

from ..engines import engine_for, settings

XS = np.random.default_rng(6).normal(size=(80, 2))
CONFIG = settings(features=["diff(a)", "b"], learn=True, stride=4)


class Altered:
    """A recording whose events are changed on the way."""

    def __init__(self, recording: Recording, n: int) -> None:
        self.recording, self.n = recording, n

    def __call__(self, event: Output) -> None:
        if isinstance(event, Prediction) and event.n == self.n:
            event = msgspec.structs.replace(
                event, p=float(np.nextafter(np.float32(event.p), np.float32(1)))
            )
        self.recording(event)


def recorded(
    values: np.ndarray, *, alter: int = -1, seed: int = 0, learn_until: int = 0, times: Any = None
) -> Recording:
    learning = msgspec.structs.replace(CONFIG.learning, learn_until=learn_until)
    config = msgspec.structs.replace(CONFIG, learning=learning)
    if times is not None:
        stream = msgspec.structs.replace(config.stream, features=("diff(a)", "elapsed()"))
        config = msgspec.structs.replace(config, stream=stream)
    recording = Recording()
    weights = init_weights(Shape(2, 4, 1), key=seed_key(seed))
    emit = Altered(recording, alter)
    session = Session(config, ("a", "b"), emit, weights=weights, engine=engine_for(config, 2))
    recording.start(session)
    t_ns = np.arange(len(values)) * 10**9 if times is None else times
    for start in range(0, len(values), 30):
        part = slice(start, start + 30)
        ticks = Ticks("s", t_ns[part], values[part])
        recording.take(ticks)
        session.push(ticks)
    return recording


def difference(live: Recording, replayed: Recording | None = None) -> RunDifference:
    found = first_difference(live, replayed or recorded(XS))
    assert found is not None
    return found


def test_times_count_where_there_can_be_pauses() -> None:
    for pauses, columns in ((Pauses(10**9), 3), (NO_PAUSES, 2)):
        recording = recorded(XS)
        recording._maker = ElementMaker(("a",), ("a", "b"), pauses=pauses)
        assert recording.bits().shape == (len(XS), columns)


def test_equal_runs_have_none() -> None:
    assert first_difference(recorded(XS), recorded(XS)) is None


def test_a_dropped_tick_is_named() -> None:
    found = difference(recorded(np.delete(XS, 40, axis=0)))
    assert (found.cause, found.tick) == ("input", 41)
    assert found.what == "tick 41 was missing in the live feed"
    assert found.n is not None
    assert found.n >= 40


def test_a_doubled_tick_is_named() -> None:
    found = difference(recorded(np.insert(XS, 40, XS[39], axis=0)))
    assert (found.cause, found.tick) == ("input", 41)
    assert "not in the file" in found.what


def test_a_changed_value_is_named_with_its_column() -> None:
    other = XS.copy()
    other[50, 1] = np.nextafter(other[50, 1], 9.0)
    found = difference(recorded(other))
    assert (found.cause, found.tick) == ("input", 51)
    assert found.what.startswith("tick 51 differed: b was ")


def test_a_feed_that_ended_early_or_late_is_named() -> None:
    assert difference(recorded(XS[:70])).what == "the live feed ended after 70 of 80 ticks"
    late = difference(recorded(XS), recorded(XS[:70]))
    assert late.what == "the live feed continued after the 70 ticks of the file"


def test_another_time_counts_where_times_are_read() -> None:
    times = np.arange(80) * 10**9
    moved = times.copy()
    moved[60] += 1
    found = difference(recorded(XS, times=moved), recorded(XS, times=times))
    assert (found.cause, found.tick) == ("input", 61)
    assert "another time" in found.what
    assert first_difference(recorded(XS, times=times), recorded(XS, times=times)) is None


def test_other_weights_at_the_start_are_named() -> None:
    found = difference(recorded(XS, seed=5))
    assert (found.cause, found.n) == ("weights", 12)
    assert "start from other weights" in found.what


def test_updates_that_were_not_made_are_named() -> None:
    found = difference(recorded(XS, learn_until=40))
    assert found.cause == "weights"
    # The label of the prediction after 40 comes with 41, and is learned after 44 is published.
    assert found.n == 48
    assert found.what.startswith("the update from the label of prediction 40 differs")


def test_other_bits_from_the_same_input_and_weights_are_the_runtimes() -> None:
    found = difference(recorded(XS, alter=32))
    assert (found.cause, found.n, found.tick) == ("runtime", 32, None)


def test_what_comes_first_is_the_cause() -> None:
    """A tick that differs after the first prediction that does is not its cause."""
    other = XS.copy()
    other[60] += 1.0
    found = difference(recorded(other, alter=32))
    assert (found.cause, found.n) == ("runtime", 32)
    assert difference(recorded(other, alter=72)).cause == "input"


def test_ticks_that_make_no_element_are_counted_out() -> None:
    holed = XS.copy()
    holed[[3, 20, 21]] = np.nan
    run = recorded(holed)
    assert run.elements_of(10) == 8  # one refused, one without another before it
    assert run.elements_of(80) == 76
    assert first_difference(run, recorded(holed)) is None


@pytest.mark.parametrize("k", [0, 79])
def test_the_first_and_the_last_tick_count_too(k: int) -> None:
    assert difference(recorded(np.delete(XS, k, axis=0))).tick == k + 1
