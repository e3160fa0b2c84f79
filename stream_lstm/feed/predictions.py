"""Publishes predictions and scores, and receives them.

Unlike ticks they never wait for a subscriber, since the daemon must not stop for one: above the
high-water mark of a slow subscriber its messages are dropped. Every prediction has its `n`, so
the loss shows, and the store contains it.

What all readers of sockets share: one caller at a time, timeouts, closing and asyncio.

A subclass creates its sockets in `_context`, lists in `_sockets` those that wake it, and reads
them in `_receive`.

In asyncio a cancellation loses nothing: a call reads messages only after its last wait, and
`async for` saves the rest of a batch for the next call of any kind. `zmq.asyncio` does the
waiting: it handles libzmq's edge-triggered descriptors, and event loops that cannot watch them.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Generic, Self, TypeAlias, TypeVar

import zmq

from ..closing import Closing
from ..errors import DecodeError, UsageError
from ..events import NO_TIME, End, Prediction, Score
from ..schema import Encoding
from .callers import BUSY, CLOSED, Usage, milliseconds, names, seconds, text, whole
from .endpoints import UNLIMITED, Connections, open_socket
from .guard import MAX_WAIT_S, Inbound
from .protocol import (
    MAX_FRAME_BYTES,
    MAX_MESSAGE_BYTES,
    Heartbeat,
    encode_heartbeat,
    encode_prediction,
    encode_score,
    make_topic,
    parse_topic,
    prefixes,
)
from .publisher import DRAIN_EVERY, LINGER_S, SEND_HWM, open_publisher
from .security import Security
from .wire import decode_heartbeat, decode_prediction, decode_score

Event = TypeVar("Event")

RULE = (
    "another thread or task waits in it, or a signal handler called it in the middle of a call. "
    "One at a time may: make one for each thread and task, or hand its events on by a queue"
)


class Receiver(Closing, Generic[Event]):
    """A reader; `name` is its name in messages.

    An event loop, a thread and a signal handler may use one reader, but not at the same time.
    """

    _sockets: tuple[zmq.Socket[Any], ...]

    def __init__(self, name: str, inbound: Inbound) -> None:
        self._usage = Usage(name, RULE)
        self._inbound = inbound
        self._context: zmq.Context[Any] = zmq.Context()
        self._saved: deque[Event] = deque()  # read by `async for`, not yet returned

    def _receive(self, timeout_s: float) -> list[Event]:
        """Return what is waiting, or arrives within `timeout_s` seconds (0 or more, or infinite).

        Raises by `Usage.refuse` if the reader is closed while it waits.
        """
        raise NotImplementedError

    def _pause_s(self, left_s: float) -> float:
        """Return the seconds, at most `left_s`, after which `_receive` has something to do."""
        return left_s

    def receive(self, timeout_s: float | None) -> list[Event]:
        """Return the events of what is waiting, or of a message that arrives in time.

        timeout_s: seconds to wait; 0 or less only looks, None or infinity waits without limit.

        Returns an empty list after the timeout, and for messages without an event, such as
        heartbeats; a reader of predictions then waits for the next message. Raises UsageError for
        an invalid time, during a call of another thread or task, in a forked child, and after
        `close`, also if the reader is closed during this call.
        """
        if type(timeout_s) is not float or not timeout_s >= 0.0:
            timeout_s = seconds("timeout_s", timeout_s)
        usage = self._usage
        if usage.blocked:
            usage.refuse()
        usage.blocked = BUSY  # no call since the test: see `callers`
        try:
            return self._take_saved() if self._saved else self._receive(timeout_s)
        finally:
            usage.blocked = ""
            if usage.closing:
                self._shut()

    def _take_saved(self) -> list[Event]:
        saved = list(self._saved)
        self._saved.clear()
        return saved

    def _exclusive(self) -> AbstractContextManager[None]:
        return self._usage.exclusive(self._shut)

    # ---- asyncio -------------------------------------------------------------------------

    async def receive_async(self, timeout_s: float | None = None) -> list[Event]:
        """Return the events of what is waiting, or of what arrives within `timeout_s` seconds.

        timeout_s: None waits without limit. Returns an empty list only after the timeout. A
        cancellation loses no message. Raises what `receive` raises, and UsageError for an event
        loop that cannot watch a socket.
        """
        import asyncio  # here, since a daemon that never awaits starts faster without it

        wait_s = seconds("timeout_s", timeout_s)
        with self._exclusive():
            # Other tasks run, and a cancellation arrives, however fast the feed is.
            await asyncio.sleep(0)
            if self._saved:
                return self._take_saved()
            clock = asyncio.get_running_loop().time
            deadline = clock() + wait_s
            while True:
                events = self._receive(0.0)  # raises if the reader is being closed
                left_s = deadline - clock()
                if events or left_s <= 0:
                    return events
                await self._readable(self._pause_s(min(left_s, MAX_WAIT_S)))

    async def _readable(self, timeout_s: float) -> None:
        """Wait until a socket may have a message."""
        import asyncio

        import zmq.asyncio as zmq_asyncio

        poller = zmq_asyncio.Poller()
        for socket in self._sockets:
            poller.register(socket, zmq.POLLIN)
        self._inbound.signals = tuple(int(socket.getsockopt(zmq.FD)) for socket in self._sockets)
        self._inbound.waiting = True
        try:
            await poller.poll(milliseconds(timeout_s))
        except (RuntimeError, NotImplementedError) as error:
            raise UsageError(
                f"{type(asyncio.get_running_loop()).__name__} cannot watch a socket, so "
                f"{self._usage.name} cannot be awaited in it: {error}"
            ) from None
        finally:
            self._inbound.waiting = False
            self._inbound.signals = ()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Return the next event; iteration ends when the reader is closed."""
        if not self._saved:
            try:
                events = await self.receive_async()
            except UsageError:
                if self._usage.closing and not self._usage.forked:
                    raise StopAsyncIteration from None
                raise
            self._saved.extend(events)
        return self._saved.popleft()

    # ---- closing -------------------------------------------------------------------------

    def close(self) -> None:
        """Close the sockets.

        Any thread may close. A waiting call in another thread or task then raises UsageError
        within a second. In a forked child nothing happens.
        """
        if not self._usage.forked:
            self._usage.closing = True
            self._shut()

    def _shut(self) -> None:
        usage = self._usage
        if usage.blocked:
            return  # already closed, or the call in progress closes at its end
        usage.blocked = CLOSED
        self._context.destroy(linger=0)


MAX_MESSAGES = 4096
"""Messages taken together: they take 20 ms, then the caller can look at its clock."""

_EVENTS, _POLLIN, _SNDMORE = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.SNDMORE)

Output: TypeAlias = Prediction | Score | End


class PredictionPublisher(Closing):
    """Publish predictions and scores at one endpoint.

    bind: endpoint; with port `*` or 0 the system chooses one, and `endpoint` is the actual one.
    security: keys, and who may connect; None has no keys, and binds only addresses of this
    machine.

    Raises EndpointError if the endpoint cannot be bound, and ConfigurationError if it must not be.
    """

    def __init__(
        self,
        bind: str,
        encoding: Encoding = "msgpack",
        *,
        send_hwm: int = SEND_HWM,
        security: Security | None = None,
    ) -> None:
        self._encoding = encoding
        self._sends = 0
        self._scores_wanted = False
        self._context: zmq.Context[Any] = zmq.Context()
        try:
            self._socket, self._subscriptions, self._binding = open_publisher(
                self._context, bind, security or Security(), send_hwm=send_hwm, linger_s=LINGER_S
            )
        except BaseException:
            self._context.destroy(linger=0)
            raise
        # The methods below pyzmq's routing, tracking and enumerations.
        self._send_frame: Any = super(zmq.Socket, self._socket).send
        self._get: Any = super(zmq.Socket, self._socket).get
        self.endpoint = self._binding.endpoint

    def publish(self, prediction: Prediction) -> None:
        """Send a prediction."""
        self._send(encode_prediction(prediction, self._encoding))

    def publish_score(self, score: Score) -> None:
        """Send a score if a subscriber wants scores: most want only predictions."""
        if self._get(_EVENTS) & _POLLIN:
            self._update_subscriptions()
        if self._scores_wanted:
            self._send(encode_score(score, self._encoding))

    def _update_subscriptions(self) -> None:
        self._subscriptions.update()
        self._scores_wanted = self._subscriptions.wanted(b"score/")

    def heartbeat(
        self,
        stream: str,
        next_n: int,
        *,
        run_id: str = "",
        t_ns: int = NO_TIME,
        stale: bool = False,
        status: str = "",
    ) -> None:
        """Announce that a stream is alive and that `next_n` is its next element.

        stale: its feed is silent. status: of the stream.
        """
        beat = Heartbeat(stream, next_n, run_id, t_ns, stale=stale, status=status)
        self._send(encode_heartbeat(beat, self._encoding))

    def end(self, stream: str, next_n: int = 1, *, run_id: str = "") -> None:
        """Announce the end of a stream."""
        beat = Heartbeat(stream, next_n, run_id, end=True)
        self._send(encode_heartbeat(beat, self._encoding))

    def _send(self, frames: tuple[bytes, bytes]) -> None:
        self._sends += 1
        if self._sends % DRAIN_EVERY == 0:
            self._update_subscriptions()
        # Two sends cost a third of `send_multipart`, which checks its frames first.
        send = self._send_frame
        send(frames[0], _SNDMORE)
        send(frames[1])

    def wait_for_subscribers(
        self, count: int, timeout_s: float | None, *, stream: str | None = None
    ) -> int:
        """Wait until `count` open subscriptions match the predictions of a stream, or of any.

        Returns their number. Raises EndpointError after `timeout_s` seconds; None waits without
        limit.
        """
        topic = b"prediction/" if stream is None else make_topic("prediction", stream)
        wait_s = seconds("timeout_s", timeout_s)
        try:
            return self._subscriptions.wait(topic, count, wait_s)
        finally:
            self._update_subscriptions()

    def close(self) -> None:
        """Close the socket; queued messages have LINGER_S seconds to leave."""
        self._socket.close()
        self._context.term()
        self._binding.close()


MAX_STATUSES = 100_000
"""Streams whose status is kept, as many as a session has."""


class PredictionSubscriber(Receiver[Output]):
    """Receive predictions and scores of some streams, or of all, in one thread at a time.

    `heard` counts messages including heartbeats, and `refused` those that could not be decoded;
    `stale` is whether the daemon's feed was silent at its last heartbeat, and `statuses` are those
    of the streams at theirs. security: keys, if any;
    `security` counts how often the publisher rejected us.

    Raises EndpointError for an invalid endpoint.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        streams: Iterable[str] = (),
        receive_hwm: int = SEND_HWM,
        security: Security | None = None,
    ) -> None:
        self.heard = 0
        self.refused = 0
        self.stale = False
        self.statuses: dict[str, str] = {}
        text("endpoint", endpoint)
        named = names("streams", streams)
        receive_hwm = whole("receive_hwm", receive_hwm, 0)
        self._wanted = frozenset(named)
        self.security = security or Security()
        super().__init__("PredictionSubscriber", Inbound(MAX_MESSAGE_BYTES))
        try:
            self._socket = open_socket(
                self._context,
                zmq.SUB,
                send_hwm=UNLIMITED,
                receive_hwm=receive_hwm,
                max_frame_bytes=MAX_FRAME_BYTES,
            )
            # libzmq sends them in alphabetical order, so that scores are subscribed to last
            for topic in prefixes(("heartbeat", "prediction", "score"), named):
                self._socket.setsockopt(zmq.SUBSCRIBE, topic)
            self._sockets = (self._socket,)
            self._connections = Connections(self._socket, [endpoint], self.security, self._inbound)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def _receive(self, timeout_s: float) -> list[Output]:
        """Wait for a message up to `timeout_s` seconds and return the events, in order.

        Heartbeats count as messages, but only an end is returned.
        """
        out: list[Output] = []
        deadline = time.monotonic() + timeout_s
        left_s = timeout_s
        while not out and left_s >= 0:
            if self._connections.redial.pending:
                self._connections.maintain(time.monotonic())
            self._inbound.waiting = True
            readable = self._socket.poll(math.ceil(min(left_s, MAX_WAIT_S) * 1000), zmq.POLLIN)
            self._inbound.waiting = False
            if self._usage.closing:
                self._usage.refuse()
            if readable:
                self._take(out)
            elif left_s <= MAX_WAIT_S:
                break
            left_s = deadline - time.monotonic()
        return out

    def _take(self, out: list[Output]) -> None:
        for _ in range(MAX_MESSAGES):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.heard += 1
            self._inbound.taken += len(frames[-1])
            try:
                event = self._decode(frames)
            except DecodeError:
                self.refused += 1
                continue
            if event is not None:
                out.append(event)

    def _decode(self, frames: list[bytes]) -> Output | None:
        if len(frames) != 2:
            raise DecodeError(f"{len(frames)} frames; expected topic and payload")
        topic, payload = frames
        kind, stream, _ = parse_topic(topic)
        if self._wanted and stream not in self._wanted:
            return None
        if kind == "prediction":
            return decode_prediction(topic, payload)
        if kind == "score":
            return decode_score(topic, payload)
        if kind == "heartbeat":
            beat = decode_heartbeat(topic, payload)
            self.stale = beat.stale
            if beat.stream in self.statuses or len(self.statuses) < MAX_STATUSES:
                self.statuses[beat.stream] = beat.status
            return End(beat.stream, beat.run_id) if beat.end else None
        raise DecodeError(f"topic {topic!r} is not of predictions")
