"""Receives ticks: from sockets, through decoding and sequence numbers, as events in order.

`receive` takes the waiting messages up to a bound, or waits for one message, so a daemon that has
fallen behind catches up in blocks. `intake` interprets the messages and decides which endpoint may
send which stream.

A SUB socket does not say which peer sent a message, so a feed with several endpoints has one
socket for each. `FanIn` reads them by turns: a turn ends after TURN messages, or fewer large ones,
so no endpoint starves another.

If recovery endpoints are configured, missing ticks are requested there between two messages,
without waiting; the sockets for it are in the same poller.

A payload above MAX_PAYLOAD_BYTES is refused like any other invalid message. libzmq drops a
connection that sends a frame above MAX_FRAME_BYTES, and the endpoint is redialled (see `guard`).
"""

from __future__ import annotations

import math
import re
import selectors
import time
from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import zmq

from ..errors import ConfigurationError, UsageError
from ..schema import FeedConfig
from .callers import names
from .declared import JUDGED_S, EventBatch, Received
from .endpoints import UNLIMITED, Binding, Connections, open_socket
from .guard import MAX_WAIT_S, Inbound
from .intake import MAX_BATCH_BYTES, Intake
from .predictions import Receiver
from .protocol import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, prefixes
from .recovery import FeedRecovery, RecoveryLink
from .security import Security
from .sequence import FeedCounters, Owners

TURN = 64
"""What an endpoint may send in a row: a message counts as one, and one more for each KiB of its
last frame. Longer turns would gain little: a turn costs one look at each idle socket."""

UNIT_BITS = 10

_EVENTS, _POLLIN, _FD = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.FD)


class Inlet(NamedTuple):
    """The socket of one endpoint; `get` reads an option without pyzmq's enumerations.

    `attached` is a `Binding` for an endpoint that publishers connect to.
    """

    endpoint: str
    socket: zmq.Socket[Any]
    attached: Connections | Binding
    get: Callable[[int], Any]

    def maintain(self, now: float) -> None:
        """Redial the endpoint if libzmq has given it up."""
        if isinstance(self.attached, Connections) and self.attached.redial.pending:
            self.attached.maintain(now)

    @property
    def lost(self) -> bool:
        """Whether its connection is lost; a bound endpoint never counts as lost."""
        if isinstance(self.attached, Binding):
            return False
        return self.attached.redial.lost(self.endpoint) and not self.get(_EVENTS) & _POLLIN


def feed_endpoints(config: FeedConfig) -> tuple[str, ...]:
    """Return the endpoints of a feed, each once: those to connect to, and those to bind."""
    names("connect", config.connect)
    names("bind_feed", config.bind_feed)
    return tuple(dict.fromkeys((*config.connect, *config.bind_feed)))


def open_inlet(
    context: zmq.Context[Any],
    config: FeedConfig,
    endpoint: str,
    security: Security,
    inbound: Inbound,
) -> Inlet:
    """Return a socket that is subscribed, and connected to an endpoint or bound to it."""
    pull = config.feed_socket == "pull"
    socket = open_socket(
        context,
        zmq.PULL if pull else zmq.SUB,
        send_hwm=UNLIMITED,
        receive_hwm=config.receive_hwm,
        max_frame_bytes=MAX_FRAME_BYTES,
    )
    for topic in () if pull else _subscriptions(config):
        socket.setsockopt(zmq.SUBSCRIBE, topic)
    attached: Connections | Binding
    if endpoint in config.bind_feed:
        attached = Binding(socket, endpoint, security, inbound)
        endpoint = attached.endpoint
    else:
        attached = Connections(socket, [endpoint], security, inbound)
    return Inlet(endpoint, socket, attached, super(zmq.Socket, socket).get)


class FanIn:
    """Reads several inlets like one socket.

    select: called with the index of the inlet that sends the next message, when it changes.
    """

    def __init__(self, inlets: Sequence[Inlet], select: Callable[[int], object]) -> None:
        self._inlets = tuple(inlets)
        self._gets = tuple(inlet.get for inlet in inlets)
        self._select = select
        self._index, self._left = 0, TURN
        self._more = False
        self._selector: selectors.BaseSelector | None = None

    def get(self, option: int) -> int:
        """Return the events of all sockets together; `option` is `zmq.EVENTS`."""
        events = 0
        for get in self._gets:
            events |= get(option)
        return events

    def recv(self, flags: int, copy: bool) -> Any:
        """Return the next frame; all frames of a message come from one socket.

        Raises zmq.Again without a message.
        """
        if not self._more:
            self._choose()
        frame: Any = self._inlets[self._index].socket.recv(flags, copy)
        self._more = frame.more
        if not frame.more:
            self._left -= 1 + (len(frame) >> UNIT_BITS)
        return frame

    def _choose(self) -> None:
        """Switch to an inlet with a message: the present one during its turn, or the next.

        Without a message the present one stays, and reading it raises zmq.Again.
        """
        first = self._index + (self._left <= 0)
        for step in range(len(self._gets)):
            index = (first + step) % len(self._gets)
            if self._gets[index](_EVENTS) & _POLLIN:
                if index != self._index or self._left <= 0:
                    self._left = TURN
                if index != self._index:
                    self._index = index
                    self._select(index)
                return

    def fileno(self) -> int:
        """Return a descriptor that is readable when that of a socket is."""
        if self._selector is None:
            self._selector = selectors.DefaultSelector()
            for get in self._gets:
                self._selector.register(get(_FD), selectors.EVENT_READ)
        return int(self._selector.fileno())  # type: ignore[attr-defined]  # epoll and kqueue

    def close(self) -> None:
        """Close the descriptor; the context closes the sockets."""
        if self._selector is not None:
            self._selector.close()


MAX_MESSAGES = 1024
"""Messages taken together: some 10 ms of single ticks, after which the caller can do its work."""

SPINS = 64
"""Looks at the socket between two at the wake-up, which cost more."""

MAX_ENDPOINTS = 200
"""Each takes four descriptors; a process usually has 1024."""

_NOBLOCK = int(zmq.NOBLOCK)


class Subscriber(Receiver[Received]):
    """Receive the streams of a feed, in one thread at a time.

    config: endpoints, streams, columns and kind of payload.
    optional: columns that a message may omit, which gives NaN.
    independent: streams do not affect each other, so ticks of one may be joined across others.
    clock: seconds, monotonic; used by `idle_s` and recovery.
    wakeup_fd: a file descriptor that ends the wait in `receive` when it is readable.
    security: keys, if any.

    `taken_at` is the clock's time when the last messages were taken, and `queue_age_s` the longest
    that one of them can have waited in our socket.

    Raises ConfigurationError for a feed without endpoint or columns, with more than MAX_ENDPOINTS
    endpoints, or with invalid recovery, and EndpointError for an endpoint that cannot be connected
    to. A publisher that is not there yet is not an error.
    """

    def __init__(
        self,
        config: FeedConfig,
        *,
        optional: Container[str] = (),
        independent: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wakeup_fd: int | None = None,
        security: Security | None = None,
    ) -> None:
        endpoints = feed_endpoints(config)
        if not endpoints:
            raise ConfigurationError("connect is empty: name an endpoint", key="connect")
        if len(endpoints) > MAX_ENDPOINTS:
            raise ConfigurationError(
                f"connect names {len(endpoints)} endpoints, and {MAX_ENDPOINTS} is the most: put "
                "a proxy between (XSUB and XPUB), or run several daemons",
                key="connect",
            )
        self._independent = independent
        self._owners: Owners | None = None
        if len(endpoints) > 1:
            self._owners = Owners(config.takeover, endpoints, self._is_gone)
        self.intake = Intake(config, self._owners, optional)
        self._inlets: list[Inlet] = []
        self._clock = clock
        self._busy_s = config.busy_poll
        self._last_message = self.taken_at = self._emptied_at = clock()
        self.queue_age_s = 0.0
        super().__init__("Subscriber", Inbound(MAX_MESSAGE_BYTES))
        try:
            security = security or Security()
            for endpoint in endpoints:
                inlet = open_inlet(self._context, config, endpoint, security, self._inbound)
                self._inlets.append(inlet)
            self._link = RecoveryLink(self._context, config.recovery, security, self._inbound)
        except BaseException:
            self._context.destroy(linger=0)
            self._release()
            raise
        self.sockets = tuple(inlet.socket for inlet in self._inlets)
        self._fan_in = None
        self._socket: Any = self.sockets[0]
        self._get = self._inlets[0].get
        if self._owners is not None:
            self._fan_in = self._socket = FanIn(self._inlets, self.intake.select_endpoint)
            self._get = self._fan_in.get
        self._poller = zmq.Poller()
        self._sockets = *self.sockets, *self._link.sockets
        for socket in self._sockets:
            self._poller.register(socket, zmq.POLLIN)
        if wakeup_fd is not None:
            self._poller.register(wakeup_fd, zmq.POLLIN)

    @property
    def counters(self) -> FeedCounters:
        """Counts since the start."""
        return self.intake.counters

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints, with the port that the system chose for `*`."""
        return tuple(inlet.endpoint for inlet in self._inlets)

    def _is_gone(self, index: int) -> bool:
        """Return whether an endpoint has lost its connection, with no message left to read."""
        inlet = self._inlets[index]
        inlet.maintain(self._clock())
        return inlet.lost

    @property
    def socket(self) -> zmq.Socket[Any]:
        """The SUB socket, for a poller that watches other sockets too.

        Raises UsageError if there are several; `sockets` are all of them.
        """
        if self._owners is not None:
            raise UsageError("a feed with several endpoints has several sockets: poll `sockets`")
        return self.sockets[0]

    @property
    def idle_s(self) -> float:
        """Seconds since the last message, or since the start.

        Messages from an endpoint that does not own their stream do not count.
        """
        return self._clock() - self._last_message

    def fileno(self) -> int:
        """Return libzmq's edge-triggered descriptor; call `receive` until it returns nothing."""
        if self._fan_in is not None:
            return self._fan_in.fileno()
        return int(self.sockets[0].getsockopt(zmq.FD))

    def resume(self, stream: str, run_id: str, next_seq: int | None) -> None:
        """Continue where an earlier process stopped, and request what was missed since then.

        Ticks that cannot be requested are a gap. `next_seq` is the next number, None for a feed
        without numbers. Call it before anything is received. Raises ConfigurationError for too
        many streams.
        """
        self.intake.resume(stream, run_id, next_seq)

    def _receive(self, timeout_s: float) -> list[Received]:
        """Return the events of what is waiting, or of a message that arrives in time.

        Empty after the timeout, when `wakeup_fd` is readable, and for messages without an event,
        such as a heartbeat, or that have to wait for others.
        """
        batch = EventBatch(independent=self._independent)
        self._maintain()
        if self.intake.undecided and self._clock() >= self._last_message + JUDGED_S:
            self.intake.decide(batch)
        recovery = self.intake.recovery
        released = 0
        if recovery is not None and recovery.active:
            released = self._recover(recovery, batch)
        taken = 0
        if self._has_message():
            taken = self.take(batch, MAX_MESSAGES - released)
        elif batch.empty:
            if self._wait(self._pause_s(timeout_s)):
                # It has just arrived: looking for a second one would only delay it.
                taken = self.take(batch, 1, True)
            elif recovery is None:
                return []
            else:
                self._recover(recovery, batch)
        self._inbound.taken += batch.size
        if taken and (self._owners is None or self._owners.any_accepted(taken)):
            self._last_message = self.taken_at
        if recovery is not None and recovery.streams:
            recovery.poll(self._clock())
            self._link.send(recovery.outgoing)
        return batch.finish()

    def _maintain(self) -> None:
        """Redial the endpoints that libzmq has given up."""
        for inlet in self._inlets:
            inlet.maintain(self._clock())
        if self._link.sockets:
            now = self._clock()
            for index in self._link.maintain(now):
                assert self.intake.recovery is not None
                self.intake.recovery.reconnected(index, now)

    def _recover(self, recovery: FeedRecovery, batch: EventBatch) -> int:
        """Take the replies that have come; return how many queued messages were processed."""
        for index, payload in self._link.replies():
            self.intake.answer(index, payload, batch, self._clock())
            if batch.size >= MAX_BATCH_BYTES:
                break
        recovery.poll(self._clock())
        released = self.intake.release(batch, MAX_MESSAGES)
        self._link.send(recovery.outgoing)
        return released

    def _pause_s(self, left_s: float) -> float:
        recovery = self.intake.recovery
        if self.intake.undecided:
            return min(left_s, JUDGED_S)
        if recovery is None:
            return left_s
        if recovery.ready:
            return 0.0
        return max(0.0, min(left_s, recovery.deadline - self._clock()))

    @property
    def waiting(self) -> bool:
        """Whether a message waits to be received."""
        with self._exclusive():
            return self._has_message()

    def _has_message(self) -> bool:
        return bool(self._get(_EVENTS) & _POLLIN)

    def _wait(self, timeout_s: float) -> bool:
        """Return whether a message arrived in time; poll without sleeping first if configured."""
        if self._busy_s:
            deadline = self._clock() + min(self._busy_s, timeout_s)
            while self._clock() < deadline:
                if any(self._has_message() for _ in range(SPINS)):
                    return True
                if self._poller.poll(0):
                    break
        while True:
            piece_s = min(timeout_s, MAX_WAIT_S)
            self._inbound.waiting = True
            ready = self._poller.poll(math.ceil(piece_s * 1000))
            self._inbound.waiting = False
            timeout_s -= piece_s
            if self._usage.closing:
                self._usage.refuse()
            if ready or timeout_s <= 0:
                return any(source in self.sockets for source, _ in ready)
            self._maintain()

    def take(self, batch: EventBatch, most: int, awaited: bool = False) -> int:
        """Take up to `most` waiting messages into `batch`; return how many.

        awaited: no message was waiting until this moment.
        """
        began = self.taken_at = self._clock()
        self.queue_age_s = 0.0 if awaited else began - self._emptied_at
        recv, take_next, taken = self._socket.recv, self.intake.take_next, 0
        size, room = 0, MAX_BATCH_BYTES - batch.size
        while taken < most and size < room:
            try:
                # A frame knows whether more follow; asking the socket costs more.
                topic = recv(_NOBLOCK, False)
            except zmq.Again:
                break
            taken += 1
            if topic.more:
                frame = recv(_NOBLOCK, False)
                payload = frame.bytes
                if not frame.more and take_next(topic.bytes, payload, batch):
                    size += len(payload)
                else:
                    self._take_any([topic.bytes, payload], frame, batch)
                    room = MAX_BATCH_BYTES - batch.size
            else:
                self._take_any([topic.bytes], topic, batch)
                room = MAX_BATCH_BYTES - batch.size
            # Asking costs less than the exception of an empty socket.
            if taken == 1 < most and not self._has_message():
                break
        if awaited or taken < most:
            self._emptied_at = began
        batch.size += size
        return taken

    def _take_any(self, frames: list[bytes], last: Any, batch: EventBatch) -> None:
        """Take a message of any kind whose frames are read up to `last`."""
        while last.more:
            last = self._socket.recv(_NOBLOCK, False)
            frames.append(last.bytes)
        batch.size += sum(map(len, frames))
        self.intake.take(frames, batch)

    def _shut(self) -> None:
        if self._fan_in is not None and not self._usage.blocked:
            self._fan_in.close()
        was_open = not self._usage.blocked
        super()._shut()
        if was_open:
            self._release()

    def _release(self) -> None:
        """Release the locks of bound endpoints, once their sockets are closed."""
        for inlet in self._inlets:
            if isinstance(inlet.attached, Binding):
                inlet.attached.close()


def _subscriptions(config: FeedConfig) -> list[bytes]:
    """Return the prefixes to subscribe to, ticks last; see `publisher.Subscriptions`."""
    if config.subscribe:
        return list(map(raw_bytes, config.subscribe))
    if config.payload != "record":
        return [(config.topic or "").partition("{}")[0].encode()]
    return prefixes(("label", "heartbeat", "tick"), config.streams)


def raw_bytes(text: str) -> bytes:
    r"""Return the bytes of a topic filter, in which `\x00` and so on are bytes."""

    def byte(found: re.Match[bytes]) -> bytes:
        if found[1]:
            return bytes.fromhex(found[1].decode())
        if found[0] == b"\\\\":
            return b"\\"
        raise ConfigurationError(
            rf"subscribe = {text!r}: write a byte as \x00, and a backslash as \\", key="subscribe"
        )

    return re.sub(rb"\\(?:x([0-9a-fA-F]{2})|\\)?", byte, text.encode())
