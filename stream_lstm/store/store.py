"""The store of a daemon or a replay: it receives every event, and resumes a session.

The session's outputs go to the store as they come; `add` takes each input after the session has
accepted it, together with the outputs since the previous input. Ticks may wait in the session.
Once it has processed all of them, `flush` makes one unit of the inputs, which is stored whole or
not at all, so a stored tick always has its outputs. After the start, only the writer's thread
touches a file.

Where a live feed is faster than the disk, or the disk is full, inputs are left out. The journal
could not be replayed across such a hole, so its end is stored together with a snapshot. The same
snapshot begins a new file where the old one is gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..core import snapshot
from ..core.session import Session
from ..core.table import AT, TICKS, N
from ..errors import GoneError, OutputError, StreamLSTMError
from ..events import Gap, Input, Output, Prediction, Refusal, Run, Score, SessionStart, Ticks
from ..records import Batch
from ..schema import StoreConfig
from . import schema
from .chain import Chain, checksum_of, damage, sum_in
from .journal import last_pos, read_positions
from .reading import Resumed, Setup, check_setup, history, read_setup, resume, write_setup
from .schema import SQLITE_ERRORS, insert, run_row, using
from .units import (
    Hole,
    JournalPosition,
    Moving,
    Note,
    Result,
    Saved,
    Settle,
    Step,
    Steps,
    StoredInput,
    delete_orphans,
)
from .writer import StoreLock, Writer

REPORT_S = 1.0
"""Time between two reports of the same refusal or trouble, and two attempts to create a file."""

TOO_SLOW = "the disk could not keep up, or could not be written to"

MAX_REFUSALS = 100
"""Rows about refusals within that time; a peer can invent stream names."""

RESETS = AT["resets"]


class Store:
    """A store that is locked and open for writing; a context manager.

    path: the file, created if necessary. setup: that of the session. options: the table `store` of
    the configuration. command: its name, for the record. blocking: wait for the disk (a replay)
    instead of leaving inputs out (a live feed). say: takes lines for people. clock: seconds,
    monotonic.

    `begin` must follow, then a call for each event. `setup` has the weights with which the store
    was created; `resumed_elements` counts the elements of the resumed session. An error inside the
    `with` closes the store without a last snapshot.

    Raises LockedError, ConfigurationError where the store was created with another setup,
    StoreError and OutputError.
    """

    def __init__(
        self,
        path: Path,
        setup: Setup,
        options: StoreConfig,
        *,
        command: str,
        blocking: bool,
        say: Callable[[str], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.setup = setup
        self.positions: dict[str, JournalPosition] = {}
        self.resumed: Resumed | None = None
        self.resumed_elements = 0
        self._options, self._command, self._blocking = options, command, blocking
        self._say, self._clock = say, clock
        self._writer: Writer | None = None
        self._session: Session | None = None
        self._outputs: list[Result | Batch[Any]] = []
        self._steps: Steps = []
        self._refusals: dict[tuple[str, str], tuple[Refusal, int]] = {}
        self._elements: dict[str, int] = {}
        self._resets: dict[str, int] = {}
        self._since_snapshot = self._dropped = self._left_out = 0
        self._hole: dict[str, JournalPosition] | None = None
        self._report_at = self._create_at = 0.0
        self._obstacle = ""
        self._reported: str | None = None
        self._closed = False
        self._lock = StoreLock(path)
        try:
            self._open(setup)
        except BaseException:
            self._lock.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        return schema.connect(self._lock.store, sync=self._options.sync)

    def _open(self, setup: Setup) -> None:
        with using(self._connect(), self.path, SQLITE_ERRORS) as connection:
            known = read_setup(connection, str(self.path))
            if known is None:
                connection.execute("BEGIN IMMEDIATE")
                write_setup(connection, setup)
                connection.execute("COMMIT")
            else:
                check_setup(known, setup, str(self.path))
                self.setup = setup._replace(weights=known.weights, scaler=known.scaler)

    # ---- the beginning ----------------------------------------------------------------

    def begin(self, session: Session) -> Resumed | None:
        """Bring a new session to the end of the store, and start to write.

        Returns how it was resumed, None for a new store. Raises what `resume` raises.
        """
        with using(self._connect(), self.path, SQLITE_ERRORS) as connection:
            if last_pos(connection):
                self.resumed = resume(connection, session, str(self.path))
            elif (found := damage(connection)) is not None:
                raise schema.damaged(str(self.path), found.what)
            self.positions = read_positions(connection)
            run = self._enter(connection, session, last_pos(connection))
        self._session = session
        self.resumed_elements = elements_of(session)
        self._elements = {name: self._column(name, N) for name in session.table.names}
        self._resets = {name: self._column(name, RESETS) for name in session.table.names}
        # a snapshot at the end, unless the restored one is where the journal ends
        self._since_snapshot = 1 if self.resumed is not None and self.resumed.inputs else 0
        self._writer = self._start_writer(run)
        return self.resumed

    def _start_writer(self, run: int) -> Writer:
        return Writer(
            self._connect,
            run,
            commit_elements=self._options.commit_elements,
            commit_s=self._options.commit_ms / 1000,
            blocking=self._blocking,
            # a resumed replay reports the results of the whole file
            max_bytes=0 if self._blocking else int(self._options.max_gb * 1e9),
            lock=self._lock,
        )

    def _enter(self, connection: sqlite3.Connection, session: Session, pos: int) -> int:
        """Store this run, and mark the damaged snapshots; return the run's number."""
        now = time.time_ns()
        chain = Chain(connection)
        connection.execute("BEGIN IMMEDIATE")
        delete_orphans(connection)
        last_run = connection.execute("SELECT coalesce(max(run), 0) FROM runs").fetchone()[0]
        run = int(last_run) + 1
        configuration = msgspec.json.encode(self.setup.config).decode()
        row = run_row(session, run, now, pos, self._command, configuration)
        insert(connection, "runs", row)
        before = sum_in(connection, "snapshots")
        events: list[schema.Row] = []
        for number, why in (self.resumed.set_aside if self.resumed else {}).items():
            connection.execute(
                "UPDATE snapshots SET set_aside = ? WHERE snapshot = ?", (why, number)
            )
            event = chain.last.event + 1 + len(events)
            reason = f"snapshot {number}: {why}"
            about = (event, pos, run, now, 0, "snapshot set aside", "", "", None, None, 1, reason)
            insert(connection, "events", about)
            events.append(about)
        changes = {
            "runs": checksum_of(row),
            "snapshots": sum_in(connection, "snapshots") - before,
        }
        end = max(chain.last.pos, last_pos(connection))
        chain.seal(connection, {"events": events}, end, changes)
        connection.execute("COMMIT")
        return run

    def history(self) -> Iterator[tuple[Batch[Prediction], Batch[Score]]]:
        """Yield the stored predictions and scores in their order."""
        with using(schema.connect_reader(self.path), self.path, SQLITE_ERRORS) as connection:
            yield from history(connection)

    # ---- every event ------------------------------------------------------------------

    def __call__(self, event: Input | Output | Settle | Batch[Any]) -> None:
        """Take outputs, or the input that caused the previous ones.

        An input is stored together with the ticks that wait in the session, which are processed
        for that: a caller that pushes single ticks uses `add` and `flush`. Raises the error that
        ended the writer.
        """
        if isinstance(event, Result | Batch):
            self._outputs.append(event)
        elif isinstance(event, Refusal):
            first, count = self._refusals.get((event.kind, event.stream), (event, 0))
            if count or len(self._refusals) < MAX_REFUSALS:
                self._refusals[event.kind, event.stream] = (first, count + 1)
        else:
            assert self._session is not None
            self._session.catch_up()
            elements = 0
            if isinstance(event, Ticks | Run):
                before = self._elements.get(event.stream, 0)
                self._elements[event.stream] = after = self._column(event.stream, N)
                elements = after - before
            self.add(event, elements)
            self.flush()

    def add(self, event: StoredInput, elements: int = 0) -> None:
        """Add an input that produced some elements, with the outputs since the previous input."""
        self._steps.append(Step(event, elements, self._outputs))
        self._outputs = []

    def add_runs(self, runs: Sequence[Run], elements: Sequence[int]) -> None:
        """Add runs of different streams that the session took together."""
        steps = {run.stream: Step(run, n, []) for run, n in zip(runs, elements, strict=True)}
        for output in self._outputs:
            steps[output.stream].outputs.append(output)  # type: ignore[union-attr]
        self._steps += steps.values()
        self._outputs = []

    def flush(self) -> None:
        """Store the inputs: the session has processed all of them.

        Raises the error that ended the writer.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        if self._outputs:
            steps[-1].outputs.extend(self._outputs)
            self._outputs = []
        self._since_snapshot += sum([step.elements for step in steps])
        if self._hole is not None or not self._put(steps):
            self._leave_out(steps)
        elif self._since_snapshot >= self._options.snapshot_every:
            assert self._writer is not None
            if self._writer.can_save():
                self.snapshot()
        for step in steps:
            if isinstance(step.event, Gap | SessionStart):
                self._note_reset(step.event.stream)
        if self._clock() >= self._report_at:
            self.report()

    def _column(self, stream: str, column: int) -> int:
        assert self._session is not None
        table = self._session.table
        row = table.places.get(stream)
        return 0 if row is None else int(table.view[row, column])

    def _put(self, unit: Steps | Saved | Note | Hole) -> bool:
        assert self._writer is not None
        try:
            return self._writer.put(unit)
        except GoneError:
            if self._ends_when_gone():
                raise
            return False

    def _ends_when_gone(self) -> bool:
        return self._blocking or self._options.if_gone == "stop"

    def snapshot(self) -> None:
        """Store a snapshot of the session, between two inputs."""
        if self._put(self._saved()):
            self._since_snapshot = 0

    def _saved(self) -> Saved:
        session = self._session
        assert session is not None
        about = snapshot.fingerprint(session.config, session.columns, session.members)
        frozen = snapshot.freeze(session, threading.Lock())
        return Saved(frozen.chunks, snapshot.VERSION, about, elements_of(session))

    def note(self, kind: str, stream: str = "", reason: str = "", *, times: int = 1) -> None:
        """Store an event that is not an input, such as a silent feed."""
        self._put(Note(kind, stream, reason, times))

    def _note_reset(self, stream: str) -> None:
        resets = self._column(stream, RESETS)
        if resets != self._resets.get(stream, 0):
            self._resets[stream] = resets
            self._put(Note("reset", stream, "", n=self._column(stream, N)))

    # ---- inputs that cannot be stored ---------------------------------------------------

    def _leave_out(self, steps: Steps) -> None:
        """Leave inputs out, and end the hole once there is room."""
        if self._hole is None:
            self._hole, self._dropped = {}, 0
        self._dropped += len(steps)
        self._left_out += len(steps)
        for event, _, _ in steps:
            if isinstance(event, Moving):
                self._hole.setdefault(event.stream, JournalPosition(ticks=1)).follow(event)
        assert self._writer is not None
        if isinstance(self._writer.failure, GoneError):
            self._replace_file(self._writer)
        elif self._writer.has_room():
            self._end_hole()

    def _replace_file(self, writer: Writer) -> None:
        """Create a file in the place of the one that is gone, or else try again later."""
        assert self._session is not None
        if self._clock() < self._create_at:
            return
        self._create_at = self._clock() + REPORT_S
        writer.close()
        try:
            run = self._create_file(self._session)
        except StreamLSTMError as error:
            self._obstacle = f"; cannot create a new file: {error}"
            return
        self._obstacle = ""
        positions = writer.positions()
        for stream, position in (self._hole or {}).items():
            known = positions.setdefault(stream, position)
            known.next_seq, known.run_id = position.next_seq, position.run_id or known.run_id
        lost = sum(
            len(unit) if isinstance(unit, list) else unit.inputs
            for unit in writer.unwritten()
            if isinstance(unit, list | Hole)
        )
        self._left_out += lost
        self._dropped = lost + (0 if self._hole is None else self._dropped)
        self._writer, self._hole = self._start_writer(run), positions
        self._end_hole(f"{writer.failure}: this file begins here")
        self._say(f"{writer.failure}; the store continues in a new file with the present state")

    def _create_file(self, session: Session) -> int:
        """Create a file; return the number of the run in it.

        Raises StreamLSTMError where that is not possible.
        """
        if os.path.lexists(self._lock.store):
            raise OutputError(f"{self._lock.store} is in its place; move that away")
        self._lock.close()
        self._lock = StoreLock(self.path)
        self._open(self.setup)
        self.resumed = None if self.resumed is None else self.resumed._replace(set_aside={})
        with using(self._connect(), self.path, SQLITE_ERRORS) as connection:
            return self._enter(connection, session, 1)  # behind the hole, which is first

    def _end_hole(self, reason: str = TOO_SLOW) -> None:
        """Store the hole, and the state behind it, where the queue has room."""
        session, hole = self._session, self._hole or {}
        assert session is not None
        for name, position in hole.items():
            if name in session.table.places:
                position.n, position.ticks = self._column(name, N), self._column(name, TICKS)
        if self._put(Hole(self._dropped, reason, hole, self._saved())):
            self._hole, self._since_snapshot = None, 0

    def report(self) -> None:
        """Store the refusals since the last time, and report trouble with the disk."""
        self._report_at = self._clock() + REPORT_S
        refusals, self._refusals = self._refusals, {}
        for refusal, count in refusals.values():
            place = f" ({refusal.where})" if refusal.where else ""
            reason = f"{refusal.reason}{place}"[:500]
            self._put(Note(f"refused {refusal.kind}", refusal.stream, reason, count))
        error = self._error
        if error is not None and error != self._reported:
            left_out = f", {self._dropped:,} inputs left out" if self._hole is not None else ""
            self._say(f"cannot write the store {self.path} ({error}){left_out}; still predicting")
        elif error is None and self._reported is not None:
            self._say(f"the store {self.path} can be written again")
        self._reported = error

    @property
    def _error(self) -> str | None:
        writer = self._writer
        if writer is None:
            return None
        return writer.trouble if writer.failure is None else f"{writer.failure}{self._obstacle}"

    # ---- the end ----------------------------------------------------------------------

    @property
    def trouble(self) -> str | None:
        """Why the store is not written, None while it is; for any thread."""
        return self._error or ("inputs are left out" if self._hole is not None else None)

    @property
    def waiting_bytes(self) -> int:
        """The approximate size of what is not written yet; for any thread."""
        return 0 if self._writer is None else self._writer.waiting_bytes

    def figures(self) -> dict[str, Any]:
        """Return what the store did, for a summary."""
        resumed, writer = self.resumed, self._writer
        return {
            "path": str(self.path),
            "resumed": resumed is not None,
            "held_elements": self.resumed_elements,
            "replayed_inputs": 0 if resumed is None else resumed.inputs,
            "snapshots_set_aside": 0 if resumed is None else len(resumed.set_aside),
            "inputs_left_out": self._left_out,
            "retries": 0 if writer is None else writer.retries,
        }

    def disk(self) -> tuple[int, int]:
        """Return the bytes of the store with its log, and those that are free beside it."""
        size = 0
        for name in (self.path.name, f"{self.path.name}-wal"):
            with contextlib.suppress(OSError):
                size += self.path.with_name(name).stat().st_size
        try:
            return size, shutil.disk_usage(self.path.parent).free
        except OSError:
            return size, 0

    def close(self, *, whole: bool = True) -> None:
        """Take a last snapshot, write the rest, and release the lock; may be called twice.

        whole: False where the session may have stopped within an input, so that a snapshot would
        be wrong. Raises OutputError where something could not be written.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self._writer is not None:
                self._finish(self._writer, whole)
        finally:
            self._lock.close()

    def _finish(self, writer: Writer, whole: bool) -> None:
        raised: StreamLSTMError | None = None
        try:
            if whole:
                self.report()
                writer.catch_up()
                if isinstance(writer.failure, GoneError) and not self._ends_when_gone():
                    self._create_at = 0.0
                    self._replace_file(writer)
                    writer = self._writer or writer
                elif self._hole is not None:
                    self._end_hole()
                elif self._since_snapshot:
                    self.snapshot()
                self.note("stopped")
        except StreamLSTMError as error:
            raised = error
        unwritten = writer.close()
        raised = raised or writer.failure
        if raised is None and (unwritten or self._hole is not None):
            raised = OutputError(
                f"could not write the end of the store {self.path} ({writer.trouble}): it has "
                "everything before, and a restart continues from there"
            )
        if raised is not None and whole:
            raise raised

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close(whole=error is None)


def elements_of(session: Session) -> int:
    """Return the number of elements of all streams."""
    return int(session.table.ints[: len(session.table), N].sum())
