"""Promise 1: however the same elements are cut into blocks, the same bits come out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.core.replay import Digest
from stream_lstm.events import Gap, Label, Prediction
from stream_lstm.model.engine import Engine

from ..engines import engine_for
from ..engines import settings as configuration
from .driving import (
    POLICIES,
    REACHING_BACK,
    Action,
    Run,
    comparable,
    cuts,
    drive,
    members_of,
    plain,
    state_of,
    stories,
    ticks_of,
)

KINDS: list[dict[str, Any]] = [
    {},
    {"learn": True},
    {"mode": "window"},
    {"mode": "window", "learn": True},
]


def digest(run: Run) -> str:
    running = Digest()
    for event in run.events:
        if isinstance(event, Prediction):
            running.add(event)
    return running.hexdigest()


def assert_same(one: Run, two: Run) -> None:
    assert comparable(one.events) == comparable(two.events)
    assert digest(one) == digest(two)
    assert state_of(one.session) == state_of(two.session)


@pytest.mark.parametrize("labels", ["series", "external"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@settings(max_examples=15)
@given(data=st.data(), one=cuts, two=cuts)
def test_any_two_cuts_give_the_same_bits(
    kind: dict[str, Any], labels: str, data: st.DataObject, one: set[int], two: set[int]
) -> None:
    config = configuration(
        labels=labels,
        stride=data.draw(st.sampled_from([1, 10])),
        horizon=data.draw(st.sampled_from([1, 3, 12])),
        features=data.draw(st.sampled_from([["x"], ["log_return(x)"], ["tanh(diff(x, 3)) / 2"]])),
        on_gap=data.draw(st.sampled_from(["continue", "reset"])),
        max_pending=data.draw(st.sampled_from([2, 1000])),
        **kind,
        **(data.draw(st.sampled_from(POLICIES)) if labels == "external" else {}),
    )
    due = range(12, 70, config.stream.stride) if labels == "external" else ()
    actions = data.draw(stories(labels=due))
    assert_same(drive(config, actions, one), drive(config, actions, two))


@pytest.mark.slow
@pytest.mark.parametrize("kind", REACHING_BACK)
@settings(max_examples=5)
@given(data=st.data(), one=cuts, two=cuts, break_at=st.none() | st.integers(0, 60))
def test_every_way_to_learn_gives_the_same_bits_cut_and_resumed_anywhere(
    kind: str, data: st.DataObject, one: set[int], two: set[int], break_at: int | None
) -> None:
    """Scores, weights, traces and the mixture: all that a session holds."""
    values = REACHING_BACK[kind] | {
        "learn": True,
        "stride": 5,
        "horizon": data.draw(st.sampled_from([1, 7])),
        "on_gap": data.draw(st.sampled_from(["continue", "reset"])),
        "learn_until": data.draw(st.sampled_from([0, 33])),
    }
    config, actions, members = configuration(**values), data.draw(stories()), members_of(values)
    resumed = drive(config, actions, one, members=members, break_at=break_at)
    assert_same(resumed, drive(config, actions, two, members=members))


@pytest.mark.parametrize(
    "kind",
    [
        {"learn": True, "twins": ["frozen", "stateless"], "calibrate": True},
        {"learn": True, "twins": ["frozen"], "mode": "window"},
        {"twins": ["stateless"], "calibrate": True},
    ],
    ids=str,
)
@settings(max_examples=5)
@given(data=st.data(), one=cuts, two=cuts, break_at=st.none() | st.integers(0, 60))
def test_twins_and_recalibration_are_the_same_bits_cut_and_resumed_anywhere(
    kind: dict[str, Any], data: st.DataObject, one: set[int], two: set[int], break_at: int | None
) -> None:
    labels = data.draw(st.sampled_from(["series", "external"]))
    config = configuration(stride=5, labels=labels, **kind)
    actions = data.draw(stories(labels=range(12, 70, 5) if labels == "external" else ()))
    assert_same(drive(config, actions, one, break_at=break_at), drive(config, actions, two))


@pytest.mark.parametrize("kind", REACHING_BACK)
def test_a_live_run_of_every_way_to_learn_is_its_replay(kind: str) -> None:
    """One by one and in one block, with a break in the middle of each."""
    values = REACHING_BACK[kind] | {"learn": True, "stride": 5}
    config, members = configuration(**values), members_of(values)
    actions = ticks_of(np.random.default_rng(1).normal(size=700))
    live = drive(config, actions, members=members, break_at=333)
    assert_same(live, drive(config, actions, cuts=(), members=members, break_at=501))
    stream = live.session.streams["a"]
    assert stream.counters.updates == 137  # the last label is owed an update until `settle`
    assert stream.trace is not None
    moves = values.get("gradient") not in (None, "bptt") or values.get("optimizer") == "dekf"
    moves = (moves and values.get("gradient") != "bptt") or kind == "bank"
    assert bool(np.asarray(stream.trace).any()) == moves


def test_what_is_learned_until_an_element_stays_as_it_is() -> None:
    values = REACHING_BACK["bank"] | {"learn": True, "stride": 5, "learn_until": 100}
    config, members = configuration(**values), members_of(values)
    actions = ticks_of(np.random.default_rng(1).normal(size=300))
    part, whole = (drive(config, actions[:n], members=members).session for n in (102, 300))
    assert plain(part.learners) == plain(whole.learners)
    one, two = part.streams["a"], whole.streams["a"]
    assert plain((one.trace, one.mixture)) == plain((two.trace, two.mixture))
    assert two.counters.predictions == 58
    assert two.counters.updates == 18
    assert two.scores.labels == 58


@pytest.mark.parametrize("labels", ["series", "external"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_one_by_one_and_all_at_once_agree_over_thousands(
    kind: dict[str, Any], labels: str
) -> None:
    """Past the ends of buffers, runs and tapes; late labels included."""
    size = 5_000 if not kind.get("learn") else 1500
    rng = np.random.default_rng(1)
    config = configuration(
        features=["log_return(x)"], labels=labels, stride=10, horizon=3, window=20, **kind
    )
    xs = np.exp(np.cumsum(rng.normal(size=size) / 100))
    xs[rng.integers(0, size, 20)] = np.nan
    xs[rng.integers(0, size, 20)] = -1.0
    actions: list[Action] = list(ticks_of(xs))
    singly, whole = drive(config, actions), drive(config, actions, cuts=())
    assert_same(singly, whole)
    assert sum(isinstance(e, Prediction) for e in whole.events) > size // 10 - 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"horizon": 12, "learn_until": 777},
        {"stride": 1},
        {"stride": 7, "targets": "published", "layers": 2},
        {"gradient": "hybrid", "optimizer": "dekf"},
        {"stride": 300, "window": 300},
        {"horizon": 80},
    ],
    ids=str,
)
def test_strides_in_one_call_give_the_bits_of_steps_and_updates(values: dict[str, Any]) -> None:
    config = configuration(**{"learn": True, "window": 20} | values)
    xs = np.random.default_rng(2).normal(size=1500)
    actions: list[Action] = [*ticks_of(xs[:700]), Gap("a", 3, 5), *ticks_of(xs[700:], 700)]
    calls = []
    run_strides = Engine.run_strides

    def counting(*given: Any) -> Any:
        calls.append(len(given[4]))
        return run_strides(*given)

    engine_for(config)  # it has calls of its own while it is made
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Engine, "run_strides", counting)
        whole = drive(config, actions, cuts=(333, 334, 1200))
    assert_same(drive(config, actions), whole)
    # Neither half a call's room nor a tape that is too short for the horizon will do.
    possible = config.stream.stride <= 80 and config.stream.horizon <= 64
    assert (sum(calls) > 300) == possible
    assert all(size % config.stream.stride == 0 for size in calls)


@pytest.mark.parametrize("mode", ["carry", "window"])
def test_a_label_that_comes_late_learns_from_the_tape_of_its_prediction(mode: str) -> None:
    """The tape has moved on by then, at other elements for other cuts."""
    config = configuration(mode=mode, labels="external", learn=True, window=12, stride=10)
    actions: list[Action] = list(ticks_of(np.random.default_rng(0).normal(size=400)))
    actions += [Label("a", n, int(n % 3 == 0)) for n in (12, 52, 202, 392)]
    assert_same(drive(config, actions), drive(config, actions, cuts=(7, 33, 210)))


def test_the_comparison_sees_a_change_in_the_last_digits() -> None:
    xs = np.random.default_rng(0).normal(size=40)
    near = xs.copy()
    near[30] *= 1 + 1e-5
    config = configuration()
    runs = drive(config, ticks_of(xs)), drive(config, ticks_of(near))
    assert [e.n for e in runs[0].events] == [e.n for e in runs[1].events]
    with pytest.raises(AssertionError):
        assert_same(*runs)


ODD = [
    0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1e-310, 1e-45, 1e-40, -1e-40,
    1.1754943508222875e-38, 1.1754942106924411e-38, 1.0, float(np.nextafter(1.0, 2.0)),
    float(np.nextafter(1.0, 0.0)), float(np.nextafter(0.0, 1.0)), 3.4028234663852886e38,
    3.4028235677973366e38, -3.4028234663852886e38, 1.7976931348623157e308,
    -1.7976931348623157e308, 1.063e37, 1.0633823966279327e37, -1.0633823966279327e37,
]  # fmt: skip
"""Signed zeros, subnormals, extremes of float32 and float64, the limit, and their neighbours."""


@st.composite
def odd_ticks(draw: st.DrawFn) -> list[Action]:
    """Ticks of odd numbers and their neighbours, among some that are not."""
    size = draw(st.integers(1, 60))
    xs = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=size)
    for at in draw(st.sets(st.integers(0, size - 1))):
        x = draw(st.sampled_from(ODD))
        xs[at] = draw(
            st.sampled_from([x, math.nextafter(x, math.inf), math.nextafter(x, -math.inf)])
        )
    return list(ticks_of(xs))


@pytest.mark.parametrize("features", [["x"], ["diff(x)"], ["log_return(x)"], ["log1p(x)", "x"]])
@pytest.mark.parametrize("learn", [False, True])
@settings(max_examples=10)
@given(actions=odd_ticks(), one=cuts, two=cuts, break_at=st.none() | st.integers(0, 60))
def test_odd_numbers_give_the_same_bits_live_replayed_and_resumed(
    features: list[str],
    learn: bool,
    actions: list[Action],
    one: set[int],
    two: set[int],
    break_at: int | None,
) -> None:
    config = configuration(features=features, learn=learn, stride=5)
    live = drive(config, actions)
    assert_same(live, drive(config, actions, cuts=()))
    assert_same(live, drive(config, actions, one, break_at=break_at))
    assert_same(live, drive(config, actions, two))
