"""Ticks come in: from sockets, through decoding and sequence numbers, as events in order.

`receive` takes what is waiting up to a bound, or else waits for one message, so that a daemon
that has fallen behind catches up in blocks: ticks of one stream that follow each other without
a gap are joined into one `Ticks` (see `drain`). What the messages mean is read in `intake`.

Of several endpoints each has a SUB socket, read in turns (see `fan_in`), since a socket does not
say whose message it gives. Who may send which stream is decided in `intake`.

Where recovery endpoints are configured, what is missing is asked for there (see `recovery`),
between two messages and without waiting: the sockets for it stand beside the other in the poller.

A payload above MAX_PAYLOAD_BYTES is refused like any other. A frame above MAX_FRAME_BYTES is not
even received: libzmq drops that connection for good, and the endpoint is dialled again (see
`redial`).

Several SUB sockets, one for each endpoint, behind the two calls that a `Subscriber` makes.

A SUB socket does not say which peer a message came from. With a socket for each endpoint the
message's socket says it. Endpoints take turns: a turn ends after `TURN` messages, or fewer large
ones, so that none starves another.
"""

from __future__ import annotations

import math
import selectors
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import zmq

from ..errors import ConfigurationError, UsageError
from ..schema import FeedConfig
from .callers import names
from .endpoints import ALL, Connections, open_socket
from .guard import PIECE_S, Inbound, Redial
from .intake import MAX_DRAIN_BYTES, Drain, Intake, Received
from .receiver import Receiver
from .records import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, prefixes
from .recovery import FeedRecovery, RecoveryLink
from .security import Security
from .sequence import FeedCounters, Owners

TURN = 64
"""What an endpoint may send in a row: a message counts as one, and as one more for each KiB of its
last frame. Longer turns would gain little: a turn costs one look at each idle socket."""

UNIT_BITS = 10

_EVENTS, _POLLIN, _FD = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.FD)


class Inlet(NamedTuple):
    """The SUB socket of one endpoint."""

    endpoint: str
    socket: zmq.Socket[Any]
    connections: Connections


def getter(socket: zmq.Socket[Any]) -> Callable[[int], Any]:
    """Return what reads an option, past the layer of pyzmq that makes an enumeration of it."""
    get: Callable[[int], Any] = super(zmq.Socket, socket).get
    return get


class FanIn:
    """Reads the sockets of inlets as if they were one.

    turn_to: is called with the place of the inlet that the next message comes from, where that
    changes. clock: seconds, monotonic.
    """

    def __init__(
        self,
        inlets: Sequence[Inlet],
        turn_to: Callable[[int], object],
        clock: Callable[[], float],
    ) -> None:
        self._inlets = tuple(inlets)
        self._gets = tuple(getter(inlet.socket) for inlet in inlets)
        self._turn_to, self._clock = turn_to, clock
        self._place, self._left = 0, TURN
        self._more = False
        self._selector: selectors.BaseSelector | None = None

    # ---- as a socket ------------------------------------------------------------------

    def get(self, option: int) -> int:
        """Return the events of all sockets together; `option` is `zmq.EVENTS`."""
        events = 0
        for get in self._gets:
            events |= get(option)
        return events

    def recv(self, flags: int, copy: bool) -> Any:
        """Return the next frame; the frames of one message come from one socket.

        Raises zmq.Again where nothing waits.
        """
        if not self._more:
            self._choose()
        frame: Any = self._inlets[self._place].socket.recv(flags, copy)
        self._more = frame.more
        if not frame.more:
            self._left -= 1 + (len(frame) >> UNIT_BITS)
        return frame

    def _choose(self) -> None:
        """Turn to an inlet with a message, which is the present one while its turn lasts.

        Where none has a message the present one stays, and reading it says so.
        """
        first = self._place + (self._left <= 0)
        for step in range(len(self._gets)):
            place = (first + step) % len(self._gets)
            if self._gets[place](_EVENTS) & _POLLIN:
                if place != self._place or self._left <= 0:
                    self._left = TURN
                if place != self._place:
                    self._place = place
                    self._turn_to(place)
                return

    def fileno(self) -> int:
        """Return a descriptor that can be read where that of one socket can be."""
        if self._selector is None:
            self._selector = selectors.DefaultSelector()
            for get in self._gets:
                self._selector.register(get(_FD), selectors.EVENT_READ)
        return int(self._selector.fileno())  # type: ignore[attr-defined]  # epoll and kqueue

    def close(self) -> None:
        """Close the descriptor; the context closes the sockets."""
        if self._selector is not None:
            self._selector.close()

    # ---- as connections ---------------------------------------------------------------

    @property
    def restless(self) -> bool:
        """Whether `tend` has something to look at."""
        return any(inlet.connections.redial.restless for inlet in self._inlets)

    def tend(self, now: float) -> None:
        """Dial what is due; `now` is in seconds, monotonic."""
        for inlet in self._inlets:
            if inlet.connections.redial.restless:
                inlet.connections.tend(now)

    def gone(self, place: int) -> bool:
        """Return whether an endpoint has lost its connection, with nothing left to read of it."""
        inlet = self._inlets[place]
        redial = inlet.connections.redial
        if redial.restless:
            inlet.connections.tend(self._clock())
        return redial.lost(inlet.endpoint) and not self._gets[place](_EVENTS) & _POLLIN


MAX_DRAIN = 1024
"""Messages taken at once: some 10 ms of single ticks, after which the caller may look around."""

SPINS = 64
"""Looks at the socket between two at the wake-up, which cost more."""

MAX_ENDPOINTS = 200
"""Each takes four descriptors, of which a process usually may have 1024."""

_NOBLOCK = int(zmq.NOBLOCK)


class Subscriber(Receiver[Received]):
    """Receive the streams of a feed, in one thread at a time.

    config: endpoints, streams, columns and kind of payload.
    apart: streams do not act on each other, so that ticks of one may be joined across others.
    clock: seconds, monotonic; `idle_s` and recovery read it.
    wakeup_fd: a file descriptor that ends the wait in `receive` when it can be read.
    security: keys; None has none.

    `taken_at` is when the taking of the last messages began, by the clock, and `queue_age_s` the
    longest that one of them can have waited for it in our socket.

    Raises ConfigurationError for a feed without endpoint or columns, with more than MAX_ENDPOINTS
    endpoints, or with recovery that cannot be,
    and EndpointError for an endpoint that cannot be connected to. A publisher that is not there
    yet is no error.
    """

    def __init__(
        self,
        config: FeedConfig,
        *,
        apart: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wakeup_fd: int | None = None,
        security: Security | None = None,
    ) -> None:
        names("connect", config.connect)
        if not config.connect:
            raise ConfigurationError("connect is empty: name an endpoint", key="connect")
        endpoints = tuple(dict.fromkeys(config.connect))
        if len(endpoints) > MAX_ENDPOINTS:
            raise ConfigurationError(
                f"connect names {len(endpoints)} endpoints, and {MAX_ENDPOINTS} is the most: put "
                "a proxy between (XSUB and XPUB), or run several daemons",
                key="connect",
            )
        self._apart = apart
        self._owners: Owners | None = None
        if len(endpoints) > 1:
            self._owners = Owners(config.takeover, endpoints, self._is_gone)
        self.intake = Intake(config, self._owners)
        self._clock = clock
        self._busy_s = config.busy_poll
        self._last_message = self.taken_at = self._emptied_at = clock()
        self.queue_age_s = 0.0
        super().__init__("Subscriber", Inbound(MAX_MESSAGE_BYTES))
        try:
            security = security or Security()
            inlets = [self._open(config, endpoint, security) for endpoint in endpoints]
            self.sockets = tuple(inlet.socket for inlet in inlets)
            self._fan_in: FanIn | None = None
            # What is read, asked and tended: the parts of one inlet, or of all of them together.
            self._socket: Any = inlets[0].socket
            self._get = getter(inlets[0].socket)
            self._connections: Connections | FanIn = inlets[0].connections
            self._redial: Redial | FanIn = inlets[0].connections.redial
            if self._owners is not None:
                self._fan_in = FanIn(inlets, self.intake.turn_to, clock)
                self._get, self._connections = self._fan_in.get, self._fan_in
                self._socket = self._redial = self._fan_in
            self._link = RecoveryLink(self._context, config.recovery, security, self._inbound)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._poller = zmq.Poller()
        self._sockets = *self.sockets, *self._link.sockets
        for socket in self._sockets:
            self._poller.register(socket, zmq.POLLIN)
        if wakeup_fd is not None:
            self._poller.register(wakeup_fd, zmq.POLLIN)

    @property
    def counters(self) -> FeedCounters:
        """What has come so far."""
        return self.intake.counters

    def _open(self, config: FeedConfig, endpoint: str, security: Security) -> Inlet:
        """Return a SUB socket that is subscribed, and connected to an endpoint."""
        socket = open_socket(
            self._context,
            zmq.SUB,
            send_hwm=ALL,
            receive_hwm=config.receive_hwm,
            max_frame_bytes=MAX_FRAME_BYTES,
        )
        for topic in _subscriptions(config):
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        connections = Connections(socket, [endpoint], security, self._inbound)
        return Inlet(endpoint, socket, connections)

    def _is_gone(self, place: int) -> bool:
        return self._fan_in is not None and self._fan_in.gone(place)

    @property
    def socket(self) -> zmq.Socket[Any]:
        """The SUB socket, for a poller that watches other sockets too.

        Raises UsageError where there are several; `sockets` are all of them.
        """
        if self._owners is not None:
            raise UsageError("a feed of several endpoints has several sockets: poll `sockets`")
        return self.sockets[0]

    @property
    def idle_s(self) -> float:
        """Seconds since the last message, or since the start.

        What came from an endpoint that does not own its stream does not count.
        """
        return self._clock() - self._last_message

    def fileno(self) -> int:
        """Return libzmq's edge-triggered descriptor; call `receive` until it gives nothing."""
        if self._fan_in is not None:
            return self._fan_in.fileno()
        return int(self.sockets[0].getsockopt(zmq.FD))

    def resume(self, stream: str, session: str, next_seq: int | None) -> None:
        """Go on where an earlier process stopped: what was missed since then is asked for.

        Where it cannot be, it is a gap. `next_seq` is the number that is due, None for a feed
        without numbers. To be called before anything is received. Raises ConfigurationError for
        more streams than there may be.
        """
        self.intake.resume(stream, session, next_seq)

    def _receive(self, timeout_s: float) -> list[Received]:
        """Return the events of what is waiting, or of a message that comes in time.

        Empty after the timeout, when `wakeup_fd` can be read and nothing came, and for messages
        that say nothing new, such as a heartbeat, or that have to wait for others.
        """
        drain = Drain(apart=self._apart)
        if self._redial.restless or self._link.sockets:
            self._tend()
        recovery = self.intake.recovery
        released = 0
        if recovery is not None and recovery.active:
            released = self._recover(recovery, drain)
        if self._waits():
            taken = self.drain(drain, MAX_DRAIN - released)
        elif not drain.empty:
            taken = 0
        elif self._wait(timeout_s if recovery is None else self._patience(recovery, timeout_s)):
            # It came this moment: looking for a second one would only hold it up.
            taken = self.drain(drain, 1, True)
        elif recovery is None:
            return []
        else:
            taken = 0
            self._recover(recovery, drain)
        self._inbound.taken += drain.size
        if taken and (self._owners is None or self._owners.heard(taken)):
            self._last_message = self.taken_at
        if recovery is not None and recovery.streams:
            recovery.turn(self._clock())
            self._link.send(recovery.outgoing)
        return drain.finish()

    def _tend(self) -> None:
        """Dial the endpoints again that libzmq has given up."""
        now = self._clock()
        if self._redial.restless:
            self._connections.tend(now)
        for endpoint in self._link.tend(now):
            assert self.intake.recovery is not None
            self.intake.recovery.greet(endpoint, now)

    def _recover(self, recovery: FeedRecovery, drain: Drain) -> int:
        """Take the answers that have come; return how many messages need not wait any more."""
        for endpoint, payload in self._link.answers():
            self.intake.answer(endpoint, payload, drain, self._clock())
            if drain.size >= MAX_DRAIN_BYTES:
                break
        recovery.turn(self._clock())
        released = self.intake.release(drain, MAX_DRAIN)
        self._link.send(recovery.outgoing)
        return released

    def _patience(self, recovery: FeedRecovery, timeout_s: float) -> float:
        """Return for how many seconds nothing has to be done but for what comes."""
        if recovery.ready:
            return 0.0
        return max(0.0, min(timeout_s, recovery.deadline - self._clock()))

    def _pause_s(self, left_s: float) -> float:
        recovery = self.intake.recovery
        return left_s if recovery is None else self._patience(recovery, left_s)

    @property
    def waiting(self) -> bool:
        """Whether a message waits to be received."""
        with self._turn():
            return self._waits()

    def _waits(self) -> bool:
        return bool(self._get(_EVENTS) & _POLLIN)

    def _wait(self, timeout_s: float) -> bool:
        """Return whether a message came in time, after a spell without sleeping if asked."""
        if self._busy_s:
            deadline = self._clock() + min(self._busy_s, timeout_s)
            while self._clock() < deadline:
                if any(self._waits() for _ in range(SPINS)):
                    return True
                if self._poller.poll(0):
                    break
        while True:
            piece_s = min(timeout_s, PIECE_S)
            self._inbound.waiting = True
            ready = self._poller.poll(math.ceil(piece_s * 1000))
            self._inbound.waiting = False
            timeout_s -= piece_s
            if self._turns.closing:
                self._turns.refuse()
            if ready or timeout_s <= 0:
                return any(source in self.sockets for source, _ in ready)
            self._tend()

    def drain(self, drain: Drain, most: int, awaited: bool = False) -> int:
        """Take up to `most` messages of those waiting into `drain`; return how many.

        awaited: nothing waited until this moment.
        """
        began = self.taken_at = self._clock()
        self.queue_age_s = 0.0 if awaited else began - self._emptied_at
        recv, take_next, taken = self._socket.recv, self.intake.take_next, 0
        size, room = 0, MAX_DRAIN_BYTES - drain.size
        while taken < most and size < room:
            try:
                # A frame knows whether more belongs to its message; asking the socket is dearer.
                topic = recv(_NOBLOCK, False)
            except zmq.Again:
                break
            taken += 1
            if topic.more:
                frame = recv(_NOBLOCK, False)
                payload = frame.bytes
                if not frame.more and take_next(topic.bytes, payload, drain):
                    size += len(payload)
                else:
                    self._take_long(topic, frame, drain)
                    room = MAX_DRAIN_BYTES - drain.size
            else:
                self._take_long(topic, topic, drain)
                room = MAX_DRAIN_BYTES - drain.size
            # Asking is cheaper than the exception of an empty socket, which ends a backlog once.
            if taken == 1 < most and not self._waits():
                break
        if awaited or taken < most:
            self._emptied_at = began
        drain.size += size
        return taken

    def _take_long(self, topic: Any, frame: Any, drain: Drain) -> None:
        """Take a message of any kind, read up to `frame`, with what belongs to it."""
        frames = [topic.bytes] if frame is topic else [topic.bytes, frame.bytes]
        while frame.more:
            frame = self._socket.recv(_NOBLOCK, False)
            frames.append(frame.bytes)
        drain.size += len(frames[-1])
        self.intake.take(frames, drain)

    def _shut(self) -> None:
        if self._fan_in is not None and not self._turns.barred:
            self._fan_in.close()
        super()._shut()


def _subscriptions(config: FeedConfig) -> list[bytes]:
    """Return the prefixes to subscribe to, those of ticks last; see `subscriptions`."""
    if config.payload != "record":
        return [(config.topic or "").encode()]
    return prefixes(("label", "heartbeat", "tick"), config.streams)
