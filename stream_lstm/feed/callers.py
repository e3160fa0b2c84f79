"""Checks of callers: argument types, and who may use an object that owns sockets.

ZeroMQ sockets are not thread-safe and do not survive a fork. Each object that owns sockets has a
`Usage`. A call tests `blocked` and sets it to BUSY without any call in between: the interpreter
switches threads and runs signal handlers only at calls and loop ends, so test and set are atomic.

A publisher also takes `lock`, so other threads wait. The lock is reentrant: a signal handler finds
BUSY instead of a deadlock. A reader has no lock and rejects a second thread, because two readers
of one socket would mix up the order of its events.

`close` sets `closing`. A call in progress then closes the sockets itself when it ends, so no
socket is closed under the thread that uses it. In a forked child every object of the parent is
blocked.
"""

from __future__ import annotations

import contextlib
import math
import operator
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from numbers import Real
from typing import Any, NoReturn

import zmq

from ..closing import call_in_child
from ..errors import UsageError

MAX_INT = 2**31 - 1
"""Largest value of a libzmq option."""


def seconds(name: str, value: object) -> float:
    """Return a waiting time in seconds: None is infinite, negative times are 0."""
    if value is None:
        return math.inf
    if isinstance(value, Real):
        try:
            found = float(value)
        except OverflowError:
            found = math.nan
        if not math.isnan(found):
            return max(found, 0.0)
    raise UsageError(
        f"{name}={value!r:.60}: write seconds as a number, 0 not to wait, or None to wait "
        "without limit"
    )


def milliseconds(wait_s: float) -> int:
    """Return a time for libzmq, rounded up; -1 waits without limit."""
    return math.ceil(wait_s * 1000) if wait_s * 1000 < MAX_INT else -1


def whole(name: str, value: Any, least: int) -> int:
    """Return a whole number from `least` to MAX_INT."""
    try:
        found = operator.index(value)
    except TypeError:
        found = -1
    if not least <= found <= MAX_INT:
        raise UsageError(f"{name}={value!r:.60}: write a whole number from {least} to {MAX_INT:,}")
    return found


def text(name: str, value: object) -> str:
    """Return `value` if it is text."""
    if not isinstance(value, str):
        raise UsageError(f'{name}={value!r:.60}: write text, such as "tcp://127.0.0.1:5555"')
    return value


def names(name: str, value: object) -> tuple[str, ...]:
    """Return a list of names; a single string is rejected, not split into letters."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise UsageError(f'{name}={value!r:.60}: write a list of names, such as ["bid", "ask"]')
    found = tuple(value)
    for one in found:
        if not isinstance(one, str):
            raise UsageError(f"{name}: {one!r:.60} is not a name; write names as text")
    return found


BUSY = "busy"
CLOSED = "closed"
FORKED = "forked"


class Usage:
    """Who may use one object; see the module.

    name: of the object, for messages. rule: what a caller that finds it in use should do.
    """

    __slots__ = ("__weakref__", "blocked", "closing", "forked", "lock", "name", "rule")

    def __init__(self, name: str, rule: str) -> None:
        self.name, self.rule = name, rule
        self.lock = threading.RLock()
        self.blocked = ""
        self.closing = self.forked = False
        _all_usages.add(self)

    def refuse(self) -> NoReturn:
        """Raise UsageError that says why the object cannot be used, and what to do."""
        name = self.name
        if self.forked:
            raise UsageError(
                f"this {name} was made before the process forked, and its sockets work in the "
                f"parent only: make a {name} in the child, or start processes with "
                'multiprocessing.get_context("spawn")'
            )
        if self.closing:
            raise UsageError(f"this {name} is closed: make another one")
        raise UsageError(f"this {name} is in use: {self.rule}")

    @contextlib.contextmanager
    def exclusive(self, shut: Callable[[], object]) -> Iterator[None]:
        """Use the object alone; call `shut` at the end if it was closed meanwhile.

        The most frequent calls do the same inline, without the cost of a context manager.
        """
        if self.blocked:
            self.refuse()
        self.blocked = BUSY
        try:
            yield
        finally:
            self.blocked = ""
            if self.closing:
                shut()

    def block_in_child(self) -> None:
        """Block the object in a child process."""
        self.lock = threading.RLock()  # no thread of the child would release the parent's
        self.blocked, self.forked = FORKED, True


def is_signalled(descriptors: Iterable[int], timeout_s: float) -> bool:
    """Return whether one of libzmq's descriptors becomes readable in time.

    Any thread may watch a descriptor; only the current user of a socket may ask the socket.
    """
    poller = zmq.Poller()
    for descriptor in descriptors:
        poller.register(descriptor, zmq.POLLIN)
    return bool(poller.poll(milliseconds(timeout_s)))


_all_usages: weakref.WeakSet[Usage] = weakref.WeakSet()


def _block_all_in_child() -> None:
    for usage in list(_all_usages):
        usage.block_in_child()


call_in_child(_block_all_in_child)
