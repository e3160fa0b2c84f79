"""Where a replay's events go: the digest, the file of results, standard error, the summary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.digest import Digest
from ..errors import DataError
from ..events import Output, Prediction, Refusal, Rollback, Score
from ..serve.refusals import RefusalLog
from ..store.output import PredictionWriter, open_output
from ..tables import OnBad
from .best_possible import BestPossible
from .process import peak_rss_bytes, warn

if TYPE_CHECKING:
    from ..core.sessions import AnySession
    from ..store.store import Store


class ReplayResults:
    """Takes the events of one replay; a context manager that ends the file of results.

    path: of the file that is replayed, for messages. on_bad_row: `fail` raises DataError for a
    tick that the session refuses, `skip` logs and counts it. `rows` holds the row
    numbers of the ticks that are being pushed. A label that is refused is logged and counted.
    """

    def __init__(self, path: str, on_bad_row: OnBad) -> None:
        self.digest = Digest()
        self.rows: Sequence[int] | Any = ()
        self._start = 0
        self._path = path
        self._fail = on_bad_row == "fail"
        self._writer: PredictionWriter | None = None
        self._best: BestPossible | None = None
        self._store: Store | None = None
        self.refused = RefusalLog(warn, time.monotonic)

    def write_to(self, path: Path) -> None:
        """Write predictions and scores to a file; raises what `open_output` raises."""
        self._writer = open_output(path)

    def keep_in(self, store: Store) -> None:
        """Hand every event on to a store."""
        self._store = store

    def take_over(self, store: Store) -> None:
        """Take what an earlier run came to, so that this one's results are of both."""
        for event in store.history():
            self._take(event)

    def compare_with(self, best: BestPossible) -> None:
        """Add to the summary how far the model came towards the best possible."""
        self._best = best

    def piece_begins(self, start: int) -> None:
        """Take note that the ticks that are pushed now begin at `start` of `rows`."""
        self._start = start

    def emit(self, event: Output) -> None:
        """Take an event of the session."""
        self._take(event)
        if self._store is not None:
            self._store(event)

    def _take(self, event: Output) -> None:
        if isinstance(event, Prediction):
            self.digest.add(event)
            if self._writer is not None:
                self._writer.write(event)
        elif isinstance(event, Score):
            if self._writer is not None:
                self._writer.score(event)
            if self._best is not None:
                self._best.emit(event)
        elif isinstance(event, Rollback) or (isinstance(event, Refusal) and event.kind == "label"):
            self.refused(event)
        elif isinstance(event, Refusal):
            where = f"{self._path}:{self.rows[self._start + event.index]}"
            if self._fail:
                raise DataError(f"{where}: {event.reason}; --on-bad-row skip leaves such rows out")
            self.refused(msgspec.structs.replace(event, where=where, index=-1))

    def summary(
        self, session: AnySession, rows_refused: int, *, wall_s: float, compile_s: float
    ) -> dict[str, Any]:
        """Return the closing record; `rows_refused` are rows that never reached the session."""
        from ..core.summary import summarize
        from ..core.verdict import verdict

        held = 0 if self._store is None else self._store.held
        took = {"wall_s": wall_s, "compile_s": compile_s}
        summary = summarize(session, self.digest, **took, held=held)
        summary["ticks"] += rows_refused
        summary["refused_ticks"] += rows_refused
        summary["verdict"] = verdict(summary)
        if self._best is not None:
            summary |= self._best.figures(session.config, summary)
        return summary | {"peak_rss_bytes": peak_rss_bytes()}

    def __enter__(self) -> ReplayResults:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.refused.flush()
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)
