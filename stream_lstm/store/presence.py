"""Whether the file that is written is still the one that its path leads to, and whole.

A file that is removed, moved or replaced stays open, and SQLite writes to it without an error: all
of it would be lost. So the path is compared with the open file at each commit, and the size with
the largest so far. A `VACUUM` makes the file smaller too, but never smaller than its pages.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from ..errors import GoneError
from .lock import StoreLock


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
        if size < self._size and size < _bytes(connection):
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


def _bytes(connection: sqlite3.Connection) -> int:
    """Return the size of all pages, whether they are in the file or in its log."""
    page, pages = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_size", "page_count")
    )
    return page * pages
