"""The driving of a replay: a file's blocks into the session, until they end or a signal comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..events import Ticks
from ..serve.signals import stop_on_signals
from ..serve.stop import StopSwitch
from .input_file import InputFile
from .label_column import LabelColumn
from .progress import file_progress
from .replay_results import ReplayResults

if TYPE_CHECKING:
    from ..core.late_labels import LateLabels
    from ..core.sessions import AnySession
    from ..core.state_check import StateCheck
    from ..feed.files import FileSource, TickBlock
    from ..feed.keys import Keys

Times: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[np.float64]

PIECE = 4096
"""Ticks between looks at signals and the progress bar: 10 ms, or with learning half a second."""

FLEET_PIECE = 16_384
"""The same for streams in tables, which are the faster the longer a block is: 25 ms."""


class ReplayFeed:
    """Pushes a file into a session, and into a state check where there is one.

    labels: the column of the labels, which the file's values then hold beside the session's.
    Attributes: `late` gives the labels of that column, None without one.
    """

    def __init__(
        self,
        session: AnySession,
        results: ReplayResults,
        check: StateCheck | None,
        labels: LabelColumn | None,
    ) -> None:
        from ..core.fleet import Fleet

        self._session, self._results, self._check = session, results, check
        self._labels = labels
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
                self.late = labels.schedule(session, results.piece_begins)

    def run(self, file: InputFile, source: FileSource) -> bool:
        """Push the whole file, and return whether a signal cut it short."""
        done = 0
        with (
            StopSwitch() as stop,
            stop_on_signals(stop),
            file_progress(source, file.limit) as report,
        ):
            for block in source.blocks():
                for start in range(0, len(block.values), self._piece):
                    done += self._push(file.stream, source.value_columns, block, start)
                    report(done)
                    if stop.requested:
                        return True
        self._session.settle()
        return False

    def _push(self, stream: str, columns: tuple[str, ...], block: TickBlock, start: int) -> int:
        """Push a piece of a block, and return its length."""
        part = slice(start, start + self._piece)
        self._results.rows, values = block.rows[part], block.values[part]
        if block.keys is not None:
            self._push_keyed(block.keys.some(part), block.t_ns[part], values)
            return len(values)
        if self.late is None or self._labels is None:
            ticks = Ticks(stream, block.t_ns[part], values)
            self._push_ticks(ticks)
        else:
            truth = values[:, columns.index(self._labels.name)]
            used = values[:, : len(self._session.columns)]
            ticks = Ticks(stream, block.t_ns[part], used)
            self.late.push(ticks, truth)
        if self._check is not None:
            self._check.push(ticks)
        return len(values)

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
