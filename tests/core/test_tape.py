"""The tape, against a plain list that forgets nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.core.stream import TAPE_ROOM, Tape

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
    several_strides = st.integers(1, 2 * keep + TAPE_ROOM * block)
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
        assert tape.holds(n)
        assert tape.holds(last - held + 1)
        assert not tape.holds(last + 1)
        assert tape.inputs(n, length).tolist() == [
            r[:FEATURES].tolist() for r in rows[at - length : at]
        ]
        assert tape.targets(n, length).tolist() == positive[at - length : at]
        back = data.draw(st.integers(last - held + 1, n))
        wanted = [rows[m - start][FEATURES:].tolist() for m in (back, n)]
        assert tape.states([back, n]).tolist() == wanted
    assert len(tape.entries) == keep + TAPE_ROOM * block, "the tape grows with the stream"


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
