"""The driving of a replay: a file's blocks into the session, until they end or a signal comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events import Ticks
from ..serve.signals import stop_on_signals
from ..serve.stop import StopSwitch
from .input_file import InputFile
from .label_column import LabelColumn
from .progress import file_progress
from .replay_results import ReplayResults

if TYPE_CHECKING:
    from ..core.late_labels import LateLabels
    from ..core.session import Session
    from ..core.state_check import StateCheck
    from ..feed.files import FileSource, TickBlock

PIECE = 4096
"""Ticks between looks at signals and the progress bar: 10 ms, or with learning half a second."""


class ReplayFeed:
    """Pushes a file into a session, and into a state check where there is one.

    labels: the column of the labels, which the file's values then hold beside the session's.
    Attributes: `late` gives the labels of that column, None without one.
    """

    def __init__(
        self,
        session: Session,
        results: ReplayResults,
        check: StateCheck | None,
        labels: LabelColumn | None,
    ) -> None:
        self.late: LateLabels | None = (
            None if labels is None else labels.schedule(session, results.piece_begins)
        )
        self._session, self._results, self._check = session, results, check
        self._labels = labels

    def run(self, file: InputFile, source: FileSource) -> bool:
        """Push the whole file, and return whether a signal cut it short."""
        done = 0
        with (
            StopSwitch() as stop,
            stop_on_signals(stop),
            file_progress(source, file.limit) as report,
        ):
            for block in source.blocks():
                for start in range(0, len(block.values), PIECE):
                    done += self._push(file.stream, source.value_columns, block, start)
                    report(done)
                    if stop.requested:
                        return True
        self._session.settle()
        return False

    def _push(self, stream: str, columns: tuple[str, ...], block: TickBlock, start: int) -> int:
        """Push a piece of a block, and return its length."""
        part = slice(start, start + PIECE)
        self._results.rows, values = block.rows[part], block.values[part]
        if self.late is None or self._labels is None:
            ticks = Ticks(stream, block.t_ns[part], values)
            self._session.push(ticks)
        else:
            truth = values[:, columns.index(self._labels.name)]
            used = values[:, : len(self._session.columns)]
            ticks = Ticks(stream, block.t_ns[part], used)
            self.late.push(ticks, truth)
        if self._check is not None:
            self._check.push(ticks)
        return len(values)
