"""The lock that keeps a second process from writing to the same store.

It is a lock of the kernel's on a file beside the store, which ends with the process however that
ends: there is no such thing as a stale one. What is written in the file only says who has it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path

import msgspec

from ..errors import LockedError, OutputError


class Holder(msgspec.Struct):
    """Who has the lock, and since when (nanoseconds since 1970)."""

    pid: int
    host: str
    started_ns: int


class StoreLock:
    """Holds FILE.lock from construction to `close`.

    Raises LockedError naming the holder, and OutputError where the file cannot be made.
    """

    def __init__(self, store: Path) -> None:
        self.path = store.with_name(store.name + ".lock")
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"cannot lock {store}: {error.strerror or error}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(self._fd)
            os.close(self._fd)
            raise LockedError(
                f"{store} is in use by {holder}: stop that process first, or name another store"
            ) from None
        except OSError as error:
            os.close(self._fd)
            raise OutputError(f"cannot lock {store}: {error.strerror or error}") from None
        self._sign(store)

    def _sign(self, store: Path) -> None:
        holder = Holder(os.getpid(), socket.gethostname(), time.time_ns())
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, msgspec.json.encode(holder), 0)
        except OSError as error:
            os.close(self._fd)
            raise OutputError(f"cannot lock {store}: {error.strerror or error}") from None

    def close(self) -> None:
        """Let go of the lock; the file stays, since to remove it would race with the next one."""
        os.close(self._fd)


def _holder(fd: int) -> str:
    try:
        holder = msgspec.json.decode(os.pread(fd, 4096, 0), type=Holder)
    except (OSError, msgspec.DecodeError):
        return "another process"
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(holder.started_ns / 1e9))
    return f"process {holder.pid} on {holder.host} since {since}"
