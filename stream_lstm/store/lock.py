"""The lock that keeps a second process from writing to the same store.

The lock belongs to the file and not to its name: SQLite names its write-ahead log after the path
that it opens, so two names of one file would be two logs, and the file would be lost. The path is
resolved, a file with a second hard link is refused, and two locks of the kernel are taken: one on
FILE.lock beside the resolved file, which also says who has it, and one on a byte of the file
itself, for a file that is mounted in a second place. Both end with the process however that ends:
there is no such thing as a stale one.

Windows has one lock alone, that of a byte of FILE.lock.

To close any descriptor of a file drops the POSIX locks that SQLite has on it in this process. So
the descriptor stays open until `close`, which comes after the last connection of the store.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
import time
from pathlib import Path

import msgspec

from ..errors import ConfigurationError, LockedError, OutputError

LOCK_BYTE = 2**62
"""The byte of the store that is locked: far behind those that SQLite locks, and any data."""

WINDOWS_BYTE = 2**30
"""The byte of FILE.lock that Windows locks: nobody else can read it, so it is behind the text."""


class Holder(msgspec.Struct):
    """Who has the lock, and since when (nanoseconds since 1970)."""

    pid: int
    host: str
    started_ns: int


class StoreLock:
    """Holds a store's file, which is made if need be, from construction to `close`.

    Attributes: `store`, the resolved path; `path`, that of FILE.lock; `descriptor` of the store.

    Raises LockedError naming the holder, ConfigurationError for a file with a second hard link,
    and OutputError where the file cannot be made.
    """

    def __init__(self, store: Path) -> None:
        self._closed = False
        try:
            self.store = Path(os.path.realpath(store))
            self.path = self.store.with_name(self.store.name + ".lock")
            self._fd = _open(self.path)
        except OSError as error:
            raise _failure(store, error) from None
        try:
            _lock_file(self._fd)
            self.descriptor = _open(self.store)
        except BlockingIOError:
            holder = _holder(self._fd)
            os.close(self._fd)
            raise _in_use(store, holder) from None
        except OSError as error:
            os.close(self._fd)
            raise _failure(store, error) from None
        try:
            _check_file(store, os.fstat(self.descriptor))
            _lock_byte(self.descriptor)
            self._sign()
        except BlockingIOError:
            self.close()
            raise _in_use(store, "another process, by another path") from None
        except OSError as error:
            self.close()
            raise _failure(store, error) from None
        except BaseException:
            self.close()
            raise

    def _sign(self) -> None:
        holder = Holder(os.getpid(), socket.gethostname(), time.time_ns())
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        os.write(self._fd, msgspec.json.encode(holder))

    def close(self) -> None:
        """Release the lock, after the last connection; closing twice is no mistake.

        FILE.lock stays, since to remove it would race with the next process.
        """
        for descriptor in (self.descriptor, self._fd) if not self._closed else ():
            os.close(descriptor)
        self._closed = True


def _open(path: Path) -> int:
    # not to wait at a pipe, which Windows has none of
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o644)


def _check_file(store: Path, about: os.stat_result) -> None:
    """Raise for what cannot be one store under one name."""
    if not stat.S_ISREG(about.st_mode):
        raise OutputError(f"cannot use {store} as a store: it is not a regular file")
    if about.st_nlink > 1:
        raise ConfigurationError(
            f"{store} has {about.st_nlink} names (hard links), and SQLite would keep a log for "
            f"each of them: remove the others (find DIR -samefile {store} lists them), or copy "
            "the file",
            key="store",
        )


def _lock_file(descriptor: int) -> None:
    """Lock an open file for this descriptor alone; raises BlockingIOError."""
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
    """Lock a byte of an open file for this descriptor alone; raises BlockingIOError."""
    if sys.platform == "linux":  # others have no lock of a descriptor
        import fcntl

        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, LOCK_BYTE, 1, 0)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)


def _in_use(store: Path, holder: str) -> LockedError:
    return LockedError(
        f"{store} is in use by {holder}: stop that process first, or name another store"
    )


def _failure(store: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot lock {store}: {error.strerror or error}")


def _holder(fd: int) -> str:
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        holder = msgspec.json.decode(os.read(fd, 4096), type=Holder)
    except (OSError, msgspec.DecodeError):
        return "another process"
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(holder.started_ns / 1e9))
    return f"process {holder.pid} on {holder.host} since {since}"
