"""A series through a session: the one loop of all that replays something.

Rows come in blocks of any size and go through in pieces, between which the caller is told how far
it has got and may stop. Pieces carry no meaning: the results are the same for any cut. What comes
out goes where the session was told to deliver it, best as columns.

Streams that only step go through in columns; those that learn are pushed run by run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..events import Ticks
from .late_labels import LateLabels
from .many import Arrivals
from .session import Session

Longs: TypeAlias = npt.NDArray[np.int64]
Doubles: TypeAlias = npt.NDArray[np.float64]

PIECE = 16_384
"""Rows between two looks at `stop`: 20 ms, and columns are the faster the longer they are."""

LEARN_PIECE = 4096
"""The same with learning: half a second."""


COLUMNS_FROM = 256
"""Ticks of one stream from which columns are faster."""


class Rows(NamedTuple):
    """Consecutive rows of a series: times (m,) and values (m, C) in the session's order.

    `numbers` (m,) are what messages call the rows. `labels` (m,) are those that the rows contain.
    `keys` are (names, codes (m,)) where rows are of many streams: row k is of `names[codes[k]]`.
    """

    t_ns: Longs
    values: Doubles
    numbers: Longs | None = None
    labels: Doubles | None = None
    keys: tuple[tuple[str, ...], Longs] | None = None

    def part(self, rows: slice) -> Rows:
        """Return some of them."""
        numbers, labels, keys = self.numbers, self.labels, self.keys
        return Rows(
            self.t_ns[rows],
            self.values[rows],
            None if numbers is None else numbers[rows],
            None if labels is None else labels[rows],
            None if keys is None else (keys[0], keys[1][rows]),
        )

    def pieces(self, size: int) -> Iterator[Rows]:
        """Yield them, at most `size` at a time."""
        for start in range(0, len(self.t_ns), size):
            yield self.part(slice(start, start + size))


OnRows: TypeAlias = Callable[[Rows], object]


class Replay:
    """Runs rows through a session.

    stream: what they are of, where rows have no keys. late: gives their labels, where these come
    from outside. numbered: whether the rows count as numbered by their feed, so that gaps would be
    seen. before, after: called with each piece around its way through the session.
    """

    def __init__(
        self,
        session: Session,
        stream: str = "",
        *,
        late: LateLabels | None = None,
        numbered: bool = False,
        before: OnRows = lambda _: None,
        after: OnRows = lambda _: None,
    ) -> None:
        self.session, self.stream, self.late = session, stream, late
        self.rows = 0
        self._numbered, self._before, self._after = numbered, before, after
        self._piece = PIECE if session.plain else LEARN_PIECE

    def run(
        self,
        blocks: Iterable[Rows],
        progress: Callable[[int], object] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Run all rows through, and settle; False where `stop` cut it short.

        progress: called with the number of rows so far. Raises DataError for a row of one stream
        more than the session can have.
        """
        for block in blocks:
            for piece in block.pieces(self._piece):
                self._before(piece)
                self._push(piece)
                self._after(piece)
                self.rows += len(piece.t_ns)
                progress(self.rows)
                if stop():
                    return False
        self.session.settle()
        return True

    def _push(self, piece: Rows) -> None:
        if piece.keys is not None:
            places = self._places(piece.keys, piece)
            self.session.arrive(Arrivals(places, piece.t_ns, piece.values))
            return
        seq = self.rows if self._numbered else None
        ticks = Ticks(self.stream, piece.t_ns, piece.values, seq=seq)
        if self.late is not None and piece.labels is not None:
            self.late.push(ticks, piece.labels)
        else:
            send(self.session, ticks)

    def _places(self, keys: tuple[tuple[str, ...], Longs], piece: Rows) -> Longs:
        """Return the row of the session's table that each row is of."""
        names, codes = keys
        used, first = np.unique(codes, return_index=True)
        place = np.empty(len(names), np.int64)
        for at, code in sorted(zip(first.tolist(), used.tolist(), strict=True)):
            place[code] = self.session.place(names[code])
            if place[code] < 0:
                number = at if piece.numbers is None else piece.numbers[at]
                raise DataError(
                    f"row {number} is of the stream {names[code]!r}, and "
                    f"{self.session.table.limit} streams are the most that there can be"
                )
        return place[codes]


def send(session: Session, ticks: Ticks) -> None:
    """Push ticks, in columns where the session can and they are many."""
    if not session.plain or len(ticks.t_ns) < COLUMNS_FROM:
        session.push(ticks)
        return
    place = session.place(ticks.stream)
    if place < 0:
        session.push(ticks)  # which refuses them
        return
    session.arrive(
        Arrivals(
            np.full(len(ticks.t_ns), place),
            ticks.t_ns,
            ticks.values,
            ticks.session,
            ticks.seq is not None,
            ((0, ticks.where),),
        )
    )
