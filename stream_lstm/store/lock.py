"""The lock on a store's file, and the check that the file is still in its place.

The lock keeps other processes from writing. It belongs to the file, not to its name: SQLite names
its write-ahead log after the path that it opens, so two names of one file would mean two logs, and
the file would be lost. The path is resolved, a file with a second hard link is refused, and two
kernel locks are taken: one on FILE.lock beside the resolved file, which also names the process,
and one on a byte of the file itself, for a file that is mounted in a second place. Both end with
the process, however it ends: a stale lock is impossible. Windows has only the first lock, on a
byte of FILE.lock.

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
import struct
import sys
import time
from pathlib import Path

import msgspec

from ..errors import ConfigurationError, GoneError, LockedError, OutputError

LOCK_BYTE = 2**62
"""The byte of the store that is locked: far behind any data, and those that SQLite locks."""

WINDOWS_BYTE = 2**30
"""The byte of FILE.lock that Windows locks: behind the text, which other processes must read."""


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
                    _lock_file(file)
                except BlockingIOError:
                    raise _in_use(store, _holder(file)) from None
                self._descriptor = opened(self.store)
                _check_file(store, os.fstat(self._descriptor))
                try:
                    _lock_byte(self._descriptor)
                except BlockingIOError:
                    raise _in_use(store, "another process, under another path") from None
                holder = Holder(os.getpid(), socket.gethostname(), time.time_ns())
                os.ftruncate(file, 0)
                os.lseek(file, 0, os.SEEK_SET)
                os.write(file, msgspec.json.encode(holder))
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


def _lock_file(descriptor: int) -> None:
    """Lock an open file for this descriptor; raises BlockingIOError."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, WINDOWS_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from None
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_byte(descriptor: int) -> None:
    """Lock a byte of an open file for this descriptor; raises BlockingIOError."""
    if sys.platform == "linux":  # other systems have no lock of a descriptor
        import fcntl

        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, LOCK_BYTE, 1, 0)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)


def _in_use(store: Path, holder: str) -> LockedError:
    return LockedError(f"{store} is in use by {holder}: stop that process, or name another store")


def _holder(file: int) -> str:
    try:
        os.lseek(file, 0, os.SEEK_SET)
        holder = msgspec.json.decode(os.read(file, 4096), type=Holder)
    except (OSError, msgspec.DecodeError):
        return "another process"
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(holder.started_ns / 1e9))
    return f"process {holder.pid} on {holder.host} since {since}"
