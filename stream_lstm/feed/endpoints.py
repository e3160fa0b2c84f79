"""Binding and connecting, with errors that say which endpoint, why, and what to do.

libzmq lets a second process bind an `ipc://` path and take it from the first without a word, so
a lock on a file beside the path stands for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Any, TypeAlias

import zmq

from ..errors import EndpointError

Socket: TypeAlias = "zmq.Socket[Any]"

KEEPALIVE = {zmq.TCP_KEEPALIVE_IDLE: 10, zmq.TCP_KEEPALIVE_INTVL: 5, zmq.TCP_KEEPALIVE_CNT: 3}
"""A peer that is cut off without a word is dropped after 25 seconds, not in hours."""

MAX_PORT = 65_535

ADVICE = {
    errno.EADDRINUSE: "stop the program that holds it, or choose another port",
    errno.EADDRNOTAVAIL: "name an address of this machine, such as 127.0.0.1",
    errno.ENODEV: "name an address of this machine, such as 127.0.0.1",
    errno.EACCES: "choose a port above 1023, or a path that may be written",
    errno.ENOENT: "make the folder of the path first",
    errno.ENAMETOOLONG: "choose a shorter path",
}
SYNTAX = "write it as tcp://ADDRESS:PORT or ipc://PATH"


def watch_peer(socket: Socket) -> None:
    """Make a socket notice that its peer is cut off.

    The kernel asks, not libzmq: a subscriber whose queue is full reads nothing, not even libzmq's
    pings, and would be dropped with all that is queued for it just because it is slow.
    """
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        socket.setsockopt(option, value)


class Binding:
    """A bound endpoint; `endpoint` is the actual one, its port chosen where `*` was given.

    Raises EndpointError if it cannot be bound. `close` after the socket.
    """

    def __init__(self, socket: Socket, endpoint: str) -> None:
        _check_port(endpoint, "bind", lowest=0)
        self._lock = _lock_path(endpoint)
        try:
            socket.bind(endpoint)
        except (zmq.ZMQError, ValueError, TypeError) as error:
            self.close()
            raise _refused("bind", endpoint, error) from None
        self.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def connect(socket: Socket, endpoint: str) -> None:
    """Connect, now or whenever the peer appears; raises EndpointError if it never can."""
    _check_port(endpoint, "connect to", lowest=1)
    try:
        socket.connect(endpoint)
    except (zmq.ZMQError, ValueError, TypeError) as error:
        raise _refused("connect to", endpoint, error) from None


def _check_port(endpoint: str, verb: str, *, lowest: int) -> None:
    # libzmq takes 70000 modulo 65536, and waits for ever to connect to port 0
    scheme, _, port = endpoint.rpartition(":")
    if scheme.startswith("tcp://") and port.isdecimal() and not lowest <= int(port) <= MAX_PORT:
        raise _refused(verb, endpoint, ValueError(f"{port} is not a port"))


def _lock_path(endpoint: str) -> int | None:
    path = endpoint.removeprefix("ipc://")
    if path == endpoint or path[:1] in ("", "*", "@"):
        return None
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError) as error:
        raise _refused("bind", endpoint, error) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise _refused("bind", endpoint, OSError(errno.EADDRINUSE, "Address in use")) from None
    return lock


def _refused(verb: str, endpoint: str, error: Exception) -> EndpointError:
    code = getattr(error, "errno", None)
    reason = zmq.strerror(code) if code else str(error)
    advice = SYNTAX if code is None else ADVICE.get(code, SYNTAX)
    return EndpointError(f"cannot {verb} {endpoint!r}: {reason}; {advice}")
