"""The thread that writes, and the bounded queue before it.

What is handed over is committed in groups: once it is so many elements, or after so many
milliseconds, and at most fifty times a second. A live feed is never held up: where the queue is
full, nothing more is taken, and the one who hands over must say what was left out. A replay waits
instead.

Live, an error of the file or the disk is tried again, more and more seldom, with a fresh
connection; predicting goes on. In a replay it ends the writer, and so does, always, what no disk
is to blame for, and a file that is gone.

Whether the file that is written is still the one that its path leads to, and whole.

A file that is removed, moved or replaced stays open, and SQLite writes to it without an error: all
of it would be lost. So the path is compared with the open file at each commit, and the size with
the largest so far. A `VACUUM` makes the file smaller too, but never smaller than its pages.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..errors import GoneError, OutputError, StreamLSTMError
from ..events import Gap, Label, Run, SessionStart, Ticks
from ..records import Batch
from ..serve.runtime import quick_switches
from .journal import Journal
from .lock import StoreLock
from .units import Hole, JournalPosition, Note, Saved, Step, Unit


class Presence:
    """Watches the file of a lock, from any one thread."""

    def __init__(self, lock: StoreLock) -> None:
        self._lock = lock
        self._size = 0
        self._log: tuple[int, int] | None = None

    def check(self) -> None:
        """Raise GoneError where the path does not lead to the open file any more."""
        store, held = self._lock.store, os.fstat(self._lock.descriptor)
        try:
            found = os.stat(store)
        except FileNotFoundError:
            raise GoneError(f"the file {store} was removed or moved away") from None
        except OSError as error:
            raise GoneError(f"the file {store} cannot be reached: {error.strerror}") from None
        if not os.path.samestat(found, held):
            raise GoneError(f"the file {store} was replaced by another one")

    def begin(self) -> None:
        """Take a new connection as one whose log is not known yet."""
        self._log = None

    def check_before(self, connection: sqlite3.Connection) -> None:
        """Check the file before a transaction: its place and its size."""
        self.check()
        size = os.fstat(self._lock.descriptor).st_size
        if size < self._size and size < _file_bytes(connection):
            raise GoneError(f"the file {self._lock.store} was cut to {size:,} bytes")
        self._size = size

    def check_after(self) -> bool:
        """Check the file after a transaction; return whether its log is still the one written to.

        Raises GoneError. SQLite brings a log that is removed into the file when the connection is
        closed.
        """
        self.check()
        try:
            about = os.stat(f"{self._lock.store}-wal")
        except OSError:
            return False
        now = about.st_dev, about.st_ino
        known, self._log = self._log or now, now
        return known == now

    def leave(self, connection: sqlite3.Connection) -> None:
        """Bring the log into a file that is not in its place, and leave none of it behind.

        At the close SQLite does neither, and would take the log as that of the next file there.
        """
        store = self._lock.store
        log = Path(f"{store}-wal")
        try:
            self.check()
            return
        except GoneError:
            pass
        with contextlib.suppress(OSError, sqlite3.Error):
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            about = os.stat(log)
            if self._log == (about.st_dev, about.st_ino):
                os.replace(log, f"{log}.old") if busy else os.unlink(log)


def _file_bytes(connection: sqlite3.Connection) -> int:
    """Return the size of all pages, whether they are in the file or in its log."""
    page, pages = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_size", "page_count")
    )
    return page * pages


QUEUE_BYTES = 64 * 2**20
"""What may wait; half a million single ticks, or minutes of a fast feed."""

BATCH_BYTES = 4 * 2**20
"""What one transaction takes: it bounds how long a reader's checkpoint can be in the way."""

PAUSE_S = 0.02
"""Between two groups at least: what a commit takes beside its rows would disturb a fast feed."""

SETTLE_S = 0.003
"""From waking to writing: what wakes it is often a prediction, which is on its way to its readers
at that moment. Where cores are few, they go first."""

UNIT_BYTES = 200
"""What a unit or an output takes beside its arrays, roughly; and a tick of a run."""

RETRY_S, RETRY_MAX_S = 0.05, 5.0
"""Between attempts, the first and the longest."""

WATCH_S = 1.0
"""Between two checks of the file while there is nothing to write."""

CLOSE_S = 2.0
"""For what waits at the end, where the disk will not."""

Connect = Callable[[], sqlite3.Connection]


class Writer:
    """Writes units in their order, until `close`.

    connect: opens the store's file. run: the number of this run. max_bytes: of the file, 0 for
    any. presence: watches the file; None for one that nobody else can touch.

    Attributes, to be read from any thread: `written`, units that are stored; `retries` and
    `trouble`, failed attempts and the last error's text, None while all is well; `failure`, the
    error that ended it, None while it works.
    """

    def __init__(
        self,
        connect: Connect,
        run: int,
        *,
        commit_elements: int,
        commit_s: float,
        blocking: bool,
        max_bytes: int = 0,
        presence: Presence | None = None,
    ) -> None:
        self.written = self.retries = 0
        self.trouble: str | None = None
        self.failure: StreamLSTMError | None = None
        self._connect, self._run = connect, run
        self._commit_elements, self._commit_s = commit_elements, commit_s
        self._blocking, self._max_bytes = blocking, max_bytes
        self._presence = presence
        self._watch_at = time.monotonic() + WATCH_S
        self._queue: deque[tuple[Unit, int]] = deque()
        # Each is written by one thread alone, so their difference needs no lock.
        self._bytes_in = self._bytes_out = 0
        self._snapshots_in = self._snapshots_out = 0
        self._elements = 0
        self._wake, self._room = threading.Event(), threading.Event()
        self._closing = threading.Event()
        self._close_by = float("inf")
        self._never = threading.Event()
        self._journal: Journal | None = None
        self._connected = False
        self._begun = 0
        self._batch: list[Unit] = []
        self._batch_bytes = 0
        self._switches = contextlib.ExitStack()
        if not blocking:
            self._switches.enter_context(quick_switches())
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._thread.start()

    def has_room(self) -> bool:
        """Return whether half of the queue is free."""
        return self._bytes_in - self._bytes_out < QUEUE_BYTES // 2

    @property
    def is_saving(self) -> bool:
        """Whether a snapshot that was handed over is not stored yet."""
        return self._snapshots_in != self._snapshots_out

    def can_save(self) -> bool:
        """Return whether the snapshot before is stored; a replay waits for that.

        Each takes as much memory as the session's state, so there is one at a time.
        """
        while self._blocking and self.is_saving and self.failure is None:
            self._room.clear()
            self._wake.set()
            self._room.wait(self._commit_s)
        return not self.is_saving

    @property
    def waiting_bytes(self) -> int:
        """What waits to be written, roughly."""
        return self._bytes_in - self._bytes_out

    def put(self, unit: Unit) -> bool:
        """Hand over a unit; False where there is no room for it and a live feed cannot wait.

        Raises what ended the writer.
        """
        if self.failure is not None:
            raise self.failure
        size = _bytes(unit)
        if self._bytes_in - self._bytes_out + size > QUEUE_BYTES and self._queue:
            if not self._blocking:
                return False
            self._wait_for_room(size)
        self._bytes_in += size
        self._snapshots_in += isinstance(unit, Saved | Hole)
        self._queue.append((unit, size))
        if isinstance(unit, list):
            self._elements += sum([step.made for step in unit])
            if self._elements < self._commit_elements:
                return True
        self._elements = 0
        self._wake.set()
        return True

    def _wait_for_room(self, size: int) -> None:
        while self._bytes_in - self._bytes_out + size > QUEUE_BYTES and self._queue:
            self._room.clear()
            self._room.wait(self._commit_s)
            if self.failure is not None:
                raise self.failure

    def catch_up(self) -> None:
        """Wait until all is written, for as long as an orderly end can wait."""
        self._close_by = time.monotonic() + CLOSE_S
        while time.monotonic() < self._close_by:
            if self._bytes_in == self._bytes_out and not self.is_saving:
                break
            self._room.clear()
            self._wake.set()
            self._room.wait(min(self._commit_s, PAUSE_S))
            if self.failure is not None:
                return
        self._close_by = float("inf")

    def close(self) -> int:
        """Write what waits and end; return how many units could not be written."""
        self._close_by = time.monotonic() + CLOSE_S
        self._closing.set()
        self._wake.set()
        self._thread.join()
        self._switches.close()
        return len(self._batch) + len(self._queue)

    def unwritten(self) -> list[Unit]:
        """Return what was handed over and is not stored, once the writer has ended."""
        return [*self._batch, *(unit for unit, _ in self._queue)]

    def positions(self) -> dict[str, JournalPosition]:
        """Return where the streams stand after all that was handed over, once it has ended."""
        known = {} if self._journal is None else dict(self._journal.positions)
        for unit in self.unwritten():
            if isinstance(unit, Hole):
                known.update(unit.positions)
            for step in unit if isinstance(unit, list) else ():
                event = step.event
                if isinstance(event, Ticks | Run | Gap | SessionStart | Label):
                    found = msgspec.structs.replace(known.get(event.stream, JournalPosition()))
                    known[event.stream] = found
                    if isinstance(event, Label):
                        found.labels += 1
                    else:
                        found.follow(event)
        return known

    # ---- in the thread ----------------------------------------------------------------

    def _work(self) -> None:
        begun = 0.0
        try:
            while True:
                if not self._slices_left:
                    self._wake.wait(self._commit_s)
                self._closing.wait(max(begun + PAUSE_S - time.monotonic(), SETTLE_S))
                begun = time.monotonic()
                self._wake.clear()
                last = self._closing.is_set()
                hurries = last or self._blocking
                while (self._fill() or self._slices_left) and self._write():
                    if not (self._queue or hurries):
                        break
                self._watch()
                if last or self.failure is not None:
                    break
        except GoneError as error:
            self.failure = error
        except Exception as error:
            self.failure = StreamLSTMError(f"the store cannot hold what came: {error!r}")
        finally:
            self._room.set()
            if self._presence is not None and self._journal is not None and self._connected:
                self._presence.leave(self._journal.connection)
            self._disconnect()

    @property
    def _slices_left(self) -> int:
        return 0 if self._journal is None else self._journal.saving

    def _fill(self) -> bool:
        """Take what is written next, if there is anything."""
        while self._queue and self._batch_bytes < BATCH_BYTES:
            unit, size = self._queue.popleft()
            self._batch.append(unit)
            self._batch_bytes += size
        return bool(self._batch)

    def _write(self) -> bool:
        """Write the batch, however long it takes; return whether it is written."""
        delay_s, attempts, first = RETRY_S, 0, ""
        while True:
            told = [Note("store trouble", "", first, attempts)] if attempts else []
            try:
                self._attempt([*self._batch, *told])
                break
            except (sqlite3.IntegrityError, GoneError):
                raise
            except (sqlite3.OperationalError, sqlite3.DatabaseError, StreamLSTMError) as error:
                self.trouble = str(error)
            first = first or self.trouble
            self.retries += 1
            attempts += 1
            self._disconnect()
            if self._blocking:
                self.failure = OutputError(f"cannot write the store: {self.trouble}")
                return False
            if time.monotonic() + delay_s > self._close_by:
                return False
            (self._never if self._closing.is_set() else self._closing).wait(delay_s)
            delay_s = min(2 * delay_s, RETRY_MAX_S)
        self.trouble = None
        self.written += len(self._batch)
        self._bytes_out += self._batch_bytes
        self._begun += sum([isinstance(unit, Saved | Hole) for unit in self._batch])
        self._snapshots_out = self._begun - self._slices_left
        self._batch, self._batch_bytes = [], 0
        self._room.set()
        return True

    def _attempt(self, units: list[Unit]) -> None:
        presence = self._presence
        if presence is not None and not self._connected:
            presence.check()  # or SQLite would make a new file
            presence.begin()
        if self._journal is None:
            self._journal = Journal(self._connect(), self._run, max_bytes=self._max_bytes)
        elif not self._connected and self._reopen(self._journal):
            self._connected = True
            return  # the attempt before this one was none in vain
        self._connected = True
        if presence is not None:
            presence.check_before(self._journal.connection)
        self._journal.write(units)
        if presence is not None and not presence.check_after():
            self.retries += 1
            self._disconnect()
            presence.begin()
            self._reopen(self._journal)
            self._connected = True

    def _reopen(self, journal: Journal) -> bool:
        connection = self._connect()
        try:
            return journal.reopen(connection)
        except BaseException:
            connection.close()
            raise

    def _watch(self) -> None:
        """Look at the file now and then; raises GoneError."""
        if self._presence is not None and time.monotonic() >= self._watch_at:
            self._watch_at = time.monotonic() + WATCH_S
            self._presence.check()

    def _disconnect(self) -> None:
        if self._journal is not None and self._connected:
            self._connected = False
            with contextlib.suppress(sqlite3.Error):
                self._journal.connection.close()


def _bytes(unit: Unit) -> int:
    """Return what a unit takes, roughly."""
    if isinstance(unit, list):
        return sum(map(_step_bytes, unit))
    # A snapshot refers to arrays that the session has anyway, or had until now.
    return UNIT_BYTES


def _step_bytes(step: Step) -> int:
    event, records = step.event, 1
    for output in step.outputs:
        records += len(output) if isinstance(output, Batch) else 1
    if isinstance(event, Run):
        return UNIT_BYTES * (records + len(event.times))
    arrays = event.t_ns.nbytes + event.values.nbytes if isinstance(event, Ticks) else 0
    return UNIT_BYTES * records + arrays
