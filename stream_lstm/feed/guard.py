"""The guard of a context's sockets: authentication, floods, and endpoints that libzmq gave up.

**Guard.** A thread that answers libzmq's question whether a client's key is on the list (ZAP),
counts failed handshakes, and checks ten times a second how much each connection has sent, as the
kernel counts it. Two floods show only there: while a peer sends subscriptions as fast as it can,
the thread that owns the socket does not return from libzmq; and of a message without an end
nothing reaches the application. The guard resets the connection of such a peer, and libzmq frees
the memory.

The thread has a context handle of its own, so that `destroy` does not close its sockets while it
uses them, and it ends with the context. Floods are detected on TCP under Linux; the permissions of
its folder protect an `ipc` path.

**Redial.** libzmq redials an endpoint whose connection ended, unless the peer broke the protocol:
another mechanism or kind of socket, a malformed command, a frame above the limit, or keys that do
not fit. Such an endpoint it gives up silently, with the report DISCONNECTED only. If no report of
another attempt follows within GRACE_S, the endpoint was given up, and its owner has to redial it.

Reports name an endpoint as configured at the first attempt, and by its resolved address later. An
address that is not configured is matched by its port; if several endpoints have that port, all of
them are redialled, since one attempt too many costs little.

Disconnecting a given-up endpoint may end another connection of the socket that reuses the first
one's memory, since libzmq identifies it by its address. So an endpoint is disconnected as soon as
it is given up, before any other is dialled, and one that is neither connected nor dialled for
SILENT_S counts as given up too.

`Redial` has no socket. Any thread may call `report`; everything else is for the owner only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import socket as sockets
import struct
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeAlias

import msgspec
import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from .callers import is_signalled
from .security import Reason, Security, Socket

GRACE_S = 0.5
"""For libzmq to report its next attempt, which it does within milliseconds."""

FIRST_REDIAL_S = 0.5
"""Before an endpoint is redialled; this doubles each time it is soon given up again."""

MAX_REDIAL_S = 10.0
"""Between two attempts: bounds what a hostile peer can make us receive in a second, and a peer
that is fixed does not wait long."""

MAX_WAIT_S = 1.0
"""How long an owner may wait before it checks its endpoints."""

SILENT_S = 30.0
"""Without a report of an attempt; libzmq makes at least one in six seconds."""

MAX_REPORTS = 10_000
"""Reports that wait for an owner that does not check; beyond that all endpoints are redialled."""

REPORTING = ("tcp://", "ipc://")
"""The transports on whose connections libzmq reports."""

NEVER = float("inf")

Report: TypeAlias = Literal["connected", "refused", "ended", "tried"]


class _Endpoint:
    """An endpoint of `Redial`: whether it is connected, or when it ended, was tried, and is due.

    `lost`: a connection has ended and no other has been made since.
    """

    __slots__ = ("connected", "due", "ended", "lost", "period", "redialled", "tried", "why")

    def __init__(self) -> None:
        self.connected = self.lost = False
        self.tried: float | None = None
        self.ended: float | None = None
        self.due: float | None = None
        self.period = FIRST_REDIAL_S
        self.redialled = -NEVER
        self.why = ""

    def end(self, now: float) -> None:
        self.ended, self.connected, self.lost = now, False, True

    def is_given_up(self, now: float) -> bool:
        if self.connected or self.due is not None:
            return False
        if self.ended is not None:
            return now >= self.ended + GRACE_S
        return self.tried is not None and now >= self.tried + SILENT_S


class Redial:
    """The endpoints of one socket; see the module.

    note: called with an endpoint that was given up, and the reason.
    """

    def __init__(self, endpoints: Iterable[str], note: Callable[[str, str], object]) -> None:
        self._endpoints = {name: _Endpoint() for name in endpoints if name.startswith(REPORTING)}
        self._note = note
        self._reports: deque[tuple[Report, str, str]] = deque(maxlen=MAX_REPORTS)
        self._unconnected = True

    @property
    def pending(self) -> bool:
        """Whether `due` has something to do."""
        return self._unconnected or bool(self._reports)

    def report(self, report: Report, address: str, why: str = "") -> None:
        """Add a report of libzmq's about an endpoint; `why` is the reason of a refusal."""
        self._reports.append((report, address, why))

    def due(self, now: float) -> tuple[list[str], list[str]]:
        """Return the endpoints to disconnect now, and then those to dial.

        now: seconds, monotonic.
        """
        if len(self._reports) == MAX_REPORTS:
            self._reports.clear()
            for endpoint in self._endpoints.values():
                endpoint.end(now)
        while self._reports:
            report, address, why = self._reports.popleft()
            for endpoint in self._matching(address, certain=report in ("connected", "tried")):
                if report == "refused":
                    endpoint.why = why
                elif report == "ended":
                    endpoint.end(now)
                else:
                    endpoint.ended, endpoint.tried = None, now
                    endpoint.connected = report == "connected"
                    if endpoint.connected:
                        endpoint.lost, endpoint.why = False, ""
        stale, out = [], []
        for name, endpoint in self._endpoints.items():
            if endpoint.tried is None:
                endpoint.tried = now
            if endpoint.is_given_up(now):
                stale.append(name)
                self._give_up(name, now)
            if endpoint.due is not None and now >= endpoint.due:
                endpoint.due, endpoint.redialled, endpoint.tried = None, now, now
                out.append(name)
        self._unconnected = not all(e.connected for e in self._endpoints.values())
        return stale, out

    def lost(self, name: str) -> bool:
        """Return whether an endpoint was connected and is no longer, as of the last `due`.

        False before the first connection, and for transports without reports.
        """
        endpoint = self._endpoints.get(name)
        return endpoint is not None and endpoint.lost

    def failed(self, name: str, why: str, now: float) -> None:
        """Note that an endpoint could not even be dialled."""
        self._endpoints[name].why = why
        self._give_up(name, now)
        self._unconnected = True

    def _matching(self, address: str, *, certain: bool) -> list[_Endpoint]:
        if address in self._endpoints:
            return [self._endpoints[address]]
        port = address.rpartition(":")[2]
        found = [e for name, e in self._endpoints.items() if name.rpartition(":")[2] == port]
        return found if len(found) == 1 or not certain else []

    def _give_up(self, name: str, now: float) -> None:
        endpoint = self._endpoints[name]
        soon = now < endpoint.redialled + 2 * MAX_REDIAL_S
        endpoint.period = min(2 * endpoint.period, MAX_REDIAL_S) if soon else FIRST_REDIAL_S
        endpoint.ended, endpoint.due = None, now + endpoint.period
        why = endpoint.why or "it broke the protocol, or sent a frame above the limit"
        endpoint.why = ""
        self._note(name, f"{why}; dialled again in {endpoint.period:g} s")


CHECK_S = 0.1
"""Between two checks of the connections: what a flood sends meanwhile is bounded by its speed."""

BYTES_OF_SUBSCRIPTION = 256
"""Of the longest topic with framing and encryption; see `protocol.MAX_TOPIC_BYTES`."""

REFILL = 64.0
"""Bytes a second that a subscriber may always send, such as pings and some topics."""

WIRE_SHARE = 4
"""Most bytes on the wire for one of payload: a small record has a topic, framing and, with keys,
33 more bytes a frame. What a connection sends beyond that is part of an unfinished message."""

MAX_PEERS = 500
"""Connections at one bound socket: half of a process's usual limit of descriptors."""

START_S = 10.0
"""For the thread to start; it takes a millisecond."""

TCP_INFO_BYTES_RECEIVED = 128
"""Offset of `tcpi_bytes_received` in Linux's struct tcp_info."""

ZAP = "inproc://zeromq.zap.01"

FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
PROTOCOL = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
AUTH = zmq.EVENT_HANDSHAKE_FAILED_AUTH
TRIED = (zmq.EVENT_CONNECT_DELAYED, zmq.EVENT_CONNECT_RETRIED)
"""Reports that libzmq has not given an endpoint up."""
EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_CONNECTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CONNECT_DELAYED
    | zmq.EVENT_CONNECT_RETRIED
    | FAILED
    | PROTOCOL
    | AUTH
    | zmq.EVENT_MONITOR_STOPPED
)


class Inbound:
    """What the owner of a socket reports, so that a message without an end shows.

    limit: bytes of one message with all its parts. `taken` counts the payload bytes taken so far.
    `waiting` is set while the owner waits because it found no message. `signals` are libzmq's
    descriptors of sockets that an event loop waits for, which may be busy with other things.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.waiting = False
        self.signals: tuple[int, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether all whole messages that arrived were taken."""
        if self.waiting and self.signals:
            return not is_signalled(self.signals, 0.0)
        return self.waiting


class _Connection(msgspec.Struct):
    """A connection by its descriptor and inode, since a descriptor is soon reused."""

    fd: int
    inode: int
    address: str
    seen: int = 0
    unsettled: int = 0
    excess: float = 0.0


class _GuardedSocket:
    """A socket's monitor and connections; `redial` is None for a bound socket."""

    def __init__(self, monitor: Socket, inbound: Inbound | None, redial: Redial | None) -> None:
        self.monitor = monitor
        self.inbound = inbound
        self.redial = redial
        self.taken = 0
        self.connections: dict[int, _Connection] = {}


class Guard:
    """Guards the sockets of one context; see the module. `guard_of` returns a context's guard."""

    def __init__(self, context: zmq.Context[Any], security: Security) -> None:
        self._security = security
        self._context: zmq.Context[Any] = zmq.Context.shadow(context.underlying)
        self._new: queue.SimpleQueue[tuple[str, Inbound | None, Redial | None, threading.Event]]
        self._new = queue.SimpleQueue()
        self._wake_read, self._wake_write = sockets.socketpair()
        self._wake_read.setblocking(False)
        self._guarded: dict[Socket, _GuardedSocket] = {}
        self._checked_at = time.monotonic()
        self._revocations = security.revocations
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="stream-lstm guard", daemon=True
        )
        self._thread.start()
        ready.wait(START_S)

    def watch(self, socket: Socket, inbound: Inbound | None, redial: Redial | None = None) -> None:
        """Guard a socket that is not bound or connected yet.

        redial: receives the reports about the endpoints of a socket that connects; None for a
        socket that will be bound.
        """
        name, monitored = f"inproc://guard.{socket.underlying}", threading.Event()
        socket.monitor(name, EVENTS)
        self._new.put((name, inbound, redial, monitored))
        self._wake_write.send(b"\0")
        # libzmq blocks at the first report, with the interpreter's lock, until somebody connects
        monitored.wait(START_S)

    # ---- the thread -------------------------------------------------------------------

    def _run(self, ready: threading.Event) -> None:
        zap = self._context.socket(zmq.REP)
        zap.setsockopt(zmq.LINGER, 0)
        try:
            zap.bind(ZAP)
            poller = zmq.Poller()
            poller.register(zap, zmq.POLLIN)
            poller.register(self._wake_read, zmq.POLLIN)
            ready.set()
            while True:
                self._poll(zap, poller)
        except zmq.ContextTerminated:
            return
        finally:
            for guarded in self._guarded.values():
                guarded.monitor.close(linger=0)
            zap.close(linger=0)
            self._wake_read.close()
            self._wake_write.close()

    def _poll(self, zap: Socket, poller: zmq.Poller) -> None:
        connected = any(guarded.connections for guarded in self._guarded.values())
        for ready, _ in poller.poll(int(CHECK_S * 1000) if connected else None):
            if ready is zap:
                zap.send_multipart(self._authenticate(zap.recv_multipart()))
            elif isinstance(ready, zmq.Socket):
                self._read_monitor(self._guarded[ready], poller)
            else:
                self._wake_read.recv(4096)
                self._add_sockets(poller)
        now = time.monotonic()
        if connected and now - self._checked_at >= CHECK_S:
            for guarded in self._guarded.values():
                self._check(guarded, now - self._checked_at)
            self._checked_at = now
            self._revoke()

    def _authenticate(self, request: list[bytes]) -> list[bytes]:
        """Return the reply to a ZAP request of libzmq's: status 200 accepts the peer."""
        request_id = request[1] if len(request) > 1 else b""
        credentials = request[6:]
        if len(request) == 7 and request[5] == b"CURVE" and len(credentials[0]) == 32:
            key = z85.encode(credentials[0])
            if key in self._security.clients:
                return [b"1.0", request_id, b"200", b"OK", key, b""]
        self._security.refuse("unknown_key")
        return [b"1.0", request_id, b"400", b"not on the list", b"", b""]

    def _add_sockets(self, poller: zmq.Poller) -> None:
        while not self._new.empty():
            name, inbound, redial, monitored = self._new.get()
            monitor = self._context.socket(zmq.PAIR)
            # unlimited, since libzmq's own thread would wait for room
            monitor.setsockopt(zmq.RCVHWM, 0)
            monitor.setsockopt(zmq.LINGER, 0)
            monitor.connect(name)
            self._guarded[monitor] = _GuardedSocket(monitor, inbound, redial)
            poller.register(monitor, zmq.POLLIN)
            monitored.set()

    def _read_monitor(self, guarded: _GuardedSocket, poller: zmq.Poller) -> None:
        while guarded.monitor.poll(0):
            report = recv_monitor_message(guarded.monitor)
            event, value = int(report["event"]), int(report["value"])
            address = report["endpoint"].decode(errors="replace")
            if guarded.redial is not None:
                self._report(guarded.redial, event, value, address)
            if event in (zmq.EVENT_ACCEPTED, zmq.EVENT_CONNECTED):
                self._connected(guarded, value, address)
            elif event == zmq.EVENT_DISCONNECTED:
                guarded.connections.pop(value, None)
            elif event == zmq.EVENT_MONITOR_STOPPED:
                poller.unregister(guarded.monitor)
                del self._guarded[guarded.monitor]
                guarded.monitor.close(linger=0)
                return
            elif event not in TRIED:
                self._count_failure(guarded, event, value)

    def _report(self, redial: Redial, event: int, value: int, address: str) -> None:
        if event in TRIED:
            redial.report("tried", address)
        elif event == zmq.EVENT_CONNECTED:
            redial.report("connected", address)
        elif event == zmq.EVENT_DISCONNECTED:
            redial.report("ended", address)
        elif event == AUTH:
            redial.report("refused", address, "it rejected our key")
        elif event == PROTOCOL:
            other = value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
            why = "only one of the two sides has keys" if other else "its handshake failed"
            redial.report("refused", address, why)

    def _count_failure(self, guarded: _GuardedSocket, event: int, value: int) -> None:
        if guarded.redial is not None:
            self._security.refuse("not_admitted")
        elif event == PROTOCOL:
            reasons: dict[int, Reason] = {
                zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "no_key",
                zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "bad_key",
            }
            self._security.refuse(reasons.get(value, "protocol"))
        elif event == FAILED:
            self._security.refuse("timeout" if value == errno.EAGAIN else "left")

    def _connected(self, guarded: _GuardedSocket, fd: int, address: str) -> None:
        with contextlib.suppress(OSError):
            connection = _Connection(fd, os.fstat(fd).st_ino, address)
            guarded.connections[fd] = connection
            if guarded.redial is None and len(guarded.connections) > MAX_PEERS:
                self._cut(guarded, connection, "too_many_peers")

    # ---- floods -----------------------------------------------------------------------

    def _check(self, guarded: _GuardedSocket, passed_s: float) -> None:
        """Check what every connection has sent since the last check."""
        inbound, taken = guarded.inbound, 0
        # While its owner waits, everything that arrived is taken, except parts of messages.
        settled = inbound is not None and inbound.settled
        if inbound is not None and settled:
            taken, guarded.taken = inbound.taken - guarded.taken, inbound.taken
        for connection in list(guarded.connections.values()):
            received = _bytes_received(connection)
            if received is None:
                if guarded.redial is not None and not _is_open(connection):
                    del guarded.connections[connection.fd]
                    guarded.redial.report("ended", connection.address)
                continue
            new, connection.seen = received - connection.seen, received
            if inbound is None:
                connection.excess = max(0.0, connection.excess + new - REFILL * passed_s)
                most = self._security.config.max_subscriptions * BYTES_OF_SUBSCRIPTION
                if connection.excess > most:
                    self._cut(guarded, connection, "too_many_subscriptions")
                continue
            connection.unsettled += new
            if settled:
                beyond = connection.unsettled - WIRE_SHARE * taken
                connection.unsettled = 0
                connection.excess = connection.excess + beyond if beyond > 0 else 0.0
            if connection.excess > inbound.limit:
                self._cut(guarded, connection, "endless_message")

    def _revoke(self) -> None:
        """Reset every connection to us if a key was removed from the list."""
        if self._revocations == self._security.revocations:
            return
        self._revocations = self._security.revocations
        for guarded in self._guarded.values():
            if guarded.redial is None:
                for connection in list(guarded.connections.values()):
                    self._cut(guarded, connection, "revoked")

    def _cut(self, guarded: _GuardedSocket, connection: _Connection, reason: Reason) -> None:
        del guarded.connections[connection.fd]
        with contextlib.suppress(OSError), _duplicate(connection) as socket:
            self._security.refuse(reason)
            # reset instead of closed: the data that still waits in the kernels is useless
            socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
            socket.shutdown(sockets.SHUT_RDWR)


@contextlib.contextmanager
def _duplicate(connection: _Connection) -> Iterator[sockets.socket]:
    """Yield a socket for the connection; OSError if the descriptor was reused."""
    with sockets.socket(fileno=os.dup(connection.fd)) as socket:
        if os.fstat(socket.fileno()).st_ino != connection.inode:
            raise OSError("the connection is gone")
        yield socket


def _is_open(connection: _Connection) -> bool:
    """Return whether the connection is open: libzmq does not report one that it ends itself."""
    try:
        return os.fstat(connection.fd).st_ino == connection.inode
    except OSError:
        return False


def _bytes_received(connection: _Connection) -> int | None:
    """Return how many bytes a TCP connection has sent us, None if it is gone or not TCP."""
    if sys.platform != "linux":
        return None
    try:
        with _duplicate(connection) as socket:
            info = socket.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, 192)
            return int(struct.unpack_from("=Q", info, TCP_INFO_BYTES_RECEIVED)[0])
    except (OSError, struct.error):
        return None


_guards: weakref.WeakKeyDictionary[zmq.Context[Any], Guard] = weakref.WeakKeyDictionary()


def guard_of(context: zmq.Context[Any], security: Security) -> Guard:
    """Return the guard of a context, started with its first socket."""
    guard = _guards.get(context)
    if guard is None:
        guard = _guards[context] = Guard(context, security)
    return guard
