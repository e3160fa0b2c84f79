"""The one driver: nothing depends on its pieces, and it stops where it is told to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stream_lstm.core import replay
from stream_lstm.core.outcome import Outcome
from stream_lstm.core.replay import Digest, Replay, ReplayRows, send
from stream_lstm.core.session import Session
from stream_lstm.errors import DataError
from stream_lstm.events import Ticks

from ..engines import engine_for, settings

COUNT = 700
T_NS = np.arange(COUNT) * 10**9
VALUES = np.random.default_rng(8).normal(size=(COUNT, 1))
NAMES = ("a", "b", "c")
CODES = np.random.default_rng(9).integers(0, 3, COUNT)


def opened(digest: Digest, **values: Any) -> Session:
    config = settings(**values)

    def deliver(outcome: Outcome) -> None:
        digest.add_batch(outcome.predictions)

    return Session(config, ("x",), deliver=deliver, scored=False, engine=engine_for(config, 1))


def replayed(keyed: bool, blocks: int, **values: Any) -> tuple[str, Any]:
    digest = Digest()
    session = opened(digest, **values)
    whole = ReplayRows(T_NS, VALUES, keys=(NAMES, CODES) if keyed else None)
    assert Replay(session, "s").run(whole.pieces(blocks))
    session.look()
    board = session.scores.total()
    return digest.hexdigest(), (board.labels, board.losses)


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("learn", [False, True])
def test_nothing_depends_on_blocks_or_pieces(
    keyed: bool, learn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = replayed(keyed, COUNT, learn=learn)
    assert wanted[1][0] > 50
    for piece, block in ((13, COUNT), (300, 299), (COUNT, 1)):
        monkeypatch.setattr(replay, "PIECE", piece)
        monkeypatch.setattr(replay, "LEARN_PIECE", piece)
        assert replayed(keyed, block, learn=learn) == wanted


def test_it_stops_between_two_pieces_and_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay, "PIECE", 100)
    done: list[int] = []
    session = opened(Digest())
    drive = Replay(session, "s")
    assert not drive.run([ReplayRows(T_NS, VALUES)], done.append, lambda: done[-1] == 300)
    assert done == [100, 200, 300]
    assert session.streams["s"].n == 300


def test_a_stream_too_many_is_named_with_its_row() -> None:
    config = settings()
    session = Session(config, ("x",), engine=engine_for(config, 1), limit=2)
    rows = ReplayRows(T_NS, VALUES, numbers=np.arange(COUNT) + 2, keys=(NAMES, np.sort(CODES)))
    first = int(np.searchsorted(np.sort(CODES), 2)) + 2
    with pytest.raises(DataError, match=f"row {first} is of the stream 'c', and 2 streams"):
        Replay(session).run([rows])


def test_columns_give_what_a_push_gives() -> None:
    one, two = Digest(), Digest()
    opened(one).push(Ticks("s", T_NS, VALUES, "run", 1))
    session = opened(two)
    send(session, Ticks("s", T_NS, VALUES, "run", 1))
    assert one.hexdigest() == two.hexdigest()
    assert (session.streams["s"].session, session.streams["s"].gaps_visible) == ("run", True)
