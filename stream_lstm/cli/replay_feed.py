"""The driving of a replay: a file's blocks into the session, until they end or a signal comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..events import Label, Ticks
from ..serve.signals import stop_on_signals
from ..serve.stop import StopSwitch
from ..store.units import Position, Settle
from .input_file import InputFile
from .label_column import LabelColumn
from .progress import file_progress
from .replay_results import ReplayResults
from .row_order import row_order
from .stored_part import StoredPart

if TYPE_CHECKING:
    from ..core.late_labels import LateLabels
    from ..core.sessions import AnySession
    from ..core.state_check import StateCheck
    from ..feed.files import FileSource
    from ..feed.keys import Keys
    from ..store.store import Store

Times: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[np.float64]

PIECE = 4096
"""Ticks between looks at signals and the progress bar: 10 ms, or with learning half a second."""

FLEET_PIECE = 16_384
"""The same for streams in tables, which are the faster the longer a block is: 25 ms."""


class Piece(NamedTuple):
    """Rows of a file: their numbers, times (m,), the session's values (m, C) and labels (m,).

    `keys` are the streams of the rows, None where all are of one.
    """

    rows: npt.NDArray[np.int64]
    t_ns: Times
    values: Values
    labels: npt.NDArray[np.float64]
    keys: Keys | None


class ReplayFeed:
    """Pushes a file into a session, and into a state check where there is one.

    labels: the column of the labels, which the file's values then hold beside the session's.
    store: is given every input, and knows how much of the file it holds; None keeps nothing.
    Attributes: `late` gives the labels of that column, None without one.
    """

    def __init__(
        self,
        session: AnySession,
        results: ReplayResults,
        check: StateCheck | None,
        labels: LabelColumn | None,
        store: Store | None = None,
    ) -> None:
        from ..core.fleet import Fleet

        self._session, self._results, self._check = session, results, check
        self._labels, self._store = labels, store
        self._took: Callable[[Ticks | Label], object] = store or (lambda _: None)
        self._push_keyed: Callable[[Keys, Times, Values], None]
        self._push_ticks: Callable[[Ticks], None]
        self.late: LateLabels | None = None
        if isinstance(session, Fleet):
            self._fleet, self._piece = session, FLEET_PIECE
            self._push_keyed = self._through_fleet
            self._push_ticks = lambda ticks: session.ticks([ticks])
        else:
            self._piece, self._push_keyed = PIECE, self._in_runs
            self._push_ticks = session.push
            if labels is not None:
                self.late = labels.schedule(session, results.piece_begins, self._took)

    def run(self, file: InputFile, source: FileSource) -> bool:
        """Push the whole file, and return whether a signal cut it short.

        Raises DataError where the store holds other ticks than the file begins with.
        """
        done, interrupted = 0, False
        with (
            StopSwitch() as stop,
            stop_on_signals(stop),
            row_order(file) as look,
            file_progress(source, file.limit) as report,
        ):
            pieces = self._pieces(source)
            if self._store is not None:
                known = self._store.positions.get(file.stream, Position())
                pieces = self._behind(known, pieces, file)
                done = known.ticks
            for piece in pieces:
                self._push(file.stream, piece)
                look(piece.t_ns, piece.rows, piece.keys)
                done += len(piece.values)
                report(done)
                if interrupted := stop.requested:
                    break
        if interrupted:
            return True
        self._session.settle()
        if self._store is not None:
            self._store(Settle())
        return False

    def _pieces(self, source: FileSource) -> Iterator[Piece]:
        used, label = len(self._session.columns), 0
        if self._labels is not None:
            label = source.value_columns.index(self._labels.name)
        for block in source.blocks():
            for start in range(0, len(block.values), self._piece):
                part = slice(start, start + self._piece)
                values = block.values[part]
                yield Piece(
                    block.rows[part],
                    block.t_ns[part],
                    values[:, :used],
                    values[:, label],
                    None if block.keys is None else block.keys.some(part),
                )

    def _behind(
        self, known: Position, pieces: Iterator[Piece], file: InputFile
    ) -> Iterator[Piece]:
        """Return what comes behind the ticks that the store holds, which must be the same."""
        if not known.ticks:
            return pieces
        had = StoredPart(known, pieces, str(file.path))
        if self.late is None:
            for _ in had:
                pass
        else:
            self.late.rehearse(
                ((Ticks(file.stream, piece.t_ns, piece.values), piece.labels) for piece in had),
                known.labels,
            )
        return had.rest()

    def _push(self, stream: str, piece: Piece) -> None:
        self._results.rows = piece.rows
        if piece.keys is not None:
            self._push_keyed(piece.keys, piece.t_ns, piece.values)
            return
        ticks = Ticks(stream, piece.t_ns, piece.values)
        if self.late is not None:
            self.late.push(ticks, piece.labels)
        else:
            self._push_ticks(ticks)
            self._took(ticks)
        if self._check is not None:
            self._check.push(ticks)

    def _through_fleet(self, keys: Keys, t_ns: Times, values: Values) -> None:
        """Push rows of many streams in one block."""
        from ..core.fleet_events import Arrivals

        places = np.full(len(keys.names), -1)
        used = keys.used()
        places[used] = self._fleet.places([keys.names[code] for code in used])
        streams = places[keys.codes]
        if (streams < 0).any():
            at = int(np.argmin(streams))
            raise DataError(
                f"row {self._results.rows[at]} is of the stream {keys.names[keys.codes[at]]!r}, "
                f"and {self._fleet.capacity} streams are the most that there can be"
            )
        self._fleet.push(Arrivals(streams, t_ns, values))

    def _in_runs(self, keys: Keys, t_ns: Times, values: Values) -> None:
        """Push rows of many streams, each run of one stream as a block."""
        for name, start, stop in keys.runs():
            self._results.piece_begins(start)
            self._push_ticks(Ticks(name, t_ns[start:stop], values[start:stop]))
