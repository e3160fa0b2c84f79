"""The thread that writes, and its bounded queue.

Units are committed in groups: after a number of elements or milliseconds, and at most fifty times
a second. A live feed never waits: where the queue is full, the unit is rejected, and the caller
reports what was left out. A replay waits instead.

Live, the thread retries after an error of the file or the disk, with a growing delay and a new
connection; predictions continue. In a replay such an error ends the writer. So does, always, a
file that is gone, and an error that is not the disk's.

The lock on a store's file, and the check that the file is still in its place.

The lock keeps other processes from writing. It belongs to the file, not to its name: SQLite names
its write-ahead log after the path that it opens, so two names of one file would mean two logs, and
the file would be lost. The path is resolved, a file with a second hard link is refused, and two
kernel locks are taken: one on FILE.lock beside the resolved file, which also names the process,
and one on a byte of the file itself, for a file that is mounted in a second place. Both end with
the process, however it ends: a stale lock is impossible. Windows has only the first lock, on the
first byte of FILE.lock, which is a line feed: others can read what follows.

Closing any descriptor of a file drops the POSIX locks that SQLite has on it in this process. So
the descriptor stays open until `close`, which comes after the last connection of the store.

A file that is removed, moved or replaced stays open, and SQLite writes to it without an error: all
of it would be lost. So each commit compares the path with the open file, and the size with the
largest so far. A `VACUUM` makes the file smaller too, but never smaller than its pages.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..errors import ConfigurationError, GoneError, LockedError, OutputError, StreamLSTMError
from ..events import Run, Ticks
from ..platform import TEXT_OFFSET, lock_byte, lock_file
from ..records import Batch
from ..serve.runtime import quick_switches
from .journal import Journal
from .units import Hole, JournalPosition, Note, Saved, Step, StreamInput, Unit

LOCK_BYTE = 2**62
"""The byte of the store that is locked: far behind any data, and those that SQLite locks."""


class Holder(msgspec.Struct):
    """The process that has the lock, and since when (nanoseconds since 1970)."""

    pid: int
    host: str
    started_ns: int


class StoreLock:
    """A locked store file; it is created if necessary, and locked until `close`.

    Attributes: `store`, the resolved path; `path`, that of FILE.lock.

    Raises LockedError naming the other process, ConfigurationError for a file with a second hard
    link, and OutputError where the file cannot be created.
    """

    def __init__(self, store: Path) -> None:
        self._size = 0
        self._log: tuple[int, int] | None = None
        with contextlib.ExitStack() as descriptors:

            def opened(path: Path) -> int:
                # O_NONBLOCK: a pipe must not block; Windows has no pipes in folders
                flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
                descriptor = os.open(path, flags, 0o644)
                descriptors.callback(os.close, descriptor)
                return descriptor

            try:
                self.store = Path(os.path.realpath(store))
                self.path = self.store.with_name(self.store.name + ".lock")
                file = opened(self.path)
                try:
                    lock_file(file)
                except BlockingIOError:
                    raise _in_use(store, _holder(file)) from None
                self._descriptor = opened(self.store)
                _check_file(store, os.fstat(self._descriptor))
                try:
                    lock_byte(self._descriptor, LOCK_BYTE)
                except BlockingIOError:
                    raise _in_use(store, "another process, under another path") from None
                holder = Holder(os.getpid(), socket.gethostname(), time.time_ns())
                os.ftruncate(file, 0)
                os.lseek(file, 0, os.SEEK_SET)
                os.write(file, b"\n" + msgspec.json.encode(holder))
            except OSError as error:
                raise OutputError(f"cannot lock {store}: {error.strerror or error}") from None
            self._descriptors = descriptors.pop_all()

    def close(self) -> None:
        """Release the lock, after the last connection is closed; may be called twice.

        FILE.lock stays: removing it would race with the next process.
        """
        self._descriptors.close()

    # ---- the file, for the thread that writes -------------------------------------------

    def check(self) -> None:
        """Raise GoneError where the path does not lead to the open file."""
        try:
            found = os.stat(self.store)
        except FileNotFoundError:
            raise GoneError(f"the file {self.store} was removed or moved away") from None
        except OSError as error:
            raise GoneError(f"the file {self.store} cannot be reached: {error.strerror}") from None
        if not os.path.samestat(found, os.fstat(self._descriptor)):
            raise GoneError(f"the file {self.store} was replaced by another one")

    def forget_log(self) -> None:
        """Accept the log of a new connection."""
        self._log = None

    def check_before(self, connection: sqlite3.Connection) -> None:
        """Check place and size of the file before a transaction."""
        self.check()
        size = os.fstat(self._descriptor).st_size
        if size < self._size and size < _file_bytes(connection):
            raise GoneError(f"the file {self.store} was cut to {size:,} bytes")
        self._size = size

    def check_after(self) -> bool:
        """Check the file after a transaction; return whether its log is still the same file.

        SQLite writes a removed log back into the store when the connection is closed.
        """
        self.check()
        try:
            about = os.stat(f"{self.store}-wal")
        except OSError:
            return False
        log = about.st_dev, about.st_ino
        known, self._log = self._log or log, log
        return known == log

    def rescue_log(self, connection: sqlite3.Connection) -> None:
        """Write the log into a file that is not in its place, and remove the log.

        When it closes a connection, SQLite does neither, and the next file in that place would get
        the log.
        """
        with contextlib.suppress(GoneError):
            self.check()
            return
        log = Path(f"{self.store}-wal")
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


def _check_file(store: Path, about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise OutputError(f"cannot use {store} as a store: it is not a regular file")
    if about.st_nlink > 1:
        raise ConfigurationError(
            f"{store} has {about.st_nlink} names (hard links), and SQLite would write a log for "
            f"each of them: remove the others (find DIR -samefile {store} lists them), or copy "
            "the file",
            key="store",
        )


def _in_use(store: Path, holder: str) -> LockedError:
    return LockedError(f"{store} is in use by {holder}: stop that process, or name another store")


def _holder(file: int) -> str:
    try:
        os.lseek(file, TEXT_OFFSET, os.SEEK_SET)
        holder = msgspec.json.decode(os.read(file, 4096), type=Holder)
    except (OSError, msgspec.DecodeError):
        return "another process"
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(holder.started_ns / 1e9))
    return f"process {holder.pid} on {holder.host} since {since}"


QUEUE_BYTES = 64 * 2**20
"""Capacity of the queue: half a million single ticks, or minutes of a fast feed."""

BATCH_BYTES = 4 * 2**20
"""Size of one transaction; it limits how long a reader's checkpoint can be in the way."""

PAUSE_S = 0.02
"""Time between two groups at least: more commits would disturb a fast feed."""

SETTLE_S = 0.003
"""Delay from waking to writing. A prediction that is being published often wakes the thread; where
cores are few, its readers come first."""

UNIT_BYTES = 200
"""Approximate size of a unit or an output without its arrays, and of a tick of a run."""

RETRY_S, RETRY_MAX_S = 0.05, 5.0
"""Time between attempts, the first and the longest."""

FILE_CHECK_S = 1.0
"""Time between two checks of the file while there is nothing to write."""

CLOSE_S = 2.0
"""Time to write the rest of the queue at the end, where the disk fails."""


class Writer:
    """Writes units in their order, until `close`.

    connect: opens the store's file. run: the number of this run. max_bytes: of the file, 0 for no
    limit. lock: that of the file; None where nobody else can touch it.

    Attributes, for any thread: `written`, the number of stored units; `retries` and `trouble`,
    failed attempts and the last error's text, None while writing succeeds; `failure`, the error
    that ended the writer, None while it works.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        run: int,
        *,
        commit_elements: int,
        commit_s: float,
        blocking: bool,
        max_bytes: int = 0,
        lock: StoreLock | None = None,
    ) -> None:
        self.written = self.retries = 0
        self.trouble: str | None = None
        self.failure: StreamLSTMError | None = None
        self._connect, self._run, self._lock = connect, run, lock
        self._commit_elements, self._commit_s = commit_elements, commit_s
        self._blocking, self._max_bytes = blocking, max_bytes
        self._check_at = time.monotonic() + FILE_CHECK_S
        self._queue: deque[tuple[Unit, int]] = deque()
        # One thread writes each of a pair, so their difference needs no lock.
        self._bytes_in = self._bytes_out = 0
        self._snapshots_in = self._snapshots_out = 0
        self._elements = 0
        self._wake, self._room = threading.Event(), threading.Event()
        self._closing, self._never = threading.Event(), threading.Event()
        self._close_by = float("inf")
        self._journal: Journal | None = None
        self._connected = False
        self._snapshots_begun = 0
        self._batch: list[Unit] = []
        self._batch_bytes = 0
        self._switches = contextlib.ExitStack()
        if not blocking:
            self._switches.enter_context(quick_switches())
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._thread.start()

    @property
    def waiting_bytes(self) -> int:
        """The approximate size of what is not written yet."""
        return self._bytes_in - self._bytes_out

    def has_room(self) -> bool:
        """Return whether half of the queue is free."""
        return self.waiting_bytes < QUEUE_BYTES // 2

    def can_save(self) -> bool:
        """Return whether the previous snapshot is stored; a replay waits for that.

        Each takes as much memory as the session's state, so there is only one at a time.
        """
        while self._blocking and self._is_saving and self.failure is None:
            self._wait()
        return not self._is_saving

    @property
    def _is_saving(self) -> bool:
        return self._snapshots_in != self._snapshots_out

    def _wait(self, longest_s: float = float("inf")) -> None:
        """Wait for the next commit."""
        self._room.clear()
        self._wake.set()
        self._room.wait(min(self._commit_s, longest_s))

    def put(self, unit: Unit) -> bool:
        """Add a unit to the queue; return False where it is full and a live feed cannot wait.

        Raises the error that ended the writer.
        """
        size = _bytes(unit)
        while self.failure is None and self._queue and self.waiting_bytes + size > QUEUE_BYTES:
            if not self._blocking:
                return False
            self._wait()
        if self.failure is not None:
            raise self.failure
        self._bytes_in += size
        self._snapshots_in += isinstance(unit, Saved | Hole)
        self._queue.append((unit, size))
        if isinstance(unit, list):
            self._elements += sum([step.elements for step in unit])
            if self._elements < self._commit_elements:
                return True
        self._elements = 0
        self._wake.set()
        return True

    def catch_up(self) -> None:
        """Wait until everything is written, for as long as an orderly end can wait."""
        self._close_by = time.monotonic() + CLOSE_S
        while (
            time.monotonic() < self._close_by
            and self.failure is None
            and (self.waiting_bytes or self._is_saving)
        ):
            self._wait(PAUSE_S)
        self._close_by = float("inf")

    def close(self) -> int:
        """Write the rest and end the thread; return how many units could not be written."""
        self._close_by = time.monotonic() + CLOSE_S
        self._closing.set()
        self._wake.set()
        self._thread.join()
        self._switches.close()
        return len(self.unwritten())

    def unwritten(self) -> list[Unit]:
        """Return the units that are not stored, once the writer has ended."""
        return [*self._batch, *(unit for unit, _ in self._queue)]

    def positions(self) -> dict[str, JournalPosition]:
        """Return the streams' positions after all units, once the writer has ended."""
        known = {} if self._journal is None else dict(self._journal.positions)
        for unit in self.unwritten():
            if isinstance(unit, Hole):
                known.update(unit.positions)
            for step in unit if isinstance(unit, list) else ():
                event = step.event
                if isinstance(event, StreamInput):
                    found = msgspec.structs.replace(known.get(event.stream, JournalPosition()))
                    found.follow(event)
                    known[event.stream] = found
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
                while (self._fill() or self._slices_left) and self._write():
                    if not (self._queue or last or self._blocking):
                        break
                if self._lock is not None and time.monotonic() >= self._check_at:
                    self._check_at = time.monotonic() + FILE_CHECK_S
                    self._lock.check()
                if last or self.failure is not None:
                    break
        except GoneError as error:
            self.failure = error
        except Exception as error:
            self.failure = StreamLSTMError(f"the store cannot write these records: {error!r}")
        finally:
            self._room.set()
            if self._lock is not None and self._journal is not None and self._connected:
                self._lock.rescue_log(self._journal.connection)
            self._disconnect()

    @property
    def _slices_left(self) -> int:
        return 0 if self._journal is None else self._journal.saving

    def _fill(self) -> bool:
        """Move units from the queue to the next batch; return whether there are any."""
        while self._queue and self._batch_bytes < BATCH_BYTES:
            unit, size = self._queue.popleft()
            self._batch.append(unit)
            self._batch_bytes += size
        return bool(self._batch)

    def _write(self) -> bool:
        """Write the batch, with as many attempts as necessary; return whether it is written."""
        delay_s, attempts, first = RETRY_S, 0, ""
        while True:
            notes = [Note("store trouble", "", first, attempts)] if attempts else []
            try:
                self._attempt([*self._batch, *notes])
                break
            except (sqlite3.IntegrityError, GoneError):
                raise
            except (sqlite3.DatabaseError, StreamLSTMError) as error:
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
        self._snapshots_begun += sum([isinstance(unit, Saved | Hole) for unit in self._batch])
        self._snapshots_out = self._snapshots_begun - self._slices_left
        self._batch, self._batch_bytes = [], 0
        self._room.set()
        return True

    def _attempt(self, units: list[Unit]) -> None:
        if self._lock is not None and not self._connected:
            self._lock.check()  # or SQLite would create a new file
            self._lock.forget_log()
        if self._journal is None:
            self._journal = Journal(self._connect(), self._run, max_bytes=self._max_bytes)
        elif not self._connected and self._reopen(self._journal):
            return  # the previous attempt succeeded after all
        self._connected = True
        if self._lock is not None:
            self._lock.check_before(self._journal.connection)
        self._journal.write(units)
        if self._lock is not None and not self._lock.check_after():
            self.retries += 1
            self._disconnect()
            self._lock.forget_log()
            self._reopen(self._journal)

    def _reopen(self, journal: Journal) -> bool:
        """Open the file again; return whether it has the last batch."""
        connection = self._connect()
        try:
            has_batch = journal.reopen(connection)
        except BaseException:
            connection.close()
            raise
        self._connected = True
        return has_batch

    def _disconnect(self) -> None:
        if self._journal is not None and self._connected:
            self._connected = False
            with contextlib.suppress(sqlite3.Error):
                self._journal.connection.close()


def _bytes(unit: Unit) -> int:
    """Return the approximate size of a unit."""
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
