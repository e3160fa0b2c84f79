"""Publishes ticks with sequence numbers, heartbeats and an end.

The XPUB socket does not drop: at its high-water mark a send waits for the slowest subscriber, so a
replay at full speed loses nothing, and gives up after a time. A tick gets its number when the
socket takes it; one that the socket does not take is not counted.

A heartbeat contains a stream's next number, so that a loss at the end shows, and the names of the
columns, so that subscribers can compare them with theirs. A thread sends heartbeats and never
waits for a subscriber, since one with a full queue has other messages to read. The heartbeats of
an ended stream repeat the end for subscribers that missed it.

Any thread may use a publisher. A call has it exclusively until its message is sent completely (see
`callers`), so numbers rise in the order of sending and no heartbeat comes between two frames. A
send that waits for a subscriber checks regularly whether the publisher is being closed.

With a recovery endpoint the sent ticks are stored in a ring, from which subscribers get what they
lost, or what was sent before they joined; see `recovery_server`.

`Subscriptions` counts open subscriptions, not subscribers, which ZeroMQ does not tell apart: one
subscriber with two matching prefixes counts twice. A `Subscriber` of this package has one prefix
for each kind of topic and configured stream, ticks last. So for one tick topic the count is the
number of subscribers, and all their subscriptions are in place.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import secrets
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import zmq

from ..closing import Closing, call_in_child
from ..errors import ConfigurationError, EndpointError, StreamLSTMError, UsageError
from ..events import NO_TIME
from ..schema import Encoding
from ..typing import Float64s
from .callers import BUSY, CLOSED, Usage, is_signalled, milliseconds, names, seconds, text, whole
from .endpoints import REQUEST_BUFFER, Binding, open_socket
from .protocol import (
    MAX_COLUMN_BYTES,
    MAX_COLUMNS,
    Frames,
    Heartbeat,
    encode_heartbeat,
    encode_ticks,
    make_topic,
)
from .recovery_server import RING_TICKS, RecoveryServer, Ring
from .security import Security, Socket

MAX_PREFIXES = 100_000
"""Prefixes that are counted, as many as there may be streams; more are served, but not counted."""

LOOK_S = 0.05
"""Between two looks at most: another thread's send may consume the socket's signal."""


class Subscriptions:
    """The open subscriptions at an XPUB socket; makes the socket report each one."""

    def __init__(self, socket: Socket) -> None:
        socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        self._socket = socket
        self._open: Counter[bytes] = Counter()

    def update(self) -> None:
        """Read the reports; unread ones would pile up in the socket."""
        while True:
            try:
                message = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            prefix = message[1:]
            if message[:1] == b"\x01":
                if prefix in self._open or len(self._open) < MAX_PREFIXES:
                    self._open[prefix] += 1
            elif message[:1] == b"\x00" and self._open[prefix] > 1:
                self._open[prefix] -= 1
            else:
                del self._open[prefix]

    def count(self, topic: bytes) -> int:
        """Return how many open subscriptions match a topic.

        A kind without a name, such as `tick/`, matches every subscription for that kind.
        """
        return sum(
            count
            for prefix, count in self._open.items()
            if topic.startswith(prefix) or (topic.count(b"/") == 1 and prefix.startswith(topic))
        )

    def wanted(self, topic: bytes) -> bool:
        """Return whether a subscription matches a topic, or may if too many are open."""
        return len(self._open) >= MAX_PREFIXES or self.count(topic) > 0

    def wait(
        self,
        topic: bytes,
        count: int,
        timeout_s: float,
        exclusive: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> int:
        """Wait until `count` subscriptions match a topic and return their number.

        exclusive: entered for each use of the socket. Raises EndpointError after `timeout_s`
        seconds.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with exclusive():
                self.update()
                found = self.count(topic)
                signal = int(self._socket.getsockopt(zmq.FD))
                endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
            left_s = deadline - time.monotonic()
            if found >= count:
                return found
            if left_s <= 0:
                raise EndpointError(
                    f"{found} of {count} subscribers connected to {endpoint} within "
                    f"{timeout_s:g} s: start them, or check the endpoint that they connect to"
                )
            # the descriptor, since only the current user may touch the socket
            is_signalled([signal], min(left_s, LOOK_S))


def open_publisher(
    context: zmq.Context[Any],
    bind: str,
    security: Security,
    *,
    send_hwm: int,
    linger_s: float = 0.0,
) -> tuple[Socket, Subscriptions, Binding]:
    """Return a bound XPUB socket, with its subscriptions and binding."""
    socket = open_socket(
        context, zmq.XPUB, send_hwm=send_hwm, linger_s=linger_s, receive_buffer=REQUEST_BUFFER
    )
    subscriptions = Subscriptions(socket)
    return socket, subscriptions, Binding(socket, bind, security)


JOIN_S = 1.0
"""For the thread to end at exit: a thread of the user's may block it."""

MAX_PERIOD_S = 3600.0
"""Between two calls: the waiting time of a condition variable is bounded."""


class HeartbeatThread:
    """Calls `method` regularly; the method returns the seconds until the next call.

    first_s: seconds until the first call. A UsageError of the method ends the thread: the object
    was closed. The thread has only a weak reference to the object, so an object that is dropped
    without closing ends it too, and as a daemon thread it does not delay the exit.
    """

    def __init__(self, method: Callable[[], float], first_s: float) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=_run,
            args=(weakref.WeakMethod(method), self._over, first_s),
            name="stream-lstm heartbeats",
            daemon=True,
        )
        _running.add(self)
        self._thread.start()

    def stop(self) -> None:
        """Start no further call."""
        self._over.set()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until the thread has ended."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)


def _run(
    method: weakref.WeakMethod[Callable[[], float]], over: threading.Event, wait_s: float
) -> None:
    with contextlib.suppress(UsageError):
        while not over.wait(min(wait_s, MAX_PERIOD_S)):
            call = method()
            if call is None:
                return
            wait_s = call()
            del call  # it refers to the object


_running: weakref.WeakSet[HeartbeatThread] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    threads = list(_running)
    for thread in threads:
        thread.stop()
    for thread in threads:
        thread.join(JOIN_S)


call_in_child(_running.clear)  # a child has none of these threads


SEND_HWM = 100_000
"""Messages that may wait for a subscriber: a minute's pause at 1,600 ticks a second."""

SEND_TIMEOUT_S = 30.0
"""Longer than the detection of a peer that is gone, so only a live, stalled peer reaches it."""

LINGER_S = 2.0
"""For the last messages to leave after closing; a stop may take 5 s in all."""

DRAIN_EVERY = 1024
"""Sends between two reads of the subscription reports: rare enough to cost nothing."""

PIECE_S = 0.1
"""A send waits so long at a time, and then checks whether the publisher is being closed."""

STREAMS_AT_A_TIME = 100
"""Heartbeats sent in half a millisecond, so a tick does not wait for those of all streams."""

RULE = (
    "a signal handler or finalizer called it in the middle of one of its own calls: set a flag "
    "there, and call it from the loop that the handler interrupted"
)

_SNDMORE, _NOBLOCK = int(zmq.SNDMORE), int(zmq.NOBLOCK)


class _Stream:
    __slots__ = ("ended", "next_seq", "t_ns")

    def __init__(self) -> None:
        self.ended = False
        self.next_seq = 1
        self.t_ns = NO_TIME


class Publisher(Closing):
    """Publish ticks of any number of streams at one endpoint, from any number of threads.

    bind: endpoint; with port `*` or 0 the system chooses one, and `endpoint` is the actual one.
    columns: names of the values, in their order.
    heartbeats: whether a thread sends heartbeats; without it call `heartbeat`.
    heartbeat_s: seconds between heartbeats; `clock` gives seconds, monotonic.
    send_hwm: messages that may wait for one subscriber before a send waits; 0 for no limit.
    send_timeout_s: seconds that a send waits for the slowest subscriber; None for no limit.
    run_id: identifies this start of the publisher; None makes one.
    linger_s: seconds that `close` waits for queued messages; an attribute that may be set.
    recovery: endpoint for recovery requests; `recovery_endpoint` is the actual one.
    ring: ticks of each stream that are stored for recovery.
    security: keys, and who may connect; None has no keys, and binds only addresses of this
    machine.

    `alive` may be set to a function without arguments: while it returns False no heartbeats are
    sent, so subscribers see a silent feed. The thread of the heartbeats calls it.

    Raises EndpointError if an endpoint cannot be bound, and ConfigurationError if it must not be,
    or for invalid columns. Every call raises UsageError for arguments of a wrong type, after
    `close`, and in a child that was forked after the publisher was made.
    """

    def __init__(
        self,
        bind: str,
        *,
        columns: Sequence[str],
        encoding: Encoding = "msgpack",
        heartbeats: bool = True,
        heartbeat_s: float = 1.0,
        send_hwm: int = SEND_HWM,
        send_timeout_s: float | None = SEND_TIMEOUT_S,
        run_id: str | None = None,
        linger_s: float | None = LINGER_S,
        recovery: str | None = None,
        ring: int = RING_TICKS,
        security: Security | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.columns = _checked_columns(columns)
        if encoding not in get_args(Encoding):
            raise ConfigurationError(
                f"encoding={encoding!r:.60}: write {' or '.join(get_args(Encoding))}",
                key="encoding",
            )
        self.run_id = secrets.token_hex(8) if run_id is None else text("run_id", run_id)
        seconds("linger_s", linger_s)
        self.linger_s = linger_s
        self.alive: Callable[[], bool] | None = None
        self._encoding = encoding
        self._heartbeat_s = _checked_period(heartbeat_s, heartbeats)
        self._send_timeout_s = seconds("send_timeout_s", send_timeout_s)
        self._clock = clock
        self._heartbeat_due = clock() + self._heartbeat_s
        self._streams: dict[str, _Stream] = {}
        self._sends = 0
        text("bind", bind)
        send_hwm, ring = whole("send_hwm", send_hwm, 0), whole("ring", ring, 1)
        self._usage = Usage("Publisher", RULE)
        self.security = security or Security()
        self._ring: Ring | None = None
        self._server: RecoveryServer | None = None
        self._context: zmq.Context[Any] = zmq.Context()
        try:
            self._socket, self._subscriptions, self._binding = open_publisher(
                self._context, bind, self.security, send_hwm=send_hwm
            )
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
            self._piece_s = min(self._send_timeout_s, PIECE_S)
            self._socket.setsockopt(zmq.SNDTIMEO, milliseconds(self._piece_s))
            if recovery is not None:
                self._ring = Ring(len(self.columns), ticks=ring)
                self._server = RecoveryServer(
                    self._context,
                    recovery,
                    self._ring,
                    self.run_id,
                    self.columns,
                    security=self.security,
                    clock=clock,
                )
        except BaseException:
            self._context.destroy(linger=0)
            raise
        # The method below pyzmq's routing, tracking and enumerations.
        self._send_frame: Any = super(zmq.Socket, self._socket).send
        self.endpoint = self._binding.endpoint
        self._heartbeats: HeartbeatThread | None = None
        if heartbeats:
            self._heartbeats = HeartbeatThread(self._send_due_heartbeats, self._heartbeat_s)

    @property
    def recovery_endpoint(self) -> str | None:
        """Endpoint for recovery requests, None without recovery."""
        return None if self._server is None else self._server.endpoint

    def expects_requests(self, patience_s: float) -> bool:
        """Return whether more recovery requests are likely, so that closing should wait.

        That is so for a while after a request, and for `patience_s` seconds after one whose sender
        has only received a part of the ticks that it requested.
        """
        return self._server is not None and self._server.expects_requests(patience_s)

    def publish(self, stream: str, t_ns: npt.ArrayLike, values: npt.ArrayLike) -> int:
        """Send one tick, `values` (C,), or a block, `values` (n, C), as one message.

        `t_ns` is nanoseconds since 1970: a number, or int64 (n,) for a block. Returns the number
        of the first tick. Raises UsageError for a wrong shape or name, and EndpointError if a
        subscriber takes nothing for `send_timeout_s`; then nothing was sent or numbered.
        """
        try:
            if not isinstance(values, list):
                _check_array(values)
            values = np.asarray(values, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(
                f"ticks of {stream!r}: values are numbers in the order of the columns "
                f"{', '.join(self.columns)}: {error}"
            ) from None
        shape = values.shape
        if not shape or shape[-1] != len(self.columns):
            raise UsageError(
                f"ticks of {stream!r}: values of shape {shape} do not fit the columns "
                f"{', '.join(self.columns)}"
            )
        if not isinstance(stream, str):
            raise UsageError(f"the stream's name must be text, not {stream!r:.60}")
        usage = self._usage
        with usage.lock:
            if usage.blocked:
                usage.refuse()
            usage.blocked = BUSY  # no call since the test: see `callers`
            try:
                return self._publish(stream, t_ns, values)
            finally:
                usage.blocked = ""
                if usage.closing:
                    self._shut()

    def _publish(self, stream: str, t_ns: npt.ArrayLike, values: Float64s) -> int:
        state = self._streams.get(stream) or _Stream()
        seq = state.next_seq
        frames = encode_ticks(
            stream, t_ns, values, run_id=self.run_id, seq=seq, encoding=self._encoding
        )
        self._streams[stream] = state
        if seq == 1:
            self._beat(stream, state, end=False)  # announces the columns before the first tick
        # Counted before it is sent: an interrupt may come after libzmq has taken the message.
        state.next_seq += 1 if values.ndim == 1 else len(values)
        try:
            self._send(frames)
        except StreamLSTMError:
            state.next_seq = seq
            raise
        if self._ring is not None:
            self._ring.append(stream, seq, t_ns, values)
        state.t_ns = t_ns if type(t_ns) is int else int(np.ravel(t_ns)[-1])
        state.ended = False
        return seq

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._usage.lock, self._usage.exclusive(self._shut):
            yield

    def heartbeat(self) -> bool:
        """Send every stream's heartbeat if they are due, and return whether they were.

        For a publisher with `heartbeats=False`: its heartbeats then show that your loop runs.
        """
        return self._beat_all(wait=True)

    def _send_due_heartbeats(self) -> float:
        """Send heartbeats if they are due, and return the seconds until the next ones."""
        self._beat_all(wait=False)
        return max(self._heartbeat_due - self._clock(), 0.0) or self._heartbeat_s

    def _beat_all(self, *, wait: bool) -> bool:
        if self.alive is not None and not self.alive():
            return False
        with self._exclusive():
            now = self._clock()
            if now < self._heartbeat_due:
                return False
            self._heartbeat_due = now + self._heartbeat_s
            self._subscriptions.update()
            streams = list(self._streams.items())
        for first in range(0, len(streams), STREAMS_AT_A_TIME):
            with self._exclusive():
                for stream, state in streams[first : first + STREAMS_AT_A_TIME]:
                    if not self._beat(stream, state, end=state.ended, wait=wait):
                        return True
        return True

    def end(self, stream: str | None = None) -> None:
        """Announce the end of a stream, or of all of them."""
        with self._exclusive():
            for name in list(self._streams) if stream is None else [text("stream", stream)]:
                self._beat(name, self._streams.get(name) or _Stream(), end=True)

    def _beat(self, stream: str, state: _Stream, *, end: bool, wait: bool = True) -> bool:
        """Send a heartbeat; return False if it would have to wait and must not."""
        state.ended = end
        beat = Heartbeat(
            stream, state.next_seq, self.run_id, state.t_ns, end, columns=self.columns
        )
        return self._send(encode_heartbeat(beat, self._encoding), wait=wait)

    def _send(self, frames: Frames, *, wait: bool = True) -> bool:
        """Send a message; return False if it would have to wait and must not."""
        self._sends += 1
        if self._sends % DRAIN_EVERY == 0:
            self._subscriptions.update()
        send, waited_s = self._send_frame, 0.0
        while True:
            try:
                # libzmq waits only before the first frame of a message.
                send(frames[0], _SNDMORE if wait else _SNDMORE | _NOBLOCK)
                break
            except zmq.Again:
                if not wait:
                    return False
            except BaseException:
                # An interrupt: libzmq may have the first frame, and would take the next message
                # for its rest. A payload alone matches no topic.
                send(frames[1])
                raise
            waited_s += self._piece_s
            if self._usage.closing:
                self._usage.refuse()
            if waited_s >= self._send_timeout_s:
                raise EndpointError(
                    f"a subscriber of {self.endpoint} took nothing for {self._send_timeout_s:g} "
                    "s: stop it, or raise the send timeout"
                ) from None
        send(frames[1])
        return True

    def wait_for_subscribers(
        self, count: int, timeout_s: float | None, *, stream: str | None = None
    ) -> int:
        """Wait until `count` open subscriptions match the ticks of a stream, or of any.

        Returns their number; see the module for what is counted. Raises EndpointError after
        `timeout_s` seconds; None waits without limit. Other threads may publish meanwhile.
        """
        topic = b"tick/" if stream is None else make_topic("tick", text("stream", stream))
        count, wait_s = whole("count", count, 0), seconds("timeout_s", timeout_s)
        return self._subscriptions.wait(topic, count, wait_s, self._exclusive)

    def close(self) -> None:
        """Close the sockets; queued messages have `linger_s` seconds to leave.

        Any thread may close. A send in another thread that waits for a subscriber then raises
        UsageError. In a forked child nothing happens: the sockets are the parent's.
        """
        if self._usage.forked:
            return
        self._usage.closing = True
        if self._heartbeats is not None:
            self._heartbeats.stop()
        if self._shut() and self._heartbeats is not None:
            self._heartbeats.join()

    def _shut(self) -> bool:
        """Close the sockets and return True, unless the call that uses them does so at its end."""
        usage = self._usage
        with usage.lock:
            if usage.blocked:
                return usage.blocked == CLOSED
            linger_ms = milliseconds(seconds("linger_s", self.linger_s))
            usage.blocked = CLOSED
            if self._server is not None:
                self._server.close()
            self._socket.close(linger=linger_ms)
            self._context.term()
            self._binding.close()
        return True


def _check_array(values: object) -> None:
    """Raise TypeError for an array that cannot be sent completely."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise TypeError("masked elements have no value: fill them with NaN, or leave the tick out")
    if isinstance(values, np.ndarray) and values.dtype.kind == "c":
        raise TypeError("complex numbers have two parts: name a column for each")


def _checked_columns(columns: Sequence[str]) -> tuple[str, ...]:
    found = names("columns", columns)
    if not found:
        raise ConfigurationError("columns is empty: name the values", key="columns")
    if len(found) > MAX_COLUMNS or any(len(c.encode()) > MAX_COLUMN_BYTES for c in found):
        raise ConfigurationError(
            f"columns may be {MAX_COLUMNS:,} names of {MAX_COLUMN_BYTES} bytes each at most",
            key="columns",
        )
    if len(set(found)) < len(found):
        raise ConfigurationError(f"columns repeats a name: {', '.join(found)}", key="columns")
    return found


def _checked_period(heartbeat_s: float, by_thread: bool) -> float:
    period_s = seconds("heartbeat_s", heartbeat_s)
    if by_thread and not 0 < period_s < math.inf:
        raise UsageError(
            f"heartbeat_s={heartbeat_s}: write the seconds between two heartbeats, above 0, or "
            "heartbeats=False for none"
        )
    return period_s
