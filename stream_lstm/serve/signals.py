"""Signals, the stop switch, and systemd's notification socket.

The first SIGTERM or SIGINT requests an orderly end, the second ends the process immediately.
Python runs a handler between two bytecode instructions and resumes an interrupted poll. The C
handler writes to the wake-up descriptor, so the poll returns and the loop sees the switch.

The second signal ends the process with `os._exit`: nothing is waited for or cleaned up, except a
cursor that a live table may have hidden. Before the loop handles signals, the first one does the
same. A compiler does not return to Python for seconds, so a thread reads the wake-up descriptor
and ends the process. This is safe: locks and sockets end with the process, and a kill at any
instant leaves stores and files intact.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType

from ..closing import Closing
from ..platform import HANGUP, STOP_SIGNALS, WINDOWS

SHOW_CURSOR = b"\x1b[?25h\n"

DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
"""Handlers that a process starts with. Any other handler was chosen, and is left alone."""

MIN_PERIOD_S = 0.1
"""Shortest period between two watchdog messages."""


class StopSwitch(Closing):
    """A flag that also wakes a poll: `fileno` becomes readable when the switch is set."""

    def __init__(self) -> None:
        self.requested = False
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    @property
    def wake_fd(self) -> int:
        """The descriptor for `signal.set_wakeup_fd`; a byte there wakes the poll, sets nothing."""
        return self._write.fileno()

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._read.fileno()

    def set(self) -> None:
        """Request the end; any thread may call it, repeatedly."""
        if not self.requested:
            self.requested = True
            self._write.send(b"\0")

    def quieten(self) -> None:
        """Discard the wake-ups so far, unless the end was requested."""
        with contextlib.suppress(BlockingIOError):
            while not self.requested:
                self._read.recv(64)

    def close(self) -> None:
        """Close both ends."""
        self._read.close()
        self._write.close()


@contextmanager
def stop_on_signals(switch: StopSwitch, *, later: bool = False) -> Iterator[Callable[[], None]]:
    """Set `switch` on a signal inside the `with`; main thread only. Restores the old handlers.

    later: install the handlers only when the yielded function is called. A command that compiles
    inside the `with` calls it when it is ready.
    """
    with ExitStack() as stack:

        def begin() -> None:
            stack.enter_context(_setting(switch))

        if not later:
            begin()
        yield begin


@contextmanager
def _setting(switch: StopSwitch) -> Iterator[None]:
    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python passes it
        if switch.requested:
            _leave(number)
        switch.set()

    # handlers first: until the descriptor is replaced, `leave_on_signals` receives the byte
    old = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    old_fd = signal.set_wakeup_fd(switch.wake_fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_fd)
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def note_hangups(switch: StopSwitch, note: Callable[[], object]) -> Iterator[None]:
    """Call `note` at a SIGHUP inside the `with`, which is inside `stop_on_signals(switch)`.

    `note` runs between any two instructions and must do no more than set a flag. Does nothing
    where there is no SIGHUP.
    """

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python passes it
        # the byte of the wake-up would otherwise end every further poll immediately
        switch.quieten()
        note()

    if HANGUP is None:
        yield
        return
    old = signal.signal(HANGUP, handle)
    try:
        yield
    finally:
        signal.signal(HANGUP, old)


@contextmanager
def leave_on_signals() -> Iterator[None]:
    """End the process at the first signal inside the `with` that no loop handles.

    It prints one sentence and exits with 130 or 143, even while a compiler runs. Main thread
    only. Handlers outside `DEFAULTS` stay in place.
    """
    taken = [number for number in STOP_SIGNALS if signal.getsignal(number) in DEFAULTS]

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python passes it
        threading.Event().wait()  # start nothing more while the thread ends the process

    def watch() -> None:
        while numbers := reader.recv(1):
            if numbers[0] not in taken:
                continue
            name = signal.Signals(numbers[0]).name
            text = f"stopped by {name} before it finished; files contain what was complete"
            _last_words(f"stream-lstm: {text}\n".encode())
            _leave(numbers[0])

    reader, writer = socket.socketpair()  # Windows has no pipe that does not block
    writer.setblocking(False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    old_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    old = {number: signal.signal(number, handle) for number in taken}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_fd)
        writer.close()
        watcher.join()
        reader.close()


def _leave(number: int) -> None:
    if sys.stderr.isatty():
        _last_words(SHOW_CURSOR)
    os._exit(128 + number)


def _last_words(data: bytes) -> None:
    """Write to standard error if that does not block."""
    descriptor = sys.stderr.fileno()
    # Windows selects among sockets alone
    if WINDOWS or select.select((), (descriptor,), (), 0)[1]:
        os.write(descriptor, data)


class Supervisor(Closing):
    """Sends the service manager its messages, in the format of sd_notify(3).

    Sends nothing without `NOTIFY_SOCKET`. Only the daemon's loop feeds the watchdog, so systemd
    restarts a daemon whose loop hangs.

    environment: that of the process. `watchdog_s` is the period for `alive`, None without a
    watchdog.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog_s = _watchdog_s(environment) if self._address else None
        self._socket: socket.socket | None = None
        if self._address[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def ready(self, status: str) -> None:
        """Report that work has begun; status: one line."""
        self._send(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Report that the configuration is being reloaded; `ready` reports the end of it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the end has begun."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        # a leading @ means the abstract namespace, whose names begin with a zero byte
        name = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        # a manager that does not read must not delay a tick; the next message comes soon
        with contextlib.suppress(OSError):
            self._socket.sendto(text.encode(), name)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return a third of the watchdog's timeout, None if it does not watch this process."""
    timeout, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not timeout.isdecimal() or int(timeout) == 0 or process not in ("", str(os.getpid())):
        return None
    return max(int(timeout) / 3e6, MIN_PERIOD_S)
