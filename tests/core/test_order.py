"""Which events come, in which order, with which weights: against an independent reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.events import Prediction, Score, Update

from ..engines import engine_for
from ..engines import settings as configuration
from .driving import drive, stories, ticks_of
from .reference import Reference, as_tuple

KINDS: dict[str, dict[str, Any]] = {
    "carry": {},
    "carry, learning": {"learn": True},
    "window": {"mode": "window", "window": 7},
    "window, learning": {"mode": "window", "window": 7, "learn": True},
}


def follows_reference(values: dict[str, Any], actions: list[Any]) -> None:
    config = configuration(**values)
    reference = Reference(config, engine_for(config))
    for action in actions:
        reference.take(action)
    got = drive(config, actions)
    # In mode carry without learning a row holds p alone, and the reference needs no more.
    assert [as_tuple(event) for event in got.events] == reference.events
    state = got.session.streams.get("a")
    if state is not None:
        assert state.n == reference.n
        assert np.asarray(state.carry).tobytes() == np.asarray(reference.carry).tobytes()
    for name, layer in got.session.weights_for("a").weights.items():
        wanted = reference.weights[name]["kernel"]
        assert np.asarray(layer["kernel"]).tobytes() == np.asarray(wanted).tobytes()


@pytest.mark.parametrize("labels", ["series", "external"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_events_are_those_of_the_reference(kind: str, labels: str, data: st.DataObject) -> None:
    values = {
        "window": data.draw(st.integers(5, 20)),
        "stride": data.draw(st.sampled_from([1, 2, 5, 10])),
        "horizon": data.draw(st.sampled_from([1, 2, 3, 12])),
        "features": data.draw(st.sampled_from([["x"], ["diff(x)"]])),
        "on_gap": data.draw(st.sampled_from(["continue", "reset"])),
        "max_pending": data.draw(st.sampled_from([1, 3, 1000])),
    }
    values |= KINDS[kind] | {"labels": labels}
    due = range(values["window"], 70, values["stride"]) if labels == "external" else ()
    follows_reference(values, data.draw(stories(labels=due)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_run_with_the_usual_settings(kind: str) -> None:
    """Long enough for a tape to move many times."""
    xs = np.random.default_rng(0).standard_t(3, size=1500)
    values = {"window": 12, "stride": 10, "horizon": 3} | KINDS[kind]
    follows_reference(values, ticks_of(xs))


def test_score_comes_before_prediction_and_update_after_it() -> None:
    config = configuration(learn=True, window=5, stride=2, horizon=2)
    events = drive(config, ticks_of(np.ones(9)), cuts=()).events
    assert [(type(e), e.n) for e in events] == [
        (Prediction, 5),
        (Score, 5),
        (Prediction, 7),
        (Update, 5),
        (Score, 7),
        (Prediction, 9),
        (Update, 7),
    ]


@pytest.mark.parametrize("mode", ["carry", "window"])
def test_new_weights_serve_from_the_element_after_the_label(mode: str) -> None:
    """The prediction made at the element that brought the label is still the old weights'."""
    xs = ticks_of(np.random.default_rng(0).normal(size=40))
    values = {"mode": mode, "window": 7, "stride": 1, "bptt": 5, "learning_rate": 0.1}
    learning, frozen = (
        [
            e.p
            for e in drive(configuration(learn=learn, **values), xs).events
            if isinstance(e, Prediction)
        ]
        for learn in (True, False)
    )
    if mode == "carry":
        assert learning[:2] == frozen[:2]
    else:  # other roundings: the engines differ
        assert learning[:2] == pytest.approx(frozen[:2], abs=1e-6)
    assert abs(learning[2] - frozen[2]) > 1e-4
