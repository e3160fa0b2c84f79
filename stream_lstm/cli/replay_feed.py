"""The driving of a replay: a file's blocks into the session, until they end or a signal comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..events import Label, Ticks
from ..serve.signals import stop_on_signals
from ..serve.stop import StopSwitch
from ..store.units import Position, Settle
from .input_file import InputFile
from .label_column import LabelColumn
from .progress import file_progress
from .replay_results import ReplayResults
from .stored_part import StoredPart

if TYPE_CHECKING:
    from ..core.late_labels import LateLabels
    from ..core.session import Session
    from ..core.state_check import StateCheck
    from ..feed.files import FileSource
    from ..store.store import Store

PIECE = 4096
"""Ticks between looks at signals and the progress bar: 10 ms, or with learning half a second."""


class Piece(NamedTuple):
    """Ticks of a file, the labels (m,) that stand in their rows, and the numbers of the rows."""

    ticks: Ticks
    labels: npt.NDArray[np.float64]
    rows: Any


class ReplayFeed:
    """Pushes a file into a session, and into a state check where there is one.

    labels: the column of the labels, which the file's values then hold beside the session's.
    store: is given every input, and knows how much of the file it holds; None keeps nothing.
    Attributes: `late` gives the labels of that column, None without one.
    """

    def __init__(
        self,
        session: Session,
        results: ReplayResults,
        check: StateCheck | None,
        labels: LabelColumn | None,
        store: Store | None = None,
    ) -> None:
        self._session, self._results, self._check = session, results, check
        self._labels, self._store = labels, store
        self._took: Callable[[Ticks | Label], object] = store or (lambda _: None)
        self.late: LateLabels | None = (
            None if labels is None else labels.schedule(session, results.piece_begins, self._took)
        )

    def run(self, file: InputFile, source: FileSource) -> bool:
        """Push the whole file, and return whether a signal cut it short.

        Raises DataError where the store holds other ticks than the file begins with.
        """
        done = 0
        with (
            StopSwitch() as stop,
            stop_on_signals(stop),
            file_progress(source, file.limit) as report,
        ):
            pieces = self._pieces(file.stream, source)
            if self._store is not None:
                known = self._store.positions.get(file.stream, Position())
                pieces = self._behind(known, pieces, file)
                done = known.ticks
            for piece in pieces:
                self._push(piece)
                done += len(piece.labels)
                report(done)
                if stop.requested:
                    return True
        self._session.settle()
        if self._store is not None:
            self._store(Settle())
        return False

    def _pieces(self, stream: str, source: FileSource) -> Iterator[Piece]:
        used = len(self._session.columns)
        column = None
        if self._labels is not None:
            column = source.value_columns.index(self._labels.name)
        for block in source.blocks():
            for start in range(0, len(block.values), PIECE):
                part = slice(start, start + PIECE)
                values = block.values[part]
                labels = values[:, 0 if column is None else column]
                ticks = Ticks(stream, block.t_ns[part], values[:, :used])
                yield Piece(ticks, labels, block.rows[part])

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
            self.late.rehearse(((piece.ticks, piece.labels) for piece in had), known.labels)
        return had.rest()

    def _push(self, piece: Piece) -> None:
        self._results.rows = piece.rows
        if self.late is None:
            self._session.push(piece.ticks)
            self._took(piece.ticks)
        else:
            self.late.push(piece.ticks, piece.labels)
        if self._check is not None:
            self._check.push(piece.ticks)
