"""The switch that ends the daemon, from a signal handler or from another thread.

A flag alone does not wake a poll, so the switch is also a descriptor that becomes readable: the
daemon polls it beside its sockets.
"""

from __future__ import annotations

import contextlib
import socket

from ..closing import Closing


class StopSwitch(Closing):
    """Off until `set`; `fileno` can be read from then on.

    `wake_fd` is the end to write to: one byte there wakes the poll and sets nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    @property
    def wake_fd(self) -> int:
        """The descriptor for `signal.set_wakeup_fd`."""
        return self._write.fileno()

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._read.fileno()

    def set(self) -> None:
        """Ask for the end, once and for all; any thread may call it."""
        if not self.requested:
            self.requested = True
            self._write.send(b"\0")

    def quieten(self) -> None:
        """Take back the wake-ups so far, unless the end was asked for."""
        with contextlib.suppress(BlockingIOError):
            while not self.requested:
                self._read.recv(64)

    def close(self) -> None:
        """Close both ends."""
        self._read.close()
        self._write.close()
