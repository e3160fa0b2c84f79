"""The store of a daemon or a replay: it is given every event, and brings a session back.

It is called with the outputs of a session, and `hold` with each input after the session has taken
it. Outputs since the previous input are the results of this one. Ticks may wait in the session:
once it has caught up with all of them, `hand_over` makes one unit of everything held, which is
stored whole or not at all, so that a stored tick is never without its outputs. Nothing here
touches a file after the start: a thread writes.

Where a live feed is faster than the disk, or the disk is full, inputs are left out. What comes
after could not be replayed, so that the end of such a hole is stored with a snapshot. The same
snapshot begins a new file where the file is gone.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from ..core import snapshot
from ..core.session import Session
from ..core.table import AT, TICKS, N
from ..errors import GoneError, OutputError, StreamLSTMError
from ..events import (
    Expiry,
    Gap,
    Input,
    Output,
    Prediction,
    Refusal,
    Rollback,
    Run,
    Score,
    SessionStart,
    Ticks,
    Update,
)
from ..records import Batch
from ..schema import StoreConfig
from . import schema
from .chain import Chain, checksum_of, damage, held_sum
from .journal import last_pos, read_positions
from .lock import StoreLock
from .reading import Resumed, Setup, check_setup, history, read_setup, resume, write_setup
from .schema import held_weights, runtime
from .units import (
    Hole,
    JournalPosition,
    Note,
    Result,
    Saved,
    Settle,
    Step,
    Steps,
    Taken,
    delete_orphans,
)
from .writer import Presence, Writer

TEND_S = 1.0
"""Between two events of one kind of refusal, and two lines about one trouble."""

KEPT_BACK = "the disk could not keep up, or could not be written to"

MAX_REFUSALS = 100
"""Rows about refusals within that time; a peer can invent streams to be refused."""

RESETS = AT["resets"]

RESULTS = (Prediction, Score, Update, Rollback, Expiry, Batch)


class Store:
    """A store that is open for writing, and locked; a context manager.

    path: the file, made if need be. setup: what the session is made of. options: the table
    `store` of the configuration. command: its name, for the record. blocking: wait for the disk
    (a replay) instead of leaving out what it cannot take (a live feed). say: takes lines for
    people. clock: seconds, monotonic.

    `setup` is what the session is to be made of: what the store was begun with. `begin` follows,
    then calls for each event; `held` is how many elements there were before. An error inside the
    `with` closes it without a last snapshot.

    Raises LockedError, ConfigurationError where it was begun with something else, StoreError and
    OutputError.
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
        self.held = 0
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
        self._tend_at = self._anew_at = 0.0
        self._obstacle = ""
        self._said: str | None = None
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
        connection = self._connect()
        try:
            known = read_setup(connection, str(self.path))
            if known is None:
                connection.execute("BEGIN IMMEDIATE")
                write_setup(connection, setup)
                connection.execute("COMMIT")
            else:
                check_setup(known, setup, str(self.path))
                self.setup = setup._replace(weights=known.weights, scaler=known.scaler)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise schema.failure(self.path, error) from None
        finally:
            connection.close()

    # ---- the beginning ----------------------------------------------------------------

    def begin(self, session: Session) -> Resumed | None:
        """Bring a fresh session to where the store ends, and start to write.

        Returns what it was brought back from, None where the store is new. Raises what `resume`
        raises.
        """
        connection = self._connect()
        try:
            if last_pos(connection):
                self.resumed = resume(connection, session, str(self.path))
            elif (found := damage(connection)) is not None:
                raise schema.damaged(str(self.path), found.what)
            self.positions = read_positions(connection)
            run = self._enter(connection, session, last_pos(connection))
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise schema.failure(self.path, error) from None
        finally:
            connection.close()
        self._session = session
        self.held = _elements(session)
        self._elements = {name: self._column(name, N) for name in session.table.names}
        self._resets = {name: self._column(name, RESETS) for name in session.table.names}
        # a snapshot at the end, unless the one that was restored is where the journal ends
        self._since_snapshot = 1 if self.resumed is not None and self.resumed.inputs else 0
        self._writer = self._write_on(run)
        return self.resumed

    def _write_on(self, run: int) -> Writer:
        return Writer(
            self._connect,
            run,
            commit_elements=self._options.commit_elements,
            commit_s=self._options.commit_ms / 1000,
            blocking=self._blocking,
            # a replay makes its results anew from everything that is there
            max_bytes=0 if self._blocking else int(self._options.max_gb * 1e9),
            presence=Presence(self._lock),
        )

    def _enter(self, connection: sqlite3.Connection, session: Session, pos: int) -> int:
        """Enter this run, and the snapshots that were set aside; return the run's number."""
        now = time.time_ns()
        chain = Chain(connection)
        connection.execute("BEGIN IMMEDIATE")
        delete_orphans(connection)
        about = runtime() | {"weights": held_weights(session)}
        row = (now, pos, self._command, os.getpid(), about["stream_lstm"])
        texts = msgspec.json.encode(about), msgspec.json.encode(self.setup.config)
        cursor = connection.execute(
            "INSERT INTO runs (started_ns, pos, command, pid, version, runtime, configuration) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row, *(text.decode() for text in texts)),
        )
        run = int(cursor.lastrowid or 0)
        events: list[Sequence[Any]] = []
        before = held_sum(connection, "snapshots")
        for number, reason in (self.resumed.set_aside if self.resumed else {}).items():
            connection.execute(
                "UPDATE snapshots SET set_aside = ? WHERE snapshot = ?", (reason, number)
            )
            told = f"snapshot {number}: {reason}"
            about_it = (chain.last.event + 1 + len(events), pos, run, now, 0, "snapshot set aside")
            events.append((*about_it, "", "", None, None, 1, told))
        connection.executemany(
            f"INSERT INTO events VALUES ({', '.join('?' * 12)})",  # noqa: S608 - ours
            events,
        )
        changes = {
            "runs": checksum_of((run, *row, *(text.decode() for text in texts))),
            "snapshots": held_sum(connection, "snapshots") - before,
        }
        end = max(chain.last.pos, last_pos(connection))
        chain.seal(connection, {"events": events}, end, changes)
        connection.execute("COMMIT")
        return run

    def history(self) -> Iterator[tuple[Batch[Prediction], Batch[Score]]]:
        """Yield the predictions and scores that the store holds, in their order."""
        connection = schema.connect_reader(self.path)
        try:
            yield from history(connection)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise schema.failure(self.path, error) from None
        finally:
            connection.close()

    # ---- every event ------------------------------------------------------------------

    def __call__(self, event: Input | Output | Settle | Batch[Any]) -> None:
        """Take an output or many, or the input that brought those before it.

        An input is stored together with what waits in the session, which catches up for that: a
        caller that pushes single ticks uses `hold` and `hand_over`. Raises what ended the writer.
        """
        if isinstance(event, RESULTS):
            self._outputs.append(event)
        elif isinstance(event, Refusal):
            first, count = self._refusals.get((event.kind, event.stream), (event, 0))
            if count or len(self._refusals) < MAX_REFUSALS:
                self._refusals[event.kind, event.stream] = (first, count + 1)
        else:
            assert self._session is not None
            self._session.catch_up()
            made = 0
            if isinstance(event, Ticks | Run):
                before = self._elements.get(event.stream, 0)
                self._elements[event.stream] = after = self._column(event.stream, N)
                made = after - before
            self.hold(event, made)
            self.hand_over()

    def hold(self, event: Taken, made: int = 0) -> None:
        """Hold an input that made so many elements, with what came out since the one before."""
        self._steps.append(Step(event, made, self._outputs))
        self._outputs = []

    def hold_together(self, runs: Sequence[Run], made: Sequence[int]) -> None:
        """Hold runs of different streams that the session took at the same time."""
        steps = {run.stream: Step(run, n, []) for run, n in zip(runs, made, strict=True)}
        for output in self._outputs:
            steps[output.stream].outputs.append(output)  # type: ignore[union-attr]
        self._steps += steps.values()
        self._outputs = []

    def hand_over(self) -> None:
        """Have what is held stored: the session has caught up with it.

        Raises what ended the writer.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        if self._outputs:
            steps[-1].outputs.extend(self._outputs)
            self._outputs = []
        for step in steps:
            self._since_snapshot += step.made
        if self._hole is not None or not self._put(steps):
            self._leave_out(steps)
        elif self._since_snapshot >= self._options.snapshot_every:
            assert self._writer is not None
            if self._writer.can_save():
                self.snapshot()
        for step in steps:
            if isinstance(step.event, Gap | SessionStart):
                self._note_reset(step.event.stream)
        if self._clock() >= self._tend_at:
            self.tend()

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
        """Hand over a snapshot of the session as it is now, between two inputs."""
        if self._put(self._saved()):
            self._since_snapshot = 0

    def _saved(self) -> Saved:
        session = self._session
        assert session is not None
        about = snapshot.fingerprint(session.config, session.columns, session.members)
        return Saved(
            snapshot.freeze(session, threading.Lock()), snapshot.VERSION, about, _elements(session)
        )

    def note(
        self, kind: str, stream: str = "", reason: str = "", *, times: int = 1, session: str = ""
    ) -> None:
        """Store an event that is no input, such as a feed gone silent."""
        self._put(Note(kind, stream, reason, times, session))

    def _note_reset(self, stream: str) -> None:
        resets = self._column(stream, RESETS)
        if resets != self._resets.get(stream, 0):
            self._resets[stream] = resets
            self._put(Note("reset", stream, "", n=self._column(stream, N)))

    # ---- what cannot be stored --------------------------------------------------------

    def _leave_out(self, steps: Steps) -> None:
        """Leave inputs out, and end the hole where there is room again."""
        if self._hole is None:
            self._hole, self._dropped = {}, 0
        self._dropped += len(steps)
        self._left_out += len(steps)
        for event, _, _ in steps:
            if isinstance(event, Ticks | Run | Gap | SessionStart):
                self._hole.setdefault(event.stream, JournalPosition(ticks=1)).follow(event)
        assert self._writer is not None
        if isinstance(self._writer.failure, GoneError):
            self._begin_anew()
        elif self._writer.has_room():
            self._end_hole()

    def _begin_anew(self) -> Writer:
        """Begin a new file in the place of the one that is gone, or else try again later.

        Returns the writer that writes from now on.
        """
        writer, session = self._writer, self._session
        assert writer is not None
        assert session is not None
        if self._clock() < self._anew_at:
            return writer
        self._anew_at = self._clock() + TEND_S
        writer.close()
        try:
            run = self._make_file(session)
        except StreamLSTMError as error:
            self._obstacle = f"; a new one cannot be made: {error}"
            return writer
        self._obstacle = ""
        positions = writer.positions()
        for stream, position in (self._hole or {}).items():
            known = positions.setdefault(stream, position)
            known.next_seq, known.session = position.next_seq, position.session or known.session
        lost = [
            len(unit) if isinstance(unit, list) else unit.inputs
            for unit in writer.unwritten()
            if isinstance(unit, list | Hole)
        ]
        self._left_out += sum(lost)
        self._dropped = sum(lost) + (0 if self._hole is None else self._dropped)
        self._writer, self._hole = self._write_on(run), positions
        self._end_hole(f"{writer.failure}: this file begins here")
        self._say(f"{writer.failure}; the store goes on in a new file with the state as it is")
        return self._writer

    def _make_file(self, session: Session) -> int:
        """Make and enter a new file; return the number of the run in it.

        Raises StreamLSTMError where that cannot be.
        """
        if os.path.lexists(self._lock.store):
            raise OutputError(f"{self._lock.store} is in its place; move that away")
        self._lock.close()
        self._lock = StoreLock(self.path)
        self._open(self.setup)
        self.resumed = None if self.resumed is None else self.resumed._replace(set_aside={})
        connection = self._connect()
        try:
            return self._enter(connection, session, 1)  # behind the hole, which is first
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise schema.failure(self.path, error) from None
        finally:
            connection.close()

    def _end_hole(self, reason: str = KEPT_BACK) -> bool:
        """Store that there was a hole, and the state behind it; return whether that is taken."""
        session = self._session
        assert session is not None
        for name, position in (self._hole or {}).items():
            if name in session.table.places:
                position.n, position.ticks = self._column(name, N), self._column(name, TICKS)
        hole = Hole(self._dropped, reason, self._hole or {}, self._saved())
        if not self._put(hole):
            return False
        self._hole, self._since_snapshot = None, 0
        return True

    def tend(self) -> None:
        """Store the refusals since the last time, and say what trouble there is."""
        self._tend_at = self._clock() + TEND_S
        refusals, self._refusals = self._refusals, {}
        for refusal, count in refusals.values():
            place = f" ({refusal.where})" if refusal.where else ""
            reason = f"{refusal.reason}{place}"[:500]
            self._put(Note(f"refused {refusal.kind}", refusal.stream, reason, count))
        assert self._writer is not None
        failure = self._writer.failure
        trouble = f"{failure}{self._obstacle}" if failure is not None else self._writer.trouble
        if trouble is not None and trouble != self._said:
            left_out = f", {self._dropped:,} inputs left out" if self._hole is not None else ""
            self._say(f"the store {self.path} cannot be written ({trouble}){left_out}; going on")
        elif trouble is None and self._said is not None:
            self._say(f"the store {self.path} is written again")
        self._said = trouble

    # ---- the end ----------------------------------------------------------------------

    @property
    def trouble(self) -> str | None:
        """Why it is not written, None while all is well; any thread may ask."""
        writer = self._writer
        if writer is None:
            return None
        failure = None if writer.failure is None else f"{writer.failure}{self._obstacle}"
        left_out = "inputs are left out" if self._hole is not None else None
        return failure or writer.trouble or left_out

    @property
    def waiting_bytes(self) -> int:
        """What waits to be written, roughly; any thread may ask."""
        return 0 if self._writer is None else self._writer.waiting_bytes

    def figures(self) -> dict[str, Any]:
        """Return what the store did, for a summary."""
        resumed, writer = self.resumed, self._writer
        return {
            "path": str(self.path),
            "resumed": resumed is not None,
            "held_elements": self.held,
            "replayed_inputs": 0 if resumed is None else resumed.inputs,
            "snapshots_set_aside": 0 if resumed is None else len(resumed.set_aside),
            "inputs_left_out": self._left_out,
            "retries": 0 if writer is None else writer.retries,
        }

    def close(self, *, whole: bool = True) -> None:
        """Take a last snapshot, write what waits, and let go of the lock; once.

        whole: False where the session may have stopped within an input, so that no snapshot can
        be taken. Raises OutputError where something could not be written.
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
        told: StreamLSTMError | None = None
        try:
            if whole:
                self.tend()
                writer.catch_up()
                if isinstance(writer.failure, GoneError) and not self._ends_when_gone():
                    self._anew_at = 0.0
                    writer = self._begin_anew()
                elif self._hole is not None:
                    self._end_hole()
                elif self._since_snapshot:
                    self.snapshot()
                self.note("stopped")
        except StreamLSTMError as error:
            told = error
        left = writer.close()
        told = told or writer.failure
        if told is None and (left or self._hole is not None):
            told = OutputError(
                f"the store {self.path} could not be written to the end ({writer.trouble}): it "
                "holds what came before, and a restart goes on from there"
            )
        if told is not None and whole:
            raise told

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(whole=error is None)


def _elements(session: Session) -> int:
    """Return the elements of all streams."""
    return int(session.table.ints[: len(session.table), N].sum())
