"""The thread that stands at the sockets of a context: who comes in, and who is cut off.

It answers libzmq's question whether a key is on the list, counts the handshakes that failed, and
looks ten times a second at what each connection has brought, as the kernel counts it. That is the
only place where two floods show: while a peer sends subscriptions as fast as it can, the thread
that owns the socket does not come back from libzmq, and of a message without an end nothing
reaches the application at all. The one who floods has its connection shut down, and libzmq then
frees what it has brought.

The thread has a context handle of its own, so that `destroy` does not close its sockets under it,
and ends when the context does. Floods are watched on TCP under Linux; a path of `ipc` is for the
permissions of its folder to guard.

Which endpoints libzmq has given up, and when each is dialled again.

libzmq dials an endpoint again whose connection ended, but for one that broke the protocol: another
mechanism or kind of socket, a malformed command, a frame above the limit, or keys that do not fit.
That one it drops for good, with nothing but the report DISCONNECTED. Where no report of a further
attempt follows within GRACE_S, the endpoint was given up, and its owner has to dial it again.

Reports name an endpoint as it was configured at the first attempt, and with the resolved address
at later ones. An address that was not configured is matched by its port; where several endpoints
have that port, all that may be meant are dialled again, since one too many only costs a moment.

Disconnecting an endpoint that was given up may end another connection of the socket, whose memory
is where that of the first was: libzmq keeps the address. So an endpoint is disconnected as soon as
it is given up, before any other is dialled, and one that neither has a connection nor is dialled
for SILENT_S counts as given up too.

No socket is known here. `report` may be called by any thread, all else by the owner alone.
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

FIRST_S = 0.5
"""Before an endpoint is dialled again; each time it is given up soon after, that doubles."""

MOST_S = 10.0
"""Between two attempts at most: what a hostile peer can make us take in a second is bounded, and
one that is right again has not long to wait."""

PIECE_S = 1.0
"""How long an owner may wait before it looks here again."""

SILENT_S = 30.0
"""Without a report of an attempt, of which libzmq makes one in six seconds at the least."""

MAX_REPORTS = 10_000
"""Reports that wait for an owner that does not look; all endpoints are dialled where more came."""

REPORTING = ("tcp://", "ipc://")
"""The transports on whose connections libzmq reports."""

NEVER = float("inf")

Report: TypeAlias = Literal["connected", "refused", "ended", "tried"]


class _Line:
    """An endpoint: whether it is connected, or when it ended, was tried last, and is due.

    `lost` says that a connection has ended and no other has been made since.
    """

    __slots__ = ("connected", "due", "ended", "lost", "period", "since", "tried")

    def __init__(self) -> None:
        self.connected = self.lost = False
        self.tried: float | None = None
        self.ended: float | None = None
        self.due: float | None = None
        self.period = FIRST_S
        self.since = -NEVER


class Redial:
    """The endpoints of one socket; see the module.

    note: is given an endpoint that was given up, and why.
    """

    def __init__(self, endpoints: Iterable[str], note: Callable[[str, str], object]) -> None:
        self._lines = {
            endpoint: _Line() for endpoint in endpoints if endpoint.startswith(REPORTING)
        }
        self._note = note
        self._heard: deque[tuple[Report, str, str]] = deque(maxlen=MAX_REPORTS)
        self._why: dict[str, str] = {}
        self._waiting = True

    @property
    def restless(self) -> bool:
        """Whether `due` has something to look at."""
        return self._waiting or bool(self._heard)

    def report(self, report: Report, address: str, why: str = "") -> None:
        """Take a report of libzmq's about an endpoint; `why` says how it was refused."""
        self._heard.append((report, address, why))

    def due(self, now: float) -> tuple[list[str], list[str]]:
        """Return the endpoints to be disconnected now, and then those to be dialled.

        now: seconds, monotonic.
        """
        if len(self._heard) == MAX_REPORTS:
            self._heard.clear()
            for line in self._lines.values():
                line.ended, line.connected, line.lost = now, False, True
        while self._heard:
            report, address, why = self._heard.popleft()
            for endpoint in self._meant(address, certain=report in ("connected", "tried")):
                self._apply(endpoint, report, why, now)
        stale, out = [], []
        for endpoint, line in self._lines.items():
            if line.tried is None:
                line.tried = now
            if self._is_given_up(line, now):
                stale.append(endpoint)
                self._give_up(endpoint, line, now)
            if line.due is not None and now >= line.due:
                line.due, line.since, line.tried = None, now, now
                out.append(endpoint)
        self._waiting = not all(line.connected for line in self._lines.values())
        return stale, out

    def lost(self, endpoint: str) -> bool:
        """Return whether an endpoint was connected and is not any more, as of the last `due`.

        One whose first connection is still to be reported is not lost, and neither is one of a
        transport whose connections libzmq does not report.
        """
        line = self._lines.get(endpoint)
        return line is not None and line.lost

    def failed(self, endpoint: str, why: str, now: float) -> None:
        """Take note that an endpoint could not even be dialled."""
        self._why[endpoint] = why
        self._give_up(endpoint, self._lines[endpoint], now)
        self._waiting = True

    def _is_given_up(self, line: _Line, now: float) -> bool:
        if line.connected or line.due is not None:
            return False
        if line.ended is not None:
            return now >= line.ended + GRACE_S
        return line.tried is not None and now >= line.tried + SILENT_S

    def _meant(self, address: str, *, certain: bool) -> list[str]:
        if address in self._lines:
            return [address]
        port = address.rpartition(":")[2]
        found = [endpoint for endpoint in self._lines if endpoint.rpartition(":")[2] == port]
        return found if len(found) == 1 or not certain else []

    def _apply(self, endpoint: str, report: Report, why: str, now: float) -> None:
        line = self._lines[endpoint]
        if report == "refused":
            self._why[endpoint] = why
        elif report == "ended":
            line.ended, line.connected, line.lost = now, False, True
        else:
            line.ended, line.tried = None, now
            line.connected = report == "connected"
            if line.connected:
                line.lost = False
                self._why.pop(endpoint, None)

    def _give_up(self, endpoint: str, line: _Line, now: float) -> None:
        line.period = min(2 * line.period, MOST_S) if now < line.since + 2 * MOST_S else FIRST_S
        line.ended, line.due = None, now + line.period
        why = self._why.pop(endpoint, "it broke the protocol, or sent a frame above the limit")
        self._note(endpoint, f"{why}; dialled again in {line.period:g} s")


LOOK_S = 0.1
"""Between two looks at the connections: what a flood brings meanwhile is bounded by its speed."""

BYTES_OF_SUBSCRIPTION = 256
"""Of the longest topic with its framing and encryption; see `records.MAX_TOPIC_BYTES`."""

REFILL = 64.0
"""Bytes a second that a subscriber may send for ever, such as pings and now and then a topic."""

WIRE_SHARE = 4
"""Bytes on the wire for one of payload, at most: a small record has a topic, framing and, with
keys, 33 bytes more a frame. More than that of one connection belongs to no message yet."""

MAX_PEERS = 500
"""Connections at one bound socket: half of the descriptors that a process usually may have."""

START_S = 10.0
"""For the thread to start; it takes a millisecond."""

TCP_INFO_BYTES_RECEIVED = 128
"""Where `tcpi_bytes_received` lies in Linux's struct tcp_info."""

ZAP = "inproc://zeromq.zap.01"

FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
PROTOCOL = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
AUTH = zmq.EVENT_HANDSHAKE_FAILED_AUTH
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


TRIED = (zmq.EVENT_CONNECT_DELAYED, zmq.EVENT_CONNECT_RETRIED)
"""Reports that libzmq has not given an endpoint up."""


class Inbound:
    """What the owner of a socket tells, so that a message without an end shows.

    limit: bytes of one message with all its parts. `taken` counts the bytes of payload taken so
    far, and `waiting` is set while the owner waits for a message, having found none. `signals`
    are libzmq's descriptors of the sockets that an event loop waits for, which may be busy with
    something else for any time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.waiting = False
        self.signals: tuple[int, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether all whole messages that came were taken."""
        if self.waiting and self.signals:
            return not is_signalled(self.signals, 0.0)
        return self.waiting


class _Connection(msgspec.Struct):
    """A connection by its descriptor and inode, since a descriptor is soon used again."""

    fd: int
    inode: int
    address: str
    seen: int = 0
    unsettled: int = 0
    pressed: float = 0.0


class _Door:
    """A socket that is watched."""

    def __init__(self, monitor: Socket, rule: Inbound | None, redial: Redial | None) -> None:
        self.monitor = monitor
        self.rule = rule
        self.redial = redial
        self.bound = redial is None
        self.taken = 0
        self.connections: dict[int, _Connection] = {}


class Guard:
    """Watches the sockets of one context; see the module. `guard_of` gives the one there is."""

    def __init__(self, context: zmq.Context[Any], security: Security) -> None:
        self._security = security
        self._context: zmq.Context[Any] = zmq.Context.shadow(context.underlying)
        self._new: queue.SimpleQueue[tuple[str, Inbound | None, Redial | None, threading.Event]]
        self._new = queue.SimpleQueue()
        self._wake_read, self._wake_write = sockets.socketpair()
        self._wake_read.setblocking(False)
        self._doors: dict[Socket, _Door] = {}
        self._looked = time.monotonic()
        self._revocations = security.revocations
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="stream-lstm guard", daemon=True
        )
        self._thread.start()
        ready.wait(START_S)

    def watch(self, socket: Socket, rule: Inbound | None, redial: Redial | None = None) -> None:
        """Watch a socket from now on, which is not bound or connected yet.

        redial: takes the reports on the endpoints of a socket that connects; None for one that is
        to be bound.
        """
        name, heard = f"inproc://guard.{socket.underlying}", threading.Event()
        socket.monitor(name, EVENTS)
        self._new.put((name, rule, redial, heard))
        self._wake_write.send(b"\0")
        # libzmq stands still at the first report, with the interpreter's lock, until it is heard
        heard.wait(START_S)

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
                self._turn(zap, poller)
        except zmq.ContextTerminated:
            return
        finally:
            for door in self._doors.values():
                door.monitor.close(linger=0)
            zap.close(linger=0)
            self._wake_read.close()
            self._wake_write.close()

    def _turn(self, zap: Socket, poller: zmq.Poller) -> None:
        watching = any(door.connections for door in self._doors.values())
        for ready, _ in poller.poll(int(LOOK_S * 1000) if watching else None):
            if ready is zap:
                zap.send_multipart(self._answer(zap.recv_multipart()))
            elif isinstance(ready, zmq.Socket):
                self._hear(self._doors[ready], poller)
            else:
                self._wake_read.recv(4096)
                self._admit(poller)
        now = time.monotonic()
        if watching and now - self._looked >= LOOK_S:
            for door in self._doors.values():
                self._look(door, now - self._looked)
            self._looked = now
            self._revoke()

    def _answer(self, request: list[bytes]) -> list[bytes]:
        """Return the reply to a question of libzmq's: 200 lets the peer in."""
        number = request[1] if len(request) > 1 else b""
        credentials = request[6:]
        if len(request) == 7 and request[5] == b"CURVE" and len(credentials[0]) == 32:
            key = z85.encode(credentials[0])
            if key in self._security.clients:
                return [b"1.0", number, b"200", b"OK", key, b""]
        self._security.refuse("unknown_key")
        return [b"1.0", number, b"400", b"not on the list", b"", b""]

    def _admit(self, poller: zmq.Poller) -> None:
        while not self._new.empty():
            name, rule, redial, heard = self._new.get()
            monitor = self._context.socket(zmq.PAIR)
            # libzmq waits for room when it reports: its own thread must never
            monitor.setsockopt(zmq.RCVHWM, 0)
            monitor.setsockopt(zmq.LINGER, 0)
            monitor.connect(name)
            self._doors[monitor] = _Door(monitor, rule, redial)
            poller.register(monitor, zmq.POLLIN)
            heard.set()

    def _hear(self, door: _Door, poller: zmq.Poller) -> None:
        while door.monitor.poll(0):
            heard = recv_monitor_message(door.monitor)
            event, value = int(heard["event"]), int(heard["value"])
            if door.redial is not None:
                self._report(door.redial, event, value, heard["endpoint"])
            if event in (zmq.EVENT_ACCEPTED, zmq.EVENT_CONNECTED):
                self._connected(door, value, heard["endpoint"].decode(errors="replace"))
            elif event == zmq.EVENT_DISCONNECTED:
                door.connections.pop(value, None)
            elif event == zmq.EVENT_MONITOR_STOPPED:
                poller.unregister(door.monitor)
                del self._doors[door.monitor]
                door.monitor.close(linger=0)
                return
            elif event not in TRIED:
                self._failed(door, event, value)

    def _report(self, redial: Redial, event: int, value: int, endpoint: bytes) -> None:
        address = endpoint.decode(errors="replace")
        if event in TRIED:
            redial.report("tried", address)
        elif event == zmq.EVENT_CONNECTED:
            redial.report("connected", address)
        elif event == zmq.EVENT_DISCONNECTED:
            redial.report("ended", address)
        elif event == AUTH:
            redial.report("refused", address, "it did not let us in")
        elif event == PROTOCOL:
            other = value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
            why = "one of us has keys and the other has not" if other else "its handshake failed"
            redial.report("refused", address, why)

    def _failed(self, door: _Door, event: int, value: int) -> None:
        if not door.bound:
            self._security.refuse("not_admitted")
        elif event == PROTOCOL:
            reasons: dict[int, Reason] = {
                zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "no_key",
                zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "bad_key",
            }
            self._security.refuse(reasons.get(value, "protocol"))
        elif event == FAILED:
            self._security.refuse("timeout" if value == errno.EAGAIN else "left")

    def _connected(self, door: _Door, fd: int, address: str) -> None:
        with contextlib.suppress(OSError):
            connection = _Connection(fd, os.fstat(fd).st_ino, address)
            door.connections[fd] = connection
            if door.bound and len(door.connections) > MAX_PEERS:
                self._cut(door, connection, "too_many_peers")

    # ---- floods -----------------------------------------------------------------------

    def _look(self, door: _Door, passed_s: float) -> None:
        """Look at what every connection has brought since the last look."""
        rule = door.rule
        # While its owner waits, all that came is taken, but for parts of messages.
        settled = isinstance(rule, Inbound) and rule.settled
        taken = 0
        if isinstance(rule, Inbound) and settled:
            taken, door.taken = rule.taken - door.taken, rule.taken
        for connection in list(door.connections.values()):
            brought = _bytes_received(connection)
            if brought is None:
                if door.redial is not None and not _is_there(connection):
                    del door.connections[connection.fd]
                    door.redial.report("ended", connection.address)
                continue
            new, connection.seen = brought - connection.seen, brought
            if isinstance(rule, Inbound):
                connection.unsettled += new
                if settled:
                    beyond = connection.unsettled - WIRE_SHARE * taken
                    connection.unsettled = 0
                    connection.pressed = connection.pressed + beyond if beyond > 0 else 0.0
                if connection.pressed > rule.limit:
                    self._cut(door, connection, "endless_message")
            else:
                connection.pressed = max(0.0, connection.pressed + new - REFILL * passed_s)
                if connection.pressed > self._most():
                    self._cut(door, connection, "too_many_subscriptions")

    def _revoke(self) -> None:
        """Reset every connection to us if a key was taken off the list since the last look."""
        if self._revocations == self._security.revocations:
            return
        self._revocations = self._security.revocations
        for door in self._doors.values():
            if door.bound:
                for connection in list(door.connections.values()):
                    self._cut(door, connection, "revoked")

    def _most(self) -> int:
        return self._security.config.max_subscriptions * BYTES_OF_SUBSCRIPTION

    def _cut(self, door: _Door, connection: _Connection, reason: Reason) -> None:
        del door.connections[connection.fd]
        with contextlib.suppress(OSError), _held(connection) as held:
            self._security.refuse(reason)
            # reset rather than ended: what still waits in the kernels is of no use to anybody
            held.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
            held.shutdown(sockets.SHUT_RDWR)


@contextlib.contextmanager
def _held(connection: _Connection) -> Iterator[sockets.socket]:
    """Give the connection as a socket of our own; OSError if the descriptor is not its own now."""
    with sockets.socket(fileno=os.dup(connection.fd)) as held:
        if os.fstat(held.fileno()).st_ino != connection.inode:
            raise OSError("the connection is gone")
        yield held


def _is_there(connection: _Connection) -> bool:
    """Return whether the connection is open: libzmq does not report one that it ends itself."""
    try:
        return os.fstat(connection.fd).st_ino == connection.inode
    except OSError:
        return False


def _bytes_received(connection: _Connection) -> int | None:
    """Return what a TCP connection has brought so far, None if it is gone or is none."""
    if sys.platform != "linux":
        return None
    try:
        with _held(connection) as held:
            info = held.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, 192)
            return int(struct.unpack_from("=Q", info, TCP_INFO_BYTES_RECEIVED)[0])
    except (OSError, struct.error):
        return None


_guards: weakref.WeakKeyDictionary[zmq.Context[Any], Guard] = weakref.WeakKeyDictionary()


def guard_of(context: zmq.Context[Any], security: Security) -> Guard:
    """Return the guard of a context, which starts with its first socket."""
    guard = _guards.get(context)
    if guard is None:
        guard = _guards[context] = Guard(context, security)
    return guard
