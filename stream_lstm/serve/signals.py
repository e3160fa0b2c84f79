"""SIGTERM and SIGINT: the first asks for an orderly end, the second ends at once. SIGHUP is noted.

Python runs a handler between two of its own instructions, and a poll that a signal interrupts
is taken up again. The wake-up descriptor is written by the C handler itself, so the poll returns
and the loop sees the switch, which the handler has set by then.

The second signal leaves by `os._exit`: whatever hangs, nothing more is waited for or cleaned up,
but for the cursor that a live table may have hidden.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from .stop import StopSwitch

SIGNALS = (signal.SIGTERM, signal.SIGINT)

SHOW_CURSOR = b"\x1b[?25h\n"


@contextmanager
def stop_on_signals(switch: StopSwitch) -> Iterator[None]:
    """Let signals set `switch` inside the `with`; main thread only. Old handlers come back."""

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python gives it
        if switch.requested:
            _leave(number)
        switch.set()

    old_fd = signal.set_wakeup_fd(switch.wake_fd, warn_on_full_buffer=False)
    old = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_fd)


@contextmanager
def note_hangups(switch: StopSwitch, note: Callable[[], object]) -> Iterator[None]:
    """Call `note` at a SIGHUP inside the `with`, which is within `stop_on_signals`.

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
def interrupt_at_once() -> Iterator[None]:
    """End at once, with one sentence and 130, at a SIGINT that no loop has taken over yet.

    While JAX starts and compiles, a KeyboardInterrupt would be lost in its callbacks or end in
    a traceback. A handler other than Python's own stays as it is.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python gives it
        _last_words(b"stream-lstm: interrupted\n")
        _leave(number)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int) -> None:
    if sys.stderr.isatty():
        _last_words(SHOW_CURSOR)
    os._exit(128 + number)


def _last_words(data: bytes) -> None:
    """Write to standard error if that is possible without waiting."""
    descriptor = sys.stderr.fileno()
    if select.select((), (descriptor,), (), 0)[1]:
        os.write(descriptor, data)
