"""Sockets: their options, binding and connecting, with errors that name the endpoint and reason.

`open_socket` creates every socket, and `Binding` or `Connections` attaches it: options, keys and
the guard against floods are set here only.

libzmq silently gives an `ipc://` path to a second process that binds it, so a lock on a file
beside the path protects the path.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from typing import Any

import zmq

from ..errors import StreamLSTMError
from ..platform import WINDOWS, lock_file
from .guard import Inbound, Redial, guard_of
from .security import Security, Socket, refused_endpoint

KEEPALIVE = {zmq.TCP_KEEPALIVE_IDLE: 10, zmq.TCP_KEEPALIVE_INTVL: 5, zmq.TCP_KEEPALIVE_CNT: 3}
"""A peer that is cut off silently is dropped after 25 seconds, not after hours."""

MAX_PORT = 65_535

HANDSHAKE_S = 10.0
"""For a peer's handshake; a stopped process tries again when it continues."""

CONNECT_S = 5.0
"""For a connection to be made; the kernel would try for two minutes."""

RECONNECT_S = (0.1, 1.0)
"""A publisher that was away is dialled at least once a second."""

UNLIMITED = 0
"""The high-water mark of a SUB socket for its subscriptions: libzmq silently drops those above
it, at every connection. Their number is bounded by what we ask for."""

MAX_REQUEST_FRAME = 1024
"""Bytes of one frame from a peer of a publisher: a topic, or a step of the handshake."""

REQUEST_BUFFER = 65_536
"""Bytes of a peer's requests in the kernel: they outlast the end of a connection."""


def open_socket(
    context: zmq.Context[Any],
    kind: int,
    *,
    send_hwm: int = 1000,
    receive_hwm: int = 1000,
    linger_s: float = 0.0,
    max_frame_bytes: int = MAX_REQUEST_FRAME,
    receive_buffer: int | None = None,
) -> Socket:
    """Return a socket of a kind, such as `zmq.SUB`, with all options except keys.

    send_hwm, receive_hwm: messages that may wait for, and from, one peer. linger_s: seconds that
    closing waits for what is queued. max_frame_bytes: a peer that sends more is dropped.
    receive_buffer: bytes in the kernel; with None it grows as needed.

    The kernel checks whether a peer is still there, not libzmq: a subscriber with a full queue
    does not read libzmq's pings either, and would be dropped just because it is slow.
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
    """A bound endpoint; `endpoint` is the actual one, with the port that the system chose for `*`.

    security: keys; without them only an address of this machine is bound. inbound: updated by
    the owner of a socket that takes requests; None if peers only subscribe.

    Raises EndpointError if it cannot be bound, and ConfigurationError if it must not be. Call
    `close` after the socket is closed.
    """

    def __init__(
        self, socket: Socket, endpoint: str, security: Security, inbound: Inbound | None = None
    ) -> None:
        _check_port(endpoint, "bind", lowest=0)
        security.serve(socket, endpoint)
        self._lock = _lock_path(endpoint)
        try:
            guard_of(socket.context, security).watch(socket, inbound)
            _allow_ipv6(socket, endpoint)
            socket.bind(endpoint)
        except (zmq.ZMQError, ValueError, TypeError) as error:
            self.close()
            raise refused_endpoint("bind", endpoint, error) from None
        self.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def close(self) -> None:
        """Release the lock of an `ipc://` path."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class Connections:
    """Connections of a socket to endpoints, made as soon as the peers are there.

    inbound: updated by the owner of the socket. The owner calls `maintain` when `redial.pending`
    is set, and at least every MAX_WAIT_S seconds, to redial endpoints that libzmq has given up.

    Raises EndpointError for an endpoint that can never be connected to, and ConfigurationError if
    the key of a server cannot be read.
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

    def maintain(self, now: float) -> bool:
        """Dial the endpoints that are due; return whether any was. `now`: seconds, monotonic."""
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
    _check_path(endpoint, "connect to")
    _check_port(endpoint, "connect to", lowest=1)
    security.connect(socket, endpoint)
    _allow_ipv6(socket, endpoint)
    try:
        socket.connect(endpoint)
    except (zmq.ZMQError, ValueError, TypeError) as error:
        raise refused_endpoint("connect to", endpoint, error) from None


def _allow_ipv6(socket: Socket, endpoint: str) -> None:
    # only for such an address: with the option, tcp://*:5555 would be bound for IPv6 too
    if endpoint.startswith("tcp://["):
        socket.setsockopt(zmq.IPV6, 1)


def _check_port(endpoint: str, verb: str, *, lowest: int) -> None:
    # libzmq takes 70000 modulo 65536, and tries endlessly to connect to port 0
    scheme, _, port = endpoint.rpartition(":")
    if scheme.startswith("tcp://") and port.isdecimal() and not lowest <= int(port) <= MAX_PORT:
        raise refused_endpoint(verb, endpoint, ValueError(f"{port} is not a port"))


def _check_path(endpoint: str, verb: str) -> None:
    if WINDOWS and endpoint.startswith("ipc://"):
        why = ValueError("Windows has no paths of sockets whose owner can be checked")
        raise refused_endpoint(verb, endpoint, why, "use tcp://127.0.0.1:PORT")


def _lock_path(endpoint: str) -> int | None:
    _check_path(endpoint, "bind")
    path = endpoint.removeprefix("ipc://")
    if path == endpoint or path[:1] in ("", "*", "@"):
        return None
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError) as error:
        raise refused_endpoint("bind", endpoint, error) from None
    try:
        lock_file(lock)
    except BlockingIOError:
        os.close(lock)
        in_use = OSError(errno.EADDRINUSE, "Address in use")
        raise refused_endpoint("bind", endpoint, in_use) from None
    except OSError:
        os.close(lock)
        why = ValueError("this system has no file locks to detect a second process")
        raise refused_endpoint("bind", endpoint, why, "bind tcp://127.0.0.1:PORT") from None
    return lock
