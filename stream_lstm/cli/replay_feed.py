"""The rows of a file on their way into a session: past what a store has, with their labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ..core.features import Clipped
from ..core.replay import Replay, ReplayRows
from ..events import Ticks
from ..feed.files import read_ahead
from ..feed.reader import Keys
from ..serve.signals import StopSwitch, stop_on_signals
from ..store.units import JournalPosition, Settle
from .input_file import InputFile
from .label_column import LabelColumn
from .process import warn
from .progress import file_progress
from .replay_results import ReplayResults
from .row_order import row_order
from .stored_part import StoredPart

if TYPE_CHECKING:
    from ..core.proofs.state import StateCheck
    from ..core.replay import LateLabels
    from ..core.session import Session
    from ..feed.files import FileSource, TickBlock
    from ..store.store import Store


class ReplayFeed:
    """Runs a file through a session, and through a state check where there is one.

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
        self._clipped = Clipped(session.config)
        self.late: LateLabels | None = None
        if labels is not None:
            self.late = labels.schedule(session, results.piece_begins, store or (lambda _: None))

    def run(self, file: InputFile, source: FileSource) -> bool:
        """Run the whole file through, and return whether a signal cut it short.

        Raises DataError where the store holds other ticks than the file begins with.
        """
        with ExitStack() as stack:
            stop = stack.enter_context(StopSwitch())
            stack.enter_context(stop_on_signals(stop))
            warns = self._session.config.stream.on_old_time == "warn"
            look = stack.enter_context(row_order(file, warns=warns))
            report = stack.enter_context(file_progress(source, file.limit))
            blocks = source.blocks()
            if file.on_bad_row == "fail":  # what skips rows logs them, which one thread must do
                blocks = stack.enter_context(read_ahead(blocks))
            rows = _rows(source, blocks, len(self._session.columns), self._labels)
            done = 0
            if self._store is not None:
                known = self._store.positions.get(file.stream, JournalPosition())
                rows, done = self._behind(known, rows, file), known.ticks

            def begin(piece: ReplayRows) -> None:
                self._results.rows = piece.numbers

            def end(piece: ReplayRows) -> None:
                ticks = Ticks(file.stream, piece.t_ns, piece.values)
                if self._store is not None and self.late is None:
                    self._store(ticks)
                if self._check is not None:
                    self._check.push(ticks)
                assert piece.numbers is not None
                keys = None if piece.keys is None else Keys(*piece.keys)
                look(piece.t_ns, piece.values, piece.numbers, keys)
                for line in self._clipped.look(self._session.table):
                    warn(line)

            replay = Replay(self._session, file.stream, late=self.late, before=begin, after=end)
            whole = replay.run(rows, lambda count: report(done + count), lambda: stop.requested)
        if whole and self._store is not None:
            self._store(Settle())
        return not whole

    def _behind(
        self, known: JournalPosition, rows: Iterator[ReplayRows], file: InputFile
    ) -> Iterator[ReplayRows]:
        """Return what comes behind the ticks that the store holds, which must be the same."""
        if not known.ticks:
            return rows
        had = StoredPart(known, rows, str(file.path))
        if self.late is None:
            for _ in had:
                pass
        else:
            self.late.rehearse(
                ((Ticks(file.stream, part.t_ns, part.values), part.labels) for part in had),
                known.labels,
            )
        return had.rest()


def _rows(
    source: FileSource, blocks: Iterator[TickBlock], used: int, labels: LabelColumn | None
) -> Iterator[ReplayRows]:
    label = None if labels is None else source.value_columns.index(labels.name)
    for block in blocks:
        of = None if label is None else block.values[:, label]
        yield ReplayRows(block.t_ns, block.values[:, :used], block.rows, of, block.keys)
