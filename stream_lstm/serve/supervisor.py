"""What systemd is told: ready, alive, loading anew, stopping.

A datagram to the socket that `NOTIFY_SOCKET` names, as sd_notify(3) has it; where there is none,
nothing is sent. The watchdog is fed from the daemon's loop and from nowhere else: a loop that
hangs is one that is killed and started again.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

from ..closing import Closing

MIN_PERIOD_S = 0.1
"""Between two signs of life, however short systemd's patience."""


class Supervisor(Closing):
    """The service manager's end of the line, where there is one.

    environment: that of the process. `watchdog_s` is how often to call `alive`, None where nobody
    waits for it.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog_s = _watchdog_s(environment) if self._address else None
        self._socket: socket.socket | None = None
        if self._address[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def ready(self, status: str) -> None:
        """Say that work has begun, and in a line what it is."""
        self._tell(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._tell("WATCHDOG=1")

    def reloading(self) -> None:
        """Say that the configuration is being read anew; `ready` says that it is over."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._tell("STOPPING=1")

    def _tell(self, text: str) -> None:
        if self._socket is None:
            return
        # A name that begins with @ lies in the abstract namespace, with a zero in its place.
        name = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        # A manager that does not listen must not hold up a tick; the next sign of life comes soon.
        with contextlib.suppress(OSError):
            self._socket.sendto(text.encode(), name)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return a third of systemd's patience, None where it does not wait for this process."""
    patience, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not patience.isdecimal() or int(patience) == 0 or process not in ("", str(os.getpid())):
        return None
    return max(int(patience) / 3e6, MIN_PERIOD_S)
