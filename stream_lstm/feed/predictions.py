"""Predictions and scores go out to whoever listens, and come in where someone does.

Unlike ticks they never wait for a subscriber: at the high-water mark of a slow one its messages
are dropped, since the daemon must not stop for it. Every prediction carries its `n`, so that the
loss shows, and is in the store.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any, TypeAlias

import zmq

from ..closing import Closing
from ..errors import DecodeError
from ..events import NO_TIME, End, Prediction, Score
from ..schema import Encoding
from .callers import names, seconds, text, whole
from .endpoints import ALL, ASKING_BUFFER, Binding, Connections, open_socket
from .guard import PIECE_S, Inbound
from .publisher import DRAIN_EVERY, LINGER_S, SEND_HWM, Subscriptions
from .receiver import Receiver
from .records import (
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
from .security import Security
from .wire import decode_heartbeat, decode_prediction, decode_score

MAX_DRAIN = 4096
"""Messages taken at once: the caller gets to look at its clock every 20 ms at the latest."""

_EVENTS, _POLLIN, _SNDMORE = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.SNDMORE)

Output: TypeAlias = Prediction | Score | End


class PredictionPublisher(Closing):
    """Publish predictions and scores at one endpoint.

    bind: endpoint; port `*` or 0 lets the system choose, and `endpoint` tells which.
    security: keys, and who may connect; None has none, and binds only what this machine alone can
    reach.

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
        self._scores = False
        self._context: zmq.Context[Any] = zmq.Context()
        try:
            self._socket = open_socket(
                self._context,
                zmq.XPUB,
                send_hwm=send_hwm,
                linger_s=LINGER_S,
                receive_buffer=ASKING_BUFFER,
            )
            # Past the layer of pyzmq that is for routing, tracking and enumerations.
            self._send_frame: Any = super(zmq.Socket, self._socket).send
            self._get: Any = super(zmq.Socket, self._socket).get
            self._subscriptions = Subscriptions(self._socket)
            self._binding = Binding(self._socket, bind, security or Security())
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self.endpoint = self._binding.endpoint

    def publish(self, prediction: Prediction) -> None:
        """Send a prediction."""
        self._send(encode_prediction(prediction, self._encoding))

    def publish_score(self, score: Score) -> None:
        """Send a score, if a subscriber wants scores: most want predictions alone."""
        if self._get(_EVENTS) & _POLLIN:
            self._look()
        if self._scores:
            self._send(encode_score(score, self._encoding))

    def _look(self) -> None:
        """See who subscribed."""
        self._subscriptions.drain()
        self._scores = self._subscriptions.wanted(b"score/")

    def heartbeat(
        self,
        stream: str,
        next_n: int,
        *,
        session: str = "",
        t_ns: int = NO_TIME,
        stale: bool = False,
    ) -> None:
        """Say that a stream is alive and that element `next_n` is its next.

        stale: the feed that it comes from has fallen silent.
        """
        self._beat(Heartbeat(stream, next_n, session, t_ns, stale=stale))

    def end(self, stream: str, next_n: int = 1, *, session: str = "") -> None:
        """Say that nothing more will come of a stream."""
        self._beat(Heartbeat(stream, next_n, session, end=True))

    def _beat(self, beat: Heartbeat) -> None:
        self._send(encode_heartbeat(beat, self._encoding))

    def _send(self, frames: tuple[bytes, bytes]) -> None:
        self._sends += 1
        if self._sends % DRAIN_EVERY == 0:
            self._look()
        # Two sends cost a third of `send_multipart`, which looks at its frames first.
        send = self._send_frame
        send(frames[0], _SNDMORE)
        send(frames[1])

    def wait_for_subscribers(
        self, count: int, timeout_s: float | None, *, stream: str | None = None
    ) -> int:
        """Wait until `count` open subscriptions match the predictions of a stream, or of any.

        Returns how many do. Raises EndpointError after `timeout_s` seconds; None waits
        without limit.
        """
        topic = b"prediction/" if stream is None else make_topic("prediction", stream)
        wait_s = seconds("timeout_s", timeout_s)
        try:
            return self._subscriptions.wait(topic, count, wait_s)
        finally:
            self._look()

    def close(self) -> None:
        """Close the socket; what was sent has LINGER_S seconds to leave."""
        self._socket.close()
        self._context.term()
        self._binding.close()


class PredictionSubscriber(Receiver[Output]):
    """Receive predictions and scores of some streams, or of all, in one thread at a time.

    `heard` counts messages, heartbeats included, and `refused` those that could not be read;
    `stale` says whether the daemon's feed had fallen silent by its last heartbeat. security: keys;
    None has none. `security` counts how often we were not let in.

    Raises EndpointError for an endpoint that cannot be.
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
                send_hwm=ALL,
                receive_hwm=receive_hwm,
                max_frame_bytes=MAX_FRAME_BYTES,
            )
            # predictions last: who sees that subscription knows that the others are in place
            for topic in prefixes(("heartbeat", "score", "prediction"), named):
                self._socket.setsockopt(zmq.SUBSCRIBE, topic)
            self._sockets = (self._socket,)
            self._connections = Connections(self._socket, [endpoint], self.security, self._inbound)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def _receive(self, timeout_s: float) -> list[Output]:
        """Wait for a message up to `timeout_s` seconds and return what came, in order.

        Heartbeats are awaited like any message, but only an end is returned.
        """
        out: list[Output] = []
        deadline = time.monotonic() + timeout_s
        left_s = timeout_s
        while not out and left_s >= 0:
            if self._connections.redial.restless:
                self._connections.tend(time.monotonic())
            self._inbound.waiting = True
            came = self._socket.poll(math.ceil(min(left_s, PIECE_S) * 1000), zmq.POLLIN)
            self._inbound.waiting = False
            if self._turns.closing:
                self._turns.refuse()
            if came:
                self._drain(out)
            elif left_s <= PIECE_S:
                break
            left_s = deadline - time.monotonic()
        return out

    def _drain(self, out: list[Output]) -> None:
        for _ in range(MAX_DRAIN):
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
            raise DecodeError(f"{len(frames)} frames, where topic and payload belong")
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
            return End(beat.stream, beat.session) if beat.end else None
        raise DecodeError(f"topic {topic!r} is not of predictions")
