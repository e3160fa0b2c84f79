"""Twins: what the model would have said without learning, and without a carried state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stream_lstm.core.replay import Digest
from stream_lstm.core.verdict import summarize
from stream_lstm.errors import ConfigurationError
from stream_lstm.events import Gap, Output, Prediction, Score

from ..engines import settings as configuration
from .driving import drive, ticks_of

XS = np.random.default_rng(0).normal(size=300)
LEARNING: dict[str, Any] = {"learn": True, "learning_rate": 0.05, "stride": 5, "window": 12}


def scores(events: list[Output]) -> list[Score]:
    return [event for event in events if isinstance(event, Score)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["carry", "window"])
def test_the_frozen_twin_is_the_same_run_without_updates(mode: str) -> None:
    values = LEARNING | {"mode": mode}
    actions = [*ticks_of(XS[:100]), Gap("a", 1, 1), *ticks_of(XS[100:])]
    both = drive(configuration(**values, twins=["frozen"], on_gap="reset"), actions, cuts=(37, 80))
    alone = drive(configuration(**values, learn_until=1, on_gap="reset"), actions)
    assert [s.frozen_p for s in scores(both.events)] == [s.p for s in scores(alone.events)]
    assert all(s.frozen_p != s.p for s in scores(both.events)[2:])
    plain = drive(configuration(**values, on_gap="reset"), actions)
    assert [s.p for s in scores(both.events)] == [s.p for s in scores(plain.events)]


@pytest.mark.parametrize("learn", [False, True])
def test_the_stateless_twin_is_what_windows_give(learn: bool) -> None:
    """With frozen weights it is mode window; with learning it has the weights of the moment."""
    values = LEARNING | {"learn": learn}
    run = drive(configuration(**values, twins=["stateless"]), ticks_of(XS), cuts=(31, 200))
    windowed = drive(configuration(**(values | {"mode": "window", "learn": False})), ticks_of(XS))
    got = [s.stateless_p for s in scores(run.events)]
    wanted = [s.p for s in scores(windowed.events)]
    if not learn:
        assert got == pytest.approx(wanted, abs=1e-6)
    else:
        assert got[0] == pytest.approx(wanted[0], abs=1e-6)
        assert np.abs(np.subtract(got, wanted))[10:].min() > 1e-5


def test_figures_of_twins_are_those_of_their_forecasts() -> None:
    config = configuration(**LEARNING, twins=["frozen", "stateless"], calibrate=True)
    run = drive(config, ticks_of(XS))
    summary = summarize(run.session, Digest(), wall_s=1.0, compile_s=0.0)
    given = scores(run.events)
    y = np.array([s.label for s in given])
    for name in ("raw", "frozen", "stateless"):
        p = np.array([getattr(s, f"{name}_p") for s in given])
        assert summary[f"{name}_accuracy"] == pytest.approx(np.mean((p > 0.5) == y))
        loss = -np.log(np.where(y, p, 1 - p)).mean()
        assert summary[f"{name}_log_loss"] == pytest.approx(loss)
        assert summary[f"{name}_brier"] == pytest.approx(np.mean((p - y) ** 2))


def test_no_figures_of_twins_that_were_not_asked_for() -> None:
    run = drive(configuration(), ticks_of(XS[:40]))
    summary = summarize(run.session, Digest(), wall_s=1.0, compile_s=0.0)
    assert not [key for key in summary if key.startswith(("raw", "frozen", "stateless"))]
    assert all(s.frozen_p is s.stateless_p is s.raw_p is None for s in scores(run.events))
    assert sum(isinstance(e, Prediction) for e in run.events) == summary["predictions"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"twins": ["frozen"]}, "requires learn=true"),
        ({"twins": ["stateless"], "mode": "window"}, "mode=window"),
        ({"twins": ["frozen"], "learn": True, "bank": "default"}, "bank=none"),
        ({"twins": ["late"]}, "twins"),
    ],
)
def test_twins_that_cannot_be_say_why(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        configuration(**values)
