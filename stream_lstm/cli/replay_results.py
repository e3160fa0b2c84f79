"""Where the results of a replay go: digest, file of results, standard error, summary, store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.replay import Digest
from ..errors import DataError
from ..events import Output, Prediction, Refusal, Rollback, Score
from ..records import Batch
from ..schema import OnBad
from ..serve.logs import RefusalLog
from ..store.output import PredictionWriter, open_output
from .best_possible import BestPossible
from .process import peak_rss_bytes, warn

if TYPE_CHECKING:
    from ..core.outcome import Outcome
    from ..core.session import Session
    from ..store.store import Store


class ReplayResults:
    """Takes what comes of one replay; a context manager that ends the file of results.

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

    def write_to(self, path: Path, *, spreadsheet: bool = False) -> None:
        """Write predictions and scores to a file; raises what `open_output` raises."""
        self._writer = open_output(path, spreadsheet=spreadsheet)

    def keep_in(self, store: Store) -> None:
        """Hand everything on to a store."""
        self._store = store

    def take_over(self, store: Store) -> None:
        """Take what an earlier run came to, so that this one's results are of both."""
        for predictions, scores in store.history():
            self._take(predictions, scores)

    def compare_with(self, best: BestPossible) -> None:
        """Add to the summary how far the model came towards the best possible."""
        self._best = best

    def piece_begins(self, start: int) -> None:
        """Take note that the ticks that are pushed now begin at `start` of `rows`."""
        self._start = start

    @property
    def scored(self) -> bool:
        """Whether anything here takes scores as they come."""
        return any(one is not None for one in (self._writer, self._best, self._store))

    def deliver(self, outcome: Outcome) -> None:
        """Take what came out of the session."""
        self._take(outcome.predictions, outcome.scores)
        for event in outcome.others:
            self.take(event)
        if self._store is not None:
            for part in (outcome.predictions, outcome.scores):
                if len(part):
                    self._store(part)
            for event in outcome.others:
                self._store(event)

    def _take(self, predictions: Batch[Prediction], scores: Batch[Score]) -> None:
        self.digest.add_batch(predictions)
        if self._writer is not None:
            self._writer.write_batch(predictions, scores)
        if self._best is not None:
            self._best.add(scores)

    def take(self, event: Output) -> None:
        """Log and count a refusal or a roll-back; DataError for a tick, where that ends it."""
        if isinstance(event, Rollback) or (isinstance(event, Refusal) and event.kind == "label"):
            self.refused(event)
        elif isinstance(event, Refusal):
            where = f"{self._path}:{self.rows[self._start + event.index]}"
            if self._fail:
                raise DataError(f"{where}: {event.reason}; --on-bad-row skip leaves such rows out")
            self.refused(msgspec.structs.replace(event, where=where, index=-1))

    def summary(
        self, session: Session, rows_refused: int, *, wall_s: float, compile_s: float
    ) -> dict[str, Any]:
        """Return the closing record; `rows_refused` are rows that never reached the session."""
        from ..core.verdict import summarize, verdict

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
