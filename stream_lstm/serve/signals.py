"""SIGTERM and SIGINT: the first asks for an orderly end, the second ends at once. SIGHUP is noted.

Python runs a handler between two of its own instructions, and a poll that a signal interrupts
is taken up again. The wake-up descriptor is written by the C handler itself, so the poll returns
and the loop sees the switch, which the handler has set by then.

The second signal leaves by `os._exit`: whatever hangs, nothing more is waited for or cleaned up,
but for the cursor that a live table may have hidden. So does the first one where no loop takes
signals yet. A compiler does not return to Python for seconds, and no handler runs meanwhile, so a
thread reads the wake-up descriptor and ends the process. That is safe: locks and sockets end with
the process, and stores and files are written so that a kill leaves them whole.

The switch that ends the daemon, from a signal handler or from another thread.

A flag alone does not wake a poll, so the switch is also a descriptor that becomes readable: the
daemon polls it beside its sockets.

What systemd is told: ready, alive, loading anew, stopping.

A datagram to the socket that `NOTIFY_SOCKET` names, as sd_notify(3) has it; where there is none,
nothing is sent. The watchdog is fed from the daemon's loop and from nowhere else: a loop that
hangs is one that is killed and started again.
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


SIGNALS = (signal.SIGTERM, signal.SIGINT)

SHOW_CURSOR = b"\x1b[?25h\n"

DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
"""Handlers that a process starts with; another one is somebody's choice, such as to ignore it."""


@contextmanager
def stop_on_signals(switch: StopSwitch, *, later: bool = False) -> Iterator[Callable[[], None]]:
    """Let signals set `switch` inside the `with`; main thread only. Old handlers come back.

    later: not before what this yields is called, until when they do what they did. A command that
    compiles inside the `with` calls it when it is ready.
    """
    with ExitStack() as stack:

        def begin() -> None:
            stack.enter_context(_setting(switch))

        if not later:
            begin()
        yield begin


@contextmanager
def _setting(switch: StopSwitch) -> Iterator[None]:
    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python gives it
        if switch.requested:
            _leave(number)
        switch.set()

    # `leave_on_signals` gets the byte of a signal wherever its handler could still be called
    old = {number: signal.signal(number, handle) for number in SIGNALS}
    old_fd = signal.set_wakeup_fd(switch.wake_fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_fd)
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def note_hangups(switch: StopSwitch, note: Callable[[], object]) -> Iterator[None]:
    """Call `note` at a SIGHUP inside the `with`, which is within `stop_on_signals(switch)`.

    It is called between any two instructions, so it should do no more than take a note.
    """

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python gives it
        # left there, the byte of the wake-up would end every further poll at once
        switch.quieten()
        note()

    old = signal.signal(signal.SIGHUP, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, old)


@contextmanager
def leave_on_signals() -> Iterator[None]:
    """End the process inside the `with` at the first signal that no loop has taken over.

    It ends with one sentence and 130 or 143, even while a compiler runs. Main thread only. A
    handler that is not one of `DEFAULTS` stays as it is.
    """
    taken = [number for number in SIGNALS if signal.getsignal(number) in DEFAULTS]

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python gives it
        threading.Event().wait()  # nothing more is begun while the thread ends the process

    def watch() -> None:
        while numbers := os.read(reader, 1):
            if numbers[0] not in taken:
                continue
            name = signal.Signals(numbers[0]).name
            told = f"stopped by {name} before it was done: stores and files keep what they held"
            _last_words(f"stream-lstm: {told}\n".encode())
            _leave(numbers[0])

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    old_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    old = {number: signal.signal(number, handle) for number in taken}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_fd)
        os.close(writer)
        watcher.join()
        os.close(reader)


def _leave(number: int) -> None:
    if sys.stderr.isatty():
        _last_words(SHOW_CURSOR)
    os._exit(128 + number)


def _last_words(data: bytes) -> None:
    """Write to standard error if that is possible without waiting."""
    descriptor = sys.stderr.fileno()
    if select.select((), (descriptor,), (), 0)[1]:
        os.write(descriptor, data)


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
