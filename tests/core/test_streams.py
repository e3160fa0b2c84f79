"""Many streams in one session: apart where they must be, together where they may."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.core.session import Session
from stream_lstm.events import Output, Update

from ..engines import settings as configuration
from .driving import Tick, drive, open_session, plain, push, series, state_of, ticks_of

Story = dict[str, list[Tick]]


def interleaved(config: Any, story: Story, seed: int) -> tuple[Session, dict[str, list[Output]]]:
    """Push each stream's ticks in pieces, taking turns at random."""
    events: dict[str, list[Output]] = {name: [] for name in story}
    session = open_session(config, lambda event: events[event.stream].append(event))
    rng, at = np.random.default_rng(seed), dict.fromkeys(story, 0)
    while open_ := [name for name in story if at[name] < len(story[name])]:
        name = open_[rng.integers(len(open_))]
        size = int(rng.integers(1, 25))
        push(session, story[name][at[name] : at[name] + size], stream=name)
        at[name] += size
    return session, events


stories = st.fixed_dictionaries({name: series() for name in ("a", "b", "µ")})


def without_name(event: Output) -> Any:
    fields = {
        f: getattr(event, f) for f in event.__struct_fields__ if f not in ("stream", "index")
    }
    return type(event), fields


@pytest.mark.parametrize(
    "kind",
    [
        {"sharing": "per-stream", "learn": True},
        {"sharing": "per-stream", "learn": True, "mode": "window"},
        {"sharing": "shared", "learn": False},
    ],
    ids=str,
)
@settings(max_examples=20, deadline=None)
@given(story=stories, seed=st.integers(0, 1000))
def test_each_stream_is_as_if_alone(kind: dict[str, Any], story: Story, seed: int) -> None:
    config = configuration(stride=3, **kind)
    session, events = interleaved(config, story, seed)
    for name, ticks in story.items():
        alone = drive(config, ticks)
        assert [*map(without_name, events[name])] == [*map(without_name, alone.events)]
        one, two = (s.streams[n] for s, n in ((session, name), (alone.session, "a")))
        assert np.asarray(one.carry).tobytes() == np.asarray(two.carry).tobytes()
        assert (one.n, one.counters) == (two.n, two.counters)
        learned = session.learned_for(name), alone.session.learned_for("a")
        assert plain(learned[0]) == plain(learned[1])


def test_shared_weights_learn_from_all() -> None:
    config = configuration(learn=True, stride=3)
    rng = np.random.default_rng(0)
    story = {name: [Tick(float(x), 0) for x in rng.normal(size=40)] for name in "ab"}
    events: list[Output] = []
    session = open_session(config, events.append)
    for k in range(40):
        for name in story:
            push(session, [story[name][k]], stream=name)
    learned = [event.stream for event in events if isinstance(event, Update)]
    assert set(learned) == {"a", "b"}
    assert session.learned_for("a") is session.learned_for("b")
    assert len(session.learned) == 1
    alone = drive(config, story["a"]).session.weights_for("a")
    assert not np.array_equal(alone["head"]["kernel"], session.weights_for("a")["head"]["kernel"])


def test_per_stream_weights_start_alike_and_part() -> None:
    config = configuration(learn=True, stride=3, sharing="per-stream")
    rng = np.random.default_rng(0)
    session = open_session(config, lambda event: None)
    start = np.asarray(session.weights_for("b")["head"]["kernel"])
    for name in ("a", "c"):
        push(session, [Tick(float(x), 0) for x in rng.normal(size=40)], stream=name)
    heads = [np.asarray(session.weights_for(n)["head"]["kernel"]).tobytes() for n in "abc"]
    assert heads[1] == start.tobytes()
    assert len(set(heads)) == 3


def test_per_stream_weights_are_held_for_streams_alone() -> None:
    config = configuration(sharing="per-stream", learn=True)
    session = open_session(config, lambda event: None)
    push(session, [Tick(1.0, 0)], stream="a")
    assert list(session.learned) == ["a"]


def test_state_of_a_session_tells_streams_apart() -> None:
    session = open_session(configuration(), lambda event: None)
    before = state_of(session)
    push(session, [Tick(1.0, 0)], stream="b")
    assert state_of(session) != before


@pytest.mark.parametrize("sharing", ["shared", "per-stream"])
def test_ticks_that_wait_are_stepped_with_the_weights_of_their_time(sharing: str) -> None:
    """Another stream's updates come after them, however many are made in one call."""
    config = configuration(learn=True, stride=5, learning_rate=0.1, sharing=sharing)
    xs = np.random.default_rng(0).normal(size=(2, 300))
    sessions = [open_session(config, lambda event: None) for _ in range(2)]
    for size, session in zip((1, 300), sessions, strict=True):
        # A block of `a` begins behind a publication, so that its strides are one call.
        for begin, end in ((0, 102), (102, 300)):
            for tick in ticks_of(xs[0][begin : begin + 14]):
                push(session, [tick], stream="b", wait=True)  # the last of them wait
            for k in range(begin, end, size):
                part = xs[1][k : min(k + size, end)]
                push(session, ticks_of(part, k), stream="a", wait=True)
        push(session, ticks_of(xs[0][14:40], 14), stream="b", wait=True)
    assert state_of(sessions[0]) == state_of(sessions[1])
    assert sessions[0].streams["a"].counters.updates > 40
