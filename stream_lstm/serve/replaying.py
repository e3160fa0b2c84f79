"""A file through a session: its rows in pieces, its labels in their time, and the results.

The file is read in blocks and pushed in pieces, so memory stays flat however long it is, and a
signal is obeyed within a piece.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from ..core.features import FeatureMonitor
from ..core.outcome import Outcome
from ..core.proofs.state import StateCheck, effect
from ..core.proofs.state import verdict as state_verdict
from ..core.replay import Digest, LateLabels, Replay, ReplayRows
from ..core.session import Session
from ..core.verdict import summarize, verdict
from ..errors import DataError
from ..events import Input, Notice, Output, Prediction, Refusal, Rollback, Score, Ticks
from ..feed.input_file import InputFile, LabelColumn, Progress, check_order, no_progress
from ..feed.order import OddValues
from ..feed.reader import Keys
from ..platform import peak_rss_bytes
from ..quoting import count
from ..records import Batch
from ..store.reading import StoredPart
from ..store.startup import WarmStart, Warn
from ..store.units import JournalPosition, Settle
from .logs import EventLog
from .signals import StopSwitch, stop_on_signals

if TYPE_CHECKING:
    from ..core.scores import BestPossible
    from ..feed.files import FileSource, TickBlock
    from ..store.output import PredictionWriter
    from ..store.store import Store
    from .daemon import Daemon


def session_of(begin: WarmStart, columns: tuple[str, ...], **options: Any) -> Session:
    """Return a session, compiled unless `options` has an engine."""
    weights, scaler, members = begin.weights, begin.scaler, begin.members
    return Session(
        begin.config, columns, weights=weights, scaler=scaler, members=members, **options
    )


def state_record(check: StateCheck) -> dict[str, Any]:
    """Return the record of a state check, with its effect and its verdict."""
    found = check.record()
    return found | {"effect": effect(found), "verdict": state_verdict(found)}


# ---- results ----------------------------------------------------------------------------------


class Results:
    """Digests predictions and writes them to a file; a context manager that ends the file."""

    def __init__(self) -> None:
        self.digest = Digest()
        self._writer: PredictionWriter | None = None

    def open(self, out: Path | None, *, spreadsheet: bool = False) -> None:
        """Write predictions and scores to a file, if one is named; raises as `open_output`."""
        if out is not None:
            from ..store.output import open_output  # it imports Arrow

            self._writer = open_output(out, spreadsheet=spreadsheet)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)


class LiveResults(Results):
    """An observer of a daemon."""

    def __call__(self, event: Input | Output | Notice) -> None:
        """Take an event."""
        if isinstance(event, Prediction):
            self.digest.add(event)
            if self._writer is not None:
                self._writer.write(event)
        elif isinstance(event, Score) and self._writer is not None:
            self._writer.score(event)

    def summary(self, daemon: Daemon, *, wall_s: float) -> dict[str, Any]:
        """Return the closing record: that of a replay, and the counters of the feed."""
        store, times = daemon.store, {"wall_s": wall_s, "compile_s": daemon.compile_s}
        held = 0 if store is None else store.resumed_elements
        return {
            **summarize(daemon.session, self.digest, **times, earlier=held),
            "compilations_after_ready": daemon.compilations,
            "feed": msgspec.structs.asdict(daemon.subscriber.counters),
            **({} if store is None else {"store": store.figures()}),
            "refused_peers": daemon.security.counts(),
            "peak_rss_bytes": peak_rss_bytes(),
            "interrupted": daemon.stop.requested,
        }


class ReplayResults(Results):
    """Takes the outcomes of one replay.

    file: what is replayed; its `on_bad_row` is `fail`, which raises DataError for a tick that the
    session refuses, or `skip`, which logs and counts it. A refused label is logged and counted.
    Attributes: `rows` has the row numbers of the ticks being pushed, `start` the position among
    them of the piece being pushed; `store` receives everything, `best` the scores.
    """

    def __init__(self, file: InputFile, warn: Warn) -> None:
        super().__init__()
        self.rows: Sequence[int] | Any = ()
        self.start = 0
        self.best: BestPossible | None = None
        self.store: Store | None = None
        self.refused = EventLog(warn, time.monotonic)
        self._path_of = file.path_of
        self._fail = file.on_bad_row == "fail"

    @property
    def scored(self) -> bool:
        """Whether scores are needed as they come."""
        return any(one is not None for one in (self._writer, self.best, self.store))

    def take_over(self, store: Store) -> None:
        """Take the results of an earlier replay, so that the summary covers both."""
        for predictions, scores in store.history():
            self._take(predictions, scores)

    def deliver(self, outcome: Outcome) -> None:
        """Take an outcome of the session."""
        self._take(outcome.predictions, outcome.scores)
        for event in outcome.others:
            self.take(event)
        if self.store is not None:
            for part in (outcome.predictions, outcome.scores):
                if len(part):
                    self.store(part)
            for event in outcome.others:
                self.store(event)

    def _take(self, predictions: Batch[Prediction], scores: Batch[Score]) -> None:
        self.digest.add_batch(predictions)
        if self._writer is not None:
            self._writer.write_batch(predictions, scores)
        if self.best is not None:
            self.best.add(scores)

    def take(self, event: Output) -> None:
        """Log and count a refusal or a roll-back; DataError for a tick if that ends the replay."""
        if isinstance(event, Rollback) or (isinstance(event, Refusal) and event.kind == "label"):
            self.refused(event)
        elif isinstance(event, Refusal):
            where = f"{self._path_of(event.stream)}:{self.rows[self.start + event.index]}"
            if self._fail:
                raise DataError(f"{where}: {event.reason}; --on-bad-row skip leaves such rows out")
            self.refused(msgspec.structs.replace(event, where=where, index=-1))

    def summary(
        self, session: Session, rows_refused: int, *, wall_s: float, compile_s: float
    ) -> dict[str, Any]:
        """Return the closing record; `rows_refused` are rows that never reached the session."""
        held = 0 if self.store is None else self.store.resumed_elements
        times = {"wall_s": wall_s, "compile_s": compile_s}
        summary = summarize(session, self.digest, **times, earlier=held)
        summary["ticks"] += rows_refused
        summary["refused_ticks"] += rows_refused
        summary["verdict"] = verdict(summary)
        if self.best is not None:
            summary |= self.best.figures(session.config, summary)
        return summary | {"peak_rss_bytes": peak_rss_bytes()}

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.refused.flush()
        super().__exit__(kind, error, trace)


# ---- the rows of a file on their way into a session -------------------------------------------


class FileReplay:
    """Runs a file through a session, and through a state check if there is one.

    labels: the column of labels, which the file's values then have beside the session's. store:
    receives every input, and knows how much of the file it contains; None stores nothing.
    warn: takes a line. progress: opens the progress report.
    Attributes: `late` gives the labels of that column, None without one; `rows` counts the rows
    that were read, and `span` has the first and the last of their times, None without rows. `odd`
    has the values that may mean no value; `doubt` says why the order of the rows makes a verdict
    meaningless, or "".
    """

    def __init__(
        self,
        session: Session,
        results: ReplayResults,
        check: StateCheck | None,
        labels: LabelColumn | None,
        store: Store | None,
        *,
        warn: Warn,
        progress: Progress = no_progress,
    ) -> None:
        self._session, self._results, self._check = session, results, check
        self._labels, self._store = labels, store
        self._warn, self._progress = warn, progress
        self._clipped = FeatureMonitor(session.config)
        self.rows = 0
        self.span: tuple[int, int] | None = None
        self.odd = OddValues(session.columns)
        self.doubt = ""
        self.late: LateLabels | None = None
        if labels is not None:
            self.late = LateLabels(
                session,
                delay=labels.delay,
                delay_ns=labels.delay_ns,
                on_piece=self._begin_labels,
                on_input=store or (lambda _: None),
            )

    def _begin_labels(self, start: int) -> None:
        self._results.start = start

    def run(self, file: InputFile, source: FileSource, blocks: Iterator[TickBlock]) -> bool:
        """Run the whole file through, and return whether a signal cut it short.

        blocks: those of the source.

        Raises DataError if the store contains other ticks than the first of the file.
        """
        with ExitStack() as stack:
            stop = stack.enter_context(StopSwitch())
            stack.enter_context(stop_on_signals(stop))
            warns = self._session.config.stream.on_old_time == "warn"
            order = stack.enter_context(check_order(file, self._warn, enabled=warns))
            report = stack.enter_context(self._progress(source, file.limit))
            from ..feed.files import read_ahead  # it imports Arrow

            if file.on_bad_row == "fail":  # skipped rows are logged, by one thread alone
                blocks = stack.enter_context(read_ahead(blocks))
            rows = _rows(source, blocks, len(self._session.columns), self._labels)
            rows = self._counted(rows)
            done = 0
            if self._store is not None:
                known = self._store.positions.get(file.stream, JournalPosition())
                rows, done = self._after(known, rows, file), known.ticks

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
                order.look(piece.t_ns, piece.values, piece.numbers, keys)
                self.odd.look(piece.values)
                for line in self._clipped.check(self._session):
                    self._warn(line)

            replay = Replay(self._session, file.stream, late=self.late, before=begin, after=end)
            whole = replay.run(rows, lambda count: report(done + count), lambda: stop.requested)
        self.doubt = order.doubt()
        if whole and self._store is not None:
            self._store(Settle())
        return not whole

    def _counted(self, rows: Iterator[ReplayRows]) -> Iterator[ReplayRows]:
        for part in rows:
            if len(part.t_ns):
                self.rows += len(part.t_ns)
                first = int(part.t_ns[0]) if self.span is None else self.span[0]
                self.span = first, int(part.t_ns[-1])
            yield part

    def _after(
        self, known: JournalPosition, rows: Iterator[ReplayRows], file: InputFile
    ) -> Iterator[ReplayRows]:
        """Return what follows the ticks of the store, which must be the first of the file."""
        if not known.ticks:
            return rows
        stored = StoredPart(known, rows, str(file.path))
        if self.late is None:
            for _ in stored:
                pass
        else:
            self.late.rehearse(
                ((Ticks(file.stream, part.t_ns, part.values), part.labels) for part in stored),
                known.labels,
            )
        return stored.rest()


def begun(blocks: Iterator[TickBlock], window: int, warn: Warn) -> Iterator[TickBlock]:
    """Return blocks of which the first have been read; raises what reading them raises.

    Warns if they have too few rows for a prediction.
    """
    first, rows = [], 0
    for block in blocks:
        first.append(block)
        rows += len(block.rows)
        if rows >= window:
            break
    else:
        warn(
            f"too short: {count(rows, 'rows')}, and the first prediction comes after {window} "
            "elements (--window)"
        )
    return itertools.chain(first, blocks)


def _rows(
    source: FileSource, blocks: Iterator[TickBlock], used: int, labels: LabelColumn | None
) -> Iterator[ReplayRows]:
    label = None if labels is None else source.value_columns.index(labels.name)
    for block in blocks:
        of = None if label is None else block.values[:, label]
        yield ReplayRows(block.t_ns, block.values[:, :used], block.rows, of, block.keys)
