"""Ticks come in: from sockets, through decoding and sequence numbers, as events in order.

`receive` takes what is waiting up to a bound, or else waits for one message, so that a daemon
that has fallen behind catches up in blocks: ticks of one stream that follow each other without
a gap are joined into one `Ticks` (see `drain`). What cannot be read and what must not pass becomes
a `Refusal` that says why; every case is counted.

The order of the events is the order of arrival, with a `SessionStart` and then a `Gap` before the
ticks that showed them. An `End` comes once for a session of a stream.

Nearly every message is the one tick that is due of a stream that is known. It takes a short way
here (`_take_next`), which does what the long one would; whatever it does not recognise goes the
long way.

A payload above MAX_PAYLOAD_BYTES is refused like any other. A frame above MAX_FRAME_BYTES is not
even received: libzmq drops that connection for good, which shows here as silence (`idle_s`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgspec
import zmq

from ..errors import ConfigurationError, DecodeError
from ..events import End, Gap, Label, Refusal, SessionStart, Ticks
from ..tables import FeedConfig
from .drain import Drain, Received
from .endpoints import connect, open_socket
from .foreign import ForeignDecoder
from .guard import Inbound
from .records import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_PAYLOAD_BYTES, Heartbeat
from .security import Security
from .sequence import StreamSequence, Verdict
from .topics import make_topic
from .wire import Message, MessageDecoder, OneTickDecoder

MAX_DRAIN = 1024
"""Messages taken at once: some 10 ms of single ticks, after which the caller may look around."""

MAX_DRAIN_BYTES = 2 * MAX_PAYLOAD_BYTES
"""No more messages are taken once this much has come: bounds memory where they are blocks."""

SPINS = 64
"""Looks at the socket between two at the wake-up, which cost more."""

_EVENTS, _POLLIN, _NOBLOCK = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK)


class FeedCounters(msgspec.Struct):
    """What has come so far.

    `ticks` passed; `repeats` and `old` are ticks that did not; `missed` ticks were in `gaps`
    gaps; `refused` messages could not be read or belonged to a stream too many.
    """

    messages: int = 0
    ticks: int = 0
    labels: int = 0
    heartbeats: int = 0
    sessions: int = 0
    streams: int = 0
    refused: int = 0
    gaps: int = 0
    missed: int = 0
    repeats: int = 0
    old: int = 0


class _Route:
    """A topic of ticks whose stream is known; `single` while its messages are of one tick."""

    __slots__ = ("sequence", "single", "stream", "where")

    def __init__(self, stream: str, where: str, sequence: StreamSequence) -> None:
        self.stream, self.where, self.sequence = stream, where, sequence
        self.single = True


class Subscriber:
    """Receive the streams of a feed.

    config: endpoints, streams, columns and kind of payload.
    apart: streams do not act on each other, so that ticks of one may be joined across others.
    clock: seconds, monotonic; only `idle_s` reads it.
    wakeup_fd: a file descriptor that ends the wait in `receive` when it can be read.
    security: keys; None has none.

    `max_streams` is the configured one, and may be set: each stream holds some 700 bytes here and
    a carry in the session, and a topic is easily forged.

    Raises ConfigurationError for a feed without endpoint or columns, and EndpointError for an
    endpoint that cannot be connected to. A publisher that is not there yet is no error.
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
        if not config.connect:
            raise ConfigurationError("connect is empty: name an endpoint", key="connect")
        self.counters = FeedCounters()
        self.max_streams = config.max_streams
        self._apart = apart
        self._records = MessageDecoder(config.columns)
        self.one_tick = OneTickDecoder(config.columns)
        self._routes: dict[bytes, _Route] = {}
        self._foreign = None if config.payload == "record" else ForeignDecoder(config)
        self._streams: dict[str, StreamSequence] = {}
        self._ended: dict[str, str] = {}
        self._clock = clock
        self._busy_s = config.busy_poll
        self._last_message = clock()
        self._context: zmq.Context[Any] = zmq.Context()
        self._inbound = Inbound(MAX_MESSAGE_BYTES)
        try:
            room = {"receive_hwm": config.receive_hwm, "max_frame_bytes": MAX_FRAME_BYTES}
            self._socket = open_socket(self._context, zmq.SUB, **room)
            for topic in _subscriptions(config):
                self._socket.setsockopt(zmq.SUBSCRIBE, topic)
            connect(self._socket, config.connect, security or Security(), self._inbound)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        if wakeup_fd is not None:
            self._poller.register(wakeup_fd, zmq.POLLIN)

    @property
    def socket(self) -> zmq.Socket[Any]:
        """The SUB socket, for a poller that watches other sockets too."""
        return self._socket

    @property
    def idle_s(self) -> float:
        """Seconds since the last message, or since the start."""
        return self._clock() - self._last_message

    def fileno(self) -> int:
        """Return libzmq's edge-triggered descriptor; call `receive` until it gives nothing."""
        return int(self._socket.getsockopt(zmq.FD))

    def resume(self, stream: str, session: str, next_seq: int | None) -> None:
        """Go on where an earlier process stopped: what was missed since then is a gap.

        `next_seq` is the number that is due, None for a feed without numbers. Raises
        ConfigurationError for more than `max_streams` streams.
        """
        state = self._state(stream)
        if state is None:
            raise ConfigurationError(
                f"more than {self.max_streams} streams to resume", key="max_streams"
            )
        state.resume(session, next_seq)

    def receive(self, timeout_s: float) -> list[Received]:
        """Return the events of what is waiting, or of a message that comes within `timeout_s` s.

        Empty after the timeout, when `wakeup_fd` can be read and nothing came, and for messages
        that say nothing new, such as a heartbeat.
        """
        drain = Drain(apart=self._apart)
        if self.waiting:
            self.drain(drain, MAX_DRAIN)
        elif self._wait(timeout_s):
            # It came this moment: looking for a second one would only hold it up.
            self.drain(drain, 1)
        else:
            return []
        self._inbound.taken += drain.size
        self._last_message = self._clock()
        return drain.finish()

    @property
    def waiting(self) -> bool:
        """Whether a message waits to be received."""
        # by number: the name would cost as much as the question
        return bool(int(self._socket.get(_EVENTS)) & _POLLIN)

    def _wait(self, timeout_s: float) -> bool:
        """Return whether a message came in time, after a spell without sleeping if asked."""
        if self._busy_s:
            deadline = self._clock() + min(self._busy_s, timeout_s)
            while self._clock() < deadline:
                if any(self.waiting for _ in range(SPINS)):
                    return True
                if self._poller.poll(0):
                    break
        self._inbound.waiting = True
        ready = self._poller.poll(math.ceil(timeout_s * 1000))
        self._inbound.waiting = False
        return any(source is self._socket for source, _ in ready)

    def drain(self, drain: Drain, most: int) -> int:
        """Take up to `most` messages of those waiting into `drain`; return how many."""
        recv, taken = self._socket.recv, 0
        while taken < most and drain.size < MAX_DRAIN_BYTES:
            try:
                # A frame knows whether more belongs to its message; asking the socket is dearer.
                frame = recv(_NOBLOCK, False)
            except zmq.Again:
                break
            frames = [frame.bytes]
            while frame.more:
                frame = recv(_NOBLOCK, False)
                frames.append(frame.bytes)
            drain.size += len(frames[-1])
            if not (len(frames) == 2 and self._take_next(frames[0], frames[1], drain)):
                self._take(frames, drain)
            taken += 1
            # Asking is cheaper than the exception of an empty socket, which ends a backlog once.
            if taken == 1 < most and not self.waiting:
                break
        return taken

    def _take_next(self, topic: bytes, payload: bytes, drain: Drain) -> bool:
        """Take the one tick that is due of a known stream; return whether it was that."""
        route = self._routes.get(topic)
        if route is None or not route.single:
            return False
        tick = self.one_tick.decode(payload)
        if tick is None:
            route.single = False
            return False
        t_ns, values, session, seq = tick
        sequence = route.sequence
        if seq != sequence.next_seq or session != sequence.session:
            return False
        if seq is not None:
            sequence.next_seq = seq + 1
        self.counters.messages += 1
        self.counters.ticks += 1
        drain.add_one(route.stream, session, seq, route.where, t_ns, values)
        return True

    def _take(self, frames: list[bytes], drain: Drain) -> None:
        self.counters.messages += 1
        try:
            message = self.decode(frames)
        except DecodeError as error:
            self._refuse(drain, "", str(error), _shown(frames))
            return
        match message:
            case Ticks():
                self._ticks(message, drain)
                self._learn_route(frames, message)
            case Label():
                self.counters.labels += 1
                drain.add(message)
            case Heartbeat():
                self._heartbeat(message, drain)

    def _learn_route(self, frames: list[bytes], ticks: Ticks) -> None:
        """Let the next tick of this topic take the short way, if this could have."""
        if self._foreign is not None or ticks.stream not in self._streams:
            return
        route = self._routes.get(frames[0])
        if route is None:
            sequence = self._streams[ticks.stream]
            route = self._routes[frames[0]] = _Route(ticks.stream, ticks.where, sequence)
        route.single = len(ticks.t_ns) == 1

    def decode(self, frames: list[bytes]) -> Message | None:
        """Return what a message says, None for one of no interest; raises DecodeError."""
        if self._foreign is not None:
            return self._foreign.decode(frames)
        if len(frames) != 2:
            raise DecodeError(
                f"{len(frames)} frames, where topic and payload belong; for a feed that is not "
                'of this protocol set payload = "json" or "float64"'
            )
        return self._records.decode(frames[0], frames[1])

    def _refuse(self, drain: Drain, stream: str, reason: str, where: str) -> None:
        self.counters.refused += 1
        drain.add(Refusal(stream, "message", reason, where=where))

    def _state(self, stream: str) -> StreamSequence | None:
        """Return the stream's sequence, None if it is a stream too many."""
        state = self._streams.get(stream)
        if state is None and len(self._streams) < self.max_streams:
            state = self._streams[stream] = StreamSequence()
            self.counters.streams += 1
        return state

    def _ticks(self, ticks: Ticks, drain: Drain) -> None:
        state = self._state(ticks.stream)
        if state is None:
            self._too_many(drain, ticks.stream)
            return
        count = len(ticks.t_ns)
        due = state.next_seq
        verdict = state.ticks(ticks.session, ticks.seq, count)
        self._judge(ticks.stream, ticks.session, ticks.seq or 0, verdict, drain)
        self.counters.ticks += count - verdict.skip
        if verdict.skip:
            drain.add(_not_new(ticks, verdict, due))
            if verdict.skip == count:
                return
            ticks = _without(ticks, verdict.skip)
        drain.add_ticks(ticks)

    def _heartbeat(self, beat: Heartbeat, drain: Drain) -> None:
        self.counters.heartbeats += 1
        state = self._state(beat.stream)
        if state is None:
            self._too_many(drain, beat.stream)
            return
        verdict = state.heartbeat(beat.session, beat.seq)
        self._judge(beat.stream, beat.session, beat.seq, verdict, drain)
        if not beat.end or verdict.late_session:
            return
        if self._ended.get(beat.stream) != beat.session:
            self._ended[beat.stream] = beat.session
            drain.add(End(beat.stream, beat.session))

    def _too_many(self, drain: Drain, stream: str) -> None:
        self._refuse(drain, stream, f"more than {self.max_streams} streams; name those wanted", "")

    def _judge(self, stream: str, session: str, seq: int, verdict: Verdict, drain: Drain) -> None:
        """Count what a verdict says, and put it in the row of events."""
        if verdict.starts:
            self.counters.sessions += 1
            self._ended.pop(stream, None)
            drain.add(SessionStart(stream, session))
        if verdict.missed:
            self.counters.gaps += 1
            self.counters.missed += verdict.missed
            drain.add(Gap(stream, seq, verdict.missed))
        self.counters.repeats += verdict.repeats
        self.counters.old += verdict.old

    def close(self) -> None:
        """Close the socket."""
        self._context.destroy(linger=0)

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _subscriptions(config: FeedConfig) -> list[bytes]:
    """Return the prefixes to subscribe to, those of ticks last; see `subscriptions`."""
    if config.payload != "record":
        return [(config.topic or "").encode()]
    kinds = ("label", "heartbeat", "tick")
    if not config.streams:
        return [f"{kind}/".encode() for kind in kinds]
    return [make_topic(kind, stream) for kind in kinds for stream in config.streams]


def _without(ticks: Ticks, skip: int) -> Ticks:
    assert ticks.seq is not None
    return Ticks(
        ticks.stream,
        ticks.t_ns[skip:],
        ticks.values[skip:],
        ticks.session,
        ticks.seq + skip,
        ticks.where,
    )


def _not_new(ticks: Ticks, verdict: Verdict, due: int | None) -> Refusal:
    if verdict.late_session:
        reason = f"{verdict.skip} ticks of session {ticks.session!r}, which another has replaced"
    else:
        assert ticks.seq is not None
        last = ticks.seq + verdict.skip - 1
        reason = (
            f"sequence numbers {ticks.seq} to {last} are {verdict.repeats} repeats and "
            f"{verdict.old} that come too late, {due} being due; a publisher that starts to "
            "number afresh must send a new session id"
        )
    return Refusal(ticks.stream, "tick", reason, index=0, where=ticks.where)


def _shown(frames: list[bytes]) -> str:
    return repr(frames[0][:80]) if len(frames) > 1 else ""
