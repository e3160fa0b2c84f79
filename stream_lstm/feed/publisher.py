"""Ticks go out, numbered, with heartbeats and an end.

An XPUB socket that does not drop: at its high-water mark a send waits for the slowest subscriber,
so that a replay at full speed loses nothing on the way, and gives up after a time. A tick gets
its number when it has been taken by the socket; one that was not taken is not counted.

A heartbeat carries a stream's next number, so that a loss at the end shows, and the names of the
columns, so that nobody takes one for another. The caller's loop asks
for heartbeats as often as it likes and the publisher sends them when they are due. Those of a
stream that has ended say so again, to who missed it.

With a recovery endpoint what was sent is kept in a ring, and subscribers get from there what they
lost, or what was sent before they came; see `ring` and `recovery_server`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import zmq

from ..closing import Closing
from ..errors import ConfigurationError, EndpointError, UsageError
from ..events import NO_TIME
from ..tables import Encoding
from .encode import Frames, encode_heartbeat, encode_ticks
from .endpoints import ASKING_BUFFER, Binding, open_socket
from .records import MAX_COLUMN_BYTES, MAX_COLUMNS, Heartbeat
from .recovery_server import RecoveryServer
from .ring import RING_TICKS, Ring
from .security import Security
from .subscriptions import Subscriptions
from .topics import make_topic

SEND_HWM = 100_000
"""Messages that may wait for a subscriber: a minute's pause at 1,600 ticks a second."""

SEND_TIMEOUT_S = 30.0
"""Longer than a peer that is gone takes to be noticed: only a live one that stalls ends us."""

LINGER_S = 2.0
"""Time for the last messages to leave after closing; stopping may take 5 s in all."""

DRAIN_EVERY = 1024
"""Sends between looks at who subscribed: rare enough to cost nothing."""


class _Stream:
    __slots__ = ("ended", "next_seq", "t_ns")

    def __init__(self) -> None:
        self.ended = False
        self.next_seq = 1
        self.t_ns = NO_TIME


class Publisher(Closing):
    """Publish ticks of any number of streams at one endpoint.

    bind: endpoint; port `*` or 0 lets the system choose, and `endpoint` tells which.
    columns: names of the values, in their order.
    heartbeat_s: seconds between heartbeats; `clock` gives seconds, monotonic.
    send_hwm: messages that may wait for one subscriber before a send waits.
    send_timeout_s: seconds that a send waits for the slowest subscriber.
    session: id of this start of the publisher; None makes one.
    linger_s: seconds that `close` waits for what is still queued; an attribute that may be set.
    recovery: endpoint at which lost ticks are asked for; `recovery_endpoint` tells the actual one.
    ring: ticks of each stream that are kept for that.
    security: keys, and who may connect; None has none, and binds only what this machine alone can
    reach.

    Raises EndpointError if an endpoint cannot be bound, and ConfigurationError if it must not be,
    or for columns without names of their own.
    """

    def __init__(
        self,
        bind: str,
        *,
        columns: Sequence[str],
        encoding: Encoding = "msgpack",
        heartbeat_s: float = 1.0,
        send_hwm: int = SEND_HWM,
        send_timeout_s: float = SEND_TIMEOUT_S,
        session: str | None = None,
        linger_s: float = LINGER_S,
        recovery: str | None = None,
        ring: int = RING_TICKS,
        security: Security | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not columns:
            raise ConfigurationError("columns is empty: name the values", key="columns")
        if len(columns) > MAX_COLUMNS or any(len(c.encode()) > MAX_COLUMN_BYTES for c in columns):
            raise ConfigurationError(
                f"columns may be {MAX_COLUMNS:,} names of {MAX_COLUMN_BYTES} bytes each at most",
                key="columns",
            )
        if len(set(columns)) < len(columns):
            twice = ", ".join(columns)
            raise ConfigurationError(f"columns names a value twice: {twice}", key="columns")
        if ring < 1:
            raise ConfigurationError(f"ring={ring}: keep one tick of each stream, or more")
        self.columns = tuple(columns)
        self.session = secrets.token_hex(8) if session is None else session
        self.linger_s = linger_s
        self._encoding = encoding
        self._heartbeat_s = heartbeat_s
        self._send_timeout_s = send_timeout_s
        self._clock = clock
        self._heartbeat_due = clock() + heartbeat_s
        self._streams: dict[str, _Stream] = {}
        self._sends = 0
        self._context: zmq.Context[Any] = zmq.Context()
        try:
            self._socket = open_socket(
                self._context, zmq.XPUB, send_hwm=send_hwm, receive_buffer=ASKING_BUFFER
            )
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
            self._socket.setsockopt(zmq.SNDTIMEO, int(send_timeout_s * 1000))
            self._subscriptions = Subscriptions(self._socket)
            self.security = security or Security()
            self._binding = Binding(self._socket, bind, self.security)
            self._recover_from(recovery, ring)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self.endpoint = self._binding.endpoint

    def _recover_from(self, endpoint: str | None, ticks: int) -> None:
        self._ring: Ring | None = None
        self._server: RecoveryServer | None = None
        if endpoint is None:
            return
        self._ring = Ring(len(self.columns), ticks=ticks)
        told = self._ring, self.session, self.columns
        self._server = RecoveryServer(
            self._context, endpoint, *told, security=self.security, clock=self._clock
        )

    @property
    def recovery_endpoint(self) -> str | None:
        """Where lost ticks are asked for, None where they are not kept."""
        return None if self._server is None else self._server.endpoint

    def still_asked(self, patience_s: float) -> bool:
        """Return whether somebody asks for lost ticks: to be waited for before closing.

        That is so for a while after a request, and for `patience_s` seconds after one whose sender
        has had a part of what it wants, and is likely to ask on.
        """
        return self._server is not None and self._server.still_asked(patience_s)

    def publish(self, stream: str, t_ns: npt.ArrayLike, values: npt.ArrayLike) -> int:
        """Send one tick, `values` (C,), or a block, `values` (n, C), as one message.

        `t_ns` is nanoseconds since 1970: a number, or int64 (n,) for a block. Returns the number
        of the first tick. Raises UsageError for a wrong shape or name, and EndpointError when a
        subscriber takes nothing for `send_timeout_s`; then nothing was sent or numbered.
        """
        try:
            values = np.asarray(values, np.float64)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"ticks of {stream!r}: values are numbers in the order of the columns "
                f"{', '.join(self.columns)}: {error}"
            ) from None
        shape = values.shape
        if not shape or shape[-1] != len(self.columns):
            raise UsageError(
                f"ticks of {stream!r}: values of shape {shape} are not of the columns "
                f"{', '.join(self.columns)}"
            )
        state = self._streams.get(stream) or _Stream()
        seq = state.next_seq
        frames = encode_ticks(
            stream, t_ns, values, session=self.session, seq=seq, encoding=self._encoding
        )
        if seq == 1:
            self._beat(stream, end=False)  # whose columns are not ours must not take a tick
        self._send(frames)
        if self._ring is not None:
            self._ring.append(stream, seq, t_ns, values)
        state.next_seq += 1 if len(shape) == 1 else shape[0]
        state.t_ns = t_ns if type(t_ns) is int else int(np.ravel(t_ns)[-1])
        state.ended = False
        self._streams[stream] = state
        return seq

    def heartbeat(self) -> bool:
        """Send every stream's heartbeat if they are due, and return whether they were."""
        now = self._clock()
        if now < self._heartbeat_due:
            return False
        self._heartbeat_due = now + self._heartbeat_s
        self._subscriptions.drain()
        for stream, state in self._streams.items():
            self._beat(stream, end=state.ended)
        return True

    def end(self, stream: str | None = None) -> None:
        """Say that no more will come of a stream, or of all of them."""
        for name in list(self._streams) if stream is None else [stream]:
            self._beat(name, end=True)

    def _beat(self, stream: str, *, end: bool) -> None:
        state = self._streams.get(stream) or _Stream()
        state.ended = end
        beat = Heartbeat(
            stream, state.next_seq, self.session, state.t_ns, end, columns=self.columns
        )
        self._send(encode_heartbeat(beat, self._encoding))

    def _send(self, frames: Frames) -> None:
        self._sends += 1
        if self._sends % DRAIN_EVERY == 0:
            self._subscriptions.drain()
        try:
            self._socket.send_multipart(frames)
        except zmq.ZMQError as error:
            if self._socket.closed:
                raise UsageError("the publisher is closed: nothing more can be sent") from None
            if error.errno != zmq.EAGAIN:
                raise
            raise EndpointError(
                f"a subscriber of {self.endpoint} took nothing for {self._send_timeout_s:g} s: "
                "stop it, or raise the send timeout"
            ) from None

    def wait_for_subscribers(
        self, count: int, timeout_s: float, *, stream: str | None = None
    ) -> int:
        """Wait until `count` open subscriptions match the ticks of a stream, or of any.

        Returns how many do; see `subscriptions` for what is counted. Raises EndpointError after
        `timeout_s` seconds.
        """
        topic = b"tick/" if stream is None else make_topic("tick", stream)
        return self._subscriptions.wait(topic, count, timeout_s)

    def close(self) -> None:
        """Close the sockets; what was sent has `linger_s` seconds to leave."""
        if self._server is not None:
            self._server.close()
        self._socket.close(linger=int(self.linger_s * 1000))
        self._context.term()
        self._binding.close()
