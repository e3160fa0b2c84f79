"""What a running session has counted, over all its streams, for a thread that only looks.

Nothing here changes anything or holds up the loop: the columns of the tables of streams and of
scores are summed as they are at that moment, and numbers of different moments may stand together.
Ticks that wait in the session are not counted yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from ..core.scores import BOARD, WAYS
from ..core.session import Session
from ..core.table import EXPIRED, FRESH, Counters, N

FORECASTS = ("model", "base_rate", "last_label")
"""Whose log losses are summed, in the order of `scores.WAYS`."""

MOST_STREAMS = 100
"""Streams whose own figures are given."""

COUNTS = [BOARD.index(name) for name in ("labels", "positives", "model_correct")]
LOSSES = [BOARD.index(f"{way}_log_loss") for way in WAYS]
LOG_E = [BOARD.index(f"{bet}_better") for bet in ("coin", "base", "last")]
"""Log W of the bets that the model is better."""


class Scored(msgspec.Struct):
    """Labels, positive ones and right calls of the model; log losses of FORECASTS, in nats."""

    labels: int
    positives: int
    correct: int
    losses: tuple[float, ...]


class Totals(msgspec.Struct):
    """Sums over all streams."""

    streams: int
    warm: int
    elements: int
    expired: int
    counters: Counters
    scored: Scored


class OneStream(msgspec.Struct):
    """A stream; `evidence` is log W in nats against a coin, the base rate and the last label."""

    name: str
    elements: int
    warm: bool
    scored: Scored
    evidence: tuple[float, ...]


def totals(session: Session) -> Totals:
    """Return the sums over all streams of a session."""
    names, ints, board = _rows(session)
    counters = session.table.totals()
    counters.labels_unknown += session.stray_labels
    counters.refused_labels += session.stray_labels
    expired = sum(side.ledger.expired for side in list(session.sides.values()))
    return Totals(
        len(names),
        int(_warm(session, ints).sum()),
        int(ints[:, N].sum()),
        int(ints[:, EXPIRED].sum()) + expired,
        counters,
        _scored(board.sum(axis=0)),
    )


def _rows(
    session: Session, most: int | None = None
) -> tuple[Sequence[str], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the names of the streams, and their rows of the two tables, which may just grow."""
    names, ints, board = session.table.names[:most], session.table.ints, session.scores.board
    count = min(len(names), len(ints), len(board))
    return names[:count], ints[:count], board[:count]


def _warm(session: Session, ints: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    warm: npt.NDArray[np.bool_] = ints[:, N] - ints[:, FRESH] >= session.config.stream.window
    return warm


def _scored(row: npt.NDArray[np.float64]) -> Scored:
    labels, positives, correct = (int(count) for count in row[COUNTS].tolist())
    return Scored(labels, positives, correct, tuple(row[LOSSES].tolist()))


def some_streams(session: Session) -> Iterator[OneStream]:
    """Yield the first streams of a session: all of them may be too many to report."""
    names, ints, board = _rows(session, MOST_STREAMS)
    warm = _warm(session, ints).tolist()
    for row, name in enumerate(names):
        evidence = tuple(board[row, LOG_E].tolist())
        yield OneStream(name, int(ints[row, N]), warm[row], _scored(board[row]), evidence)


def warm_streams(session: Session, wanted: Iterable[str]) -> tuple[int, list[str]]:
    """Return (streams that are warm, those of `wanted` that are not)."""
    _, ints, _ = _rows(session)
    warm, places = _warm(session, ints).tolist(), session.table.places
    rows = {name: places.get(name, len(warm)) for name in wanted}
    return sum(warm), [name for name, row in rows.items() if not any(warm[row : row + 1])]
