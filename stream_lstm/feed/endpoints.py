"""Sockets: their options, binding and connecting, with errors that say which endpoint and why.

Every socket is made by `open_socket`, and bound by `Binding` or connected by `Connections`:
options, keys and the guard against floods are set there and nowhere else.

libzmq lets a second process bind an `ipc://` path and take it from the first without a word, so
a lock on a file beside the path stands for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from typing import Any

import zmq

from ..errors import StreamLSTMError
from .guard import Inbound, Redial, guard_of
from .security import Security, Socket, refused_endpoint

KEEPALIVE = {zmq.TCP_KEEPALIVE_IDLE: 10, zmq.TCP_KEEPALIVE_INTVL: 5, zmq.TCP_KEEPALIVE_CNT: 3}
"""A peer that is cut off without a word is dropped after 25 seconds, not in hours."""

MAX_PORT = 65_535

HANDSHAKE_S = 10.0
"""For a peer to say who it is; a stopped one tries again when it goes on."""

CONNECT_S = 5.0
"""For a connection to be made; the kernel would try for two minutes."""

RECONNECT_S = (0.1, 1.0)
"""A publisher that was away is dialled at least once a second."""

ALL = 0
"""The high-water mark of a SUB socket for what it sends, its subscriptions: libzmq drops those
above one without a word, at every connection. There are no more of them than we asked for."""

ASKING_BYTES = 1024
"""Of one frame from whoever connects to a publisher: a topic, or a step of the handshake."""

ASKING_BUFFER = 65_536
"""Bytes that the kernel holds for us of what subscribers ask: they outlast a connection's end."""


def open_socket(
    context: zmq.Context[Any],
    kind: int,
    *,
    send_hwm: int = 1000,
    receive_hwm: int = 1000,
    linger_s: float = 0.0,
    max_frame_bytes: int = ASKING_BYTES,
    receive_buffer: int | None = None,
) -> Socket:
    """Return a socket of a kind, such as `zmq.SUB`, with every option that is not about keys.

    send_hwm, receive_hwm: messages that may wait for, and from, one peer. linger_s: seconds that
    closing waits for what is queued. max_frame_bytes: a peer that sends more is dropped.
    receive_buffer: bytes that the kernel may hold; None leaves it to grow as it sees fit.

    The kernel asks whether a peer is still there, not libzmq: a subscriber whose queue is full
    reads nothing, not even libzmq's pings, and would be dropped with all that is queued for it
    just because it is slow.
    """
    socket: Socket = context.socket(kind)
    options = {
        zmq.SNDHWM: send_hwm,
        zmq.RCVHWM: receive_hwm,
        zmq.LINGER: int(linger_s * 1000),
        zmq.MAXMSGSIZE: max_frame_bytes,
        zmq.HANDSHAKE_IVL: int(HANDSHAKE_S * 1000),
        zmq.CONNECT_TIMEOUT: int(CONNECT_S * 1000),
        zmq.RECONNECT_IVL: int(RECONNECT_S[0] * 1000),
        zmq.RECONNECT_IVL_MAX: int(RECONNECT_S[1] * 1000),
        zmq.HEARTBEAT_IVL: 0,
        zmq.TCP_KEEPALIVE: 1,
        **KEEPALIVE,
    }
    if receive_buffer is not None:
        options[zmq.RCVBUF] = receive_buffer
    for option, value in options.items():
        socket.setsockopt(option, value)
    return socket


class Binding:
    """A bound endpoint; `endpoint` is the actual one, its port chosen where `*` was given.

    security: keys, without which only an address of this machine alone is bound. inbound:
    what the owner of a socket with requests keeps up to date; without it peers only subscribe.

    Raises EndpointError if it cannot be bound, and ConfigurationError if it must not be. `close`
    after the socket.
    """

    def __init__(
        self, socket: Socket, endpoint: str, security: Security, inbound: Inbound | None = None
    ) -> None:
        _check_port(endpoint, "bind", lowest=0)
        security.serve(socket, endpoint)
        self._lock = _lock_path(endpoint)
        try:
            guard_of(socket.context, security).watch(socket, inbound)
            socket.bind(endpoint)
        except (zmq.ZMQError, ValueError, TypeError) as error:
            self.close()
            raise refused_endpoint("bind", endpoint, error) from None
        self.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class Connections:
    """The connections of a socket to some endpoints, made now or whenever the peers appear.

    inbound: what the owner of the socket keeps up to date; see there. The owner calls `tend` where
    `restless` is set, and at least every PIECE_S seconds: an endpoint that libzmq has given up is
    dialled again then.

    Raises EndpointError for an endpoint that never can be connected to, and ConfigurationError
    where the key that a server must have cannot be read.
    """

    def __init__(
        self, socket: Socket, endpoints: Iterable[str], security: Security, inbound: Inbound
    ) -> None:
        endpoints = tuple(endpoints)
        self._socket, self._security = socket, security
        self.redial = Redial(endpoints, security.give_up)
        guard_of(socket.context, security).watch(socket, inbound, self.redial)
        for endpoint in endpoints:
            _connect(socket, endpoint, security)

    def tend(self, now: float) -> bool:
        """Dial what is due, and return whether something was; `now` is in seconds, monotonic."""
        stale, due = self.redial.due(now)
        for endpoint in stale:
            with contextlib.suppress(zmq.ZMQError):
                self._socket.disconnect(endpoint)
        for endpoint in due:
            try:
                _connect(self._socket, endpoint, self._security)
            except StreamLSTMError as error:
                self.redial.failed(endpoint, str(error), now)
        return bool(due)


def _connect(socket: Socket, endpoint: str, security: Security) -> None:
    _check_port(endpoint, "connect to", lowest=1)
    security.call(socket, endpoint)
    try:
        socket.connect(endpoint)
    except (zmq.ZMQError, ValueError, TypeError) as error:
        raise refused_endpoint("connect to", endpoint, error) from None


def _check_port(endpoint: str, verb: str, *, lowest: int) -> None:
    # libzmq takes 70000 modulo 65536, and waits for ever to connect to port 0
    scheme, _, port = endpoint.rpartition(":")
    if scheme.startswith("tcp://") and port.isdecimal() and not lowest <= int(port) <= MAX_PORT:
        raise refused_endpoint(verb, endpoint, ValueError(f"{port} is not a port"))


def _lock_path(endpoint: str) -> int | None:
    path = endpoint.removeprefix("ipc://")
    if path == endpoint or path[:1] in ("", "*", "@"):
        return None
    try:
        import fcntl  # here, since Windows has none
    except ImportError:
        why = ValueError("this system has no file locks, by which a second process is noticed")
        raise refused_endpoint("bind", endpoint, why, "bind tcp://127.0.0.1:PORT") from None
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError) as error:
        raise refused_endpoint("bind", endpoint, error) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise refused_endpoint(
            "bind", endpoint, OSError(errno.EADDRINUSE, "Address in use")
        ) from None
    return lock
