"""Who may use an object that owns sockets, and when: theory of operation.

ZeroMQ sockets are not safe from several threads, and they do not survive a fork: the child has the
memory of a socket without the threads that serve it. Each object that owns sockets has a `Turns`.

`barred` says why the object cannot be used at the moment; it is empty where it can. A call tests
it and sets it to BUSY, without any call in between: the interpreter switches threads and runs
signal handlers only at calls and at the ends of loops, so nothing comes between. A publisher holds
`lock` meanwhile, so that other threads wait; the lock is reentrant, so that a signal handler finds
BUSY in place of waiting for the thread that it interrupted. A reader has no lock: a second thread
is refused, because two readers of one socket would tear the order of its events apart.

Closing sets `closing`. Where a call is in progress it is that call which closes the sockets when
it ends: no socket is closed under the thread that uses it.

A child process finds everything barred that its parent had made.

Arguments of the public calls: what is no time, whole number, text or list of names is refused.

Each function returns its argument in the form that the code behind it relies on, or raises
UsageError that names the argument, what it was and what it has to be.
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

from ..errors import UsageError
from ..forks import call_in_child

MAX_INT = 2**31 - 1
"""Of an option of libzmq."""


def seconds(name: str, value: object) -> float:
    """Return a time to wait in seconds: infinite for None, 0 for what is in the past."""
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
    """Return a time for libzmq, rounded up; it waits without limit for -1."""
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
    """Return a text."""
    if not isinstance(value, str):
        raise UsageError(f'{name}={value!r:.60}: write text, such as "tcp://127.0.0.1:5555"')
    return value


def names(name: str, value: object) -> tuple[str, ...]:
    """Return a list of names; one text alone would be taken for a list of letters."""
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


class Turns:
    """The state of one object; see the module.

    name: what the object is called in messages. rule: what a caller that finds it in use did, and
    what to do.
    """

    __slots__ = ("__weakref__", "barred", "closing", "forked", "lock", "name", "rule")

    def __init__(self, name: str, rule: str) -> None:
        self.name, self.rule = name, rule
        self.lock = threading.RLock()
        self.barred = ""
        self.closing = self.forked = False
        _made.add(self)

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
    def held(self, shut: Callable[[], object]) -> Iterator[None]:
        """Hold the object; `shut` closes it at the end where that was asked for meanwhile.

        The calls that are made most often do the same without a context manager.
        """
        if self.barred:
            self.refuse()
        self.barred = BUSY
        try:
            yield
        finally:
            self.barred = ""
            if self.closing:
                shut()

    def forget_parent(self) -> None:
        """Bar the object in a child process."""
        self.lock = threading.RLock()  # the copy of the parent's may be held by no thread of ours
        self.barred, self.forked = FORKED, True


def is_signalled(descriptors: Iterable[int], timeout_s: float) -> bool:
    """Return whether one of libzmq's descriptors reports within a time that its socket has news.

    Any thread may watch a descriptor, where only the one whose turn it is may ask the socket.
    """
    poller = zmq.Poller()
    for descriptor in descriptors:
        poller.register(descriptor, zmq.POLLIN)
    return bool(poller.poll(milliseconds(timeout_s)))


_made: weakref.WeakSet[Turns] = weakref.WeakSet()


def _forked() -> None:
    for turns in list(_made):
        turns.forget_parent()


call_in_child(_forked)
