"""Many streams in one session: apart where they must be, together where they may."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.core.session import Session
from stream_lstm.core.stream import TAPE_BLOCKS, Tape
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
@settings(max_examples=12)
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
        learned = session.learner_for(name), alone.session.learner_for("a")
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
    assert session.learner_for("a") is session.learner_for("b")
    assert len(session.learners) == 1
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
    assert list(session.learners) == ["a"]


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


# ---- the tape, against a plain list that forgets nothing ---

FEATURES, STATE = 2, 3


@given(
    start=st.integers(0, 50),
    keep=st.integers(1, 12),
    block=st.integers(1, 8),
    data=st.data(),
)
def test_what_must_stay_stays(start: int, keep: int, block: int, data: st.DataObject) -> None:
    tape = Tape.start(start, keep=keep, block=block, features=FEATURES, state=STATE)
    rows = [np.zeros(FEATURES + STATE, np.float32)]
    positive = [0.0]
    several_strides = st.integers(1, 2 * keep + TAPE_BLOCKS * block)
    for size in data.draw(st.lists(st.integers(1, block) | several_strides, max_size=60)):
        new = np.arange(size * 5, dtype=np.float32).reshape(size, 5) + 1000 * len(rows)
        signs = np.arange(size) % 3 == 0
        tape.append(new, signs)
        rows.extend(new)
        positive.extend(signs.astype(float))
        last = start + len(rows) - 1
        held = min(keep, len(rows))
        length = data.draw(st.integers(1, held))
        n = data.draw(st.integers(last - held + length, last))
        at = n - start + 1
        assert tape.first + tape.used == last + 1
        assert tape.inputs(n, length).tolist() == [
            r[:FEATURES].tolist() for r in rows[at - length : at]
        ]
        assert tape.targets(n, length).tolist() == positive[at - length : at]
        back = data.draw(st.integers(last - held + 1, n))
        wanted = [rows[m - start][FEATURES:].tolist() for m in (back, n)]
        assert tape.states([back, n]).tolist() == wanted
    assert len(tape.entries) == keep + TAPE_BLOCKS * block, "the tape grows with the stream"


def filled(state: int) -> Tape:
    tape = Tape.start(0, keep=4, block=2, features=FEATURES, state=state)
    tape.append(np.ones((2, FEATURES + state), np.float32), np.array([True, True]))
    return tape


def test_what_was_taken_from_the_tape_does_not_change_with_it() -> None:
    """A prediction that waits for its label keeps what it took for longer than the tape does."""
    for state in (0, STATE):
        tape = filled(state)
        taken = [tape.inputs(2, 2), tape.targets(2, 2), tape.states([1, 2])]
        before = [part.copy() for part in taken]
        for _ in range(20):
            tape.append(np.full((2, FEATURES + state), 7, np.float32), np.array([False, False]))
        for part, was in zip(taken, before, strict=True):
            assert part.tolist() == was.tolist()
            assert part.flags.c_contiguous


@given(sizes=st.lists(st.integers(1, 20), max_size=12), more=st.lists(st.integers(1, 20)))
def test_a_frozen_tape_stays_and_becomes_a_tape_again(sizes: list[int], more: list[int]) -> None:
    tape = Tape.start(0, keep=4, block=2, features=FEATURES, state=STATE)

    def append(tape: Tape, size: int) -> None:
        new = np.arange(size * 5, dtype=np.float32).reshape(size, 5) + tape.first + tape.used
        tape.append(new, np.arange(size) % 2 == 0)

    for size in sizes:
        append(tape, size)
    frozen = tape.frozen()
    held = frozen.entries.copy(), frozen.positive.copy()
    again = frozen.thawed(Tape.start(0, keep=4, block=2, features=FEATURES, state=STATE))
    for size in more:
        append(tape, size)
        append(again, size)
    assert [frozen.entries.tolist(), frozen.positive.tolist()] == [part.tolist() for part in held]
    last = tape.first + tape.used - 1
    assert again.first + again.used - 1 == last
    assert (
        again.states(range(last - 3, last + 1)).tolist()
        == tape.states(range(last - 3, last + 1)).tolist()
    )
    assert again.inputs(last, 4).tolist() == tape.inputs(last, 4).tolist()
    assert again.targets(last, 4).tolist() == tape.targets(last, 4).tolist()


def test_a_tape_of_another_shape_does_not_fit() -> None:
    frozen = filled(STATE).frozen()
    for like in (filled(STATE + 1), Tape.start(0, keep=5, block=2, features=2, state=STATE)):
        with pytest.raises(ValueError, match="is not one of this session"):
            frozen.thawed(like)
