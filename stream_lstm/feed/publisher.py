"""Ticks go out, numbered, with heartbeats and an end.

An XPUB socket that does not drop: at its high-water mark a send waits for the slowest subscriber,
so that a replay at full speed loses nothing on the way, and gives up after a time. A tick gets
its number when it has been taken by the socket; one that was not taken is not counted.

A heartbeat carries a stream's next number, so that a loss at the end shows, and the names of the
columns, so that nobody takes one for another. A thread sends them (see `pulse`) and never waits
for a subscriber, since one whose queue is full has other messages to read. The heartbeats of a
stream that has ended repeat the end, for subscribers that missed it.

Any thread may use a publisher: a call holds it until its message has gone out whole (see `turns`),
so that numbers rise in the order of sending and no heartbeat comes between two frames. A send that
waits for a subscriber looks at times whether the publisher is being closed.

With a recovery endpoint what was sent is kept in a ring, and subscribers get from there what they
lost, or what was sent before they came; see `ring` and `recovery_server`.

Who listens to a publisher, from the subscriptions that its XPUB socket sees.

What is counted are open subscriptions and not subscribers, which ZeroMQ does not tell apart: one
subscriber with two prefixes that both match counts twice. The `Subscriber` of this package has
one for each kind of topic and configured stream, and asks for ticks last, so that for one topic
of ticks the count is the number of subscribers, and all that they asked for is in place.

A thread that calls a method of an object regularly, such as a publisher's for its heartbeats.

The thread holds its object by a weak reference, so that one that was dropped without closing ends
it, and is a daemon thread that ends before the interpreter is torn down.
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

from ..closing import Closing
from ..errors import ConfigurationError, EndpointError, StreamLSTMError, UsageError
from ..events import NO_TIME
from ..forks import call_in_child
from ..schema import Encoding
from .callers import BUSY, CLOSED, Turns, is_signalled, milliseconds, names, seconds, text, whole
from .endpoints import ASKING_BUFFER, Binding, open_socket
from .records import (
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
"""Prefixes that are counted, as many as there may be streams; more are served all the same."""

LOOK_S = 0.05
"""Between two looks at most: another thread's send may take the signal that something came."""


class Subscriptions:
    """The open subscriptions at an XPUB socket; makes the socket report each one."""

    def __init__(self, socket: Socket) -> None:
        socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        self._socket = socket
        self._open: Counter[bytes] = Counter()

    def drain(self) -> None:
        """Read what came; left unread it would pile up in the socket."""
        while True:
            try:
                message = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._apply(message)

    def _apply(self, message: bytes) -> None:
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

        A topic of a kind alone, such as `tick/`, is matched by any that let one of the kind in.
        """
        return sum(
            count
            for prefix, count in self._open.items()
            if topic.startswith(prefix) or (topic.count(b"/") == 1 and prefix.startswith(topic))
        )

    def wanted(self, topic: bytes) -> bool:
        """Return whether a subscription matches a topic, or may where too many are open."""
        return len(self._open) >= MAX_PREFIXES or self.count(topic) > 0

    def wait(
        self,
        topic: bytes,
        count: int,
        timeout_s: float,
        turn: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> int:
        """Wait until `count` subscriptions match a topic and return how many do.

        turn: holds the socket for a look. Raises EndpointError after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with turn():
                self.drain()
                found = self.count(topic)
                signal = int(self._socket.getsockopt(zmq.FD))
                endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
            left_s = deadline - time.monotonic()
            if found >= count:
                return found
            if left_s <= 0:
                raise EndpointError(
                    f"{found} of {count} subscribers came to {endpoint} within {timeout_s:g} s: "
                    "start them, or check the endpoint that they connect to"
                )
            # the descriptor in place of the socket, which only the one whose turn it is may use
            is_signalled([signal], min(left_s, LOOK_S))


JOIN_S = 1.0
"""For the thread to end at exit: a thread of the user's may hold what it waits for."""

MAX_WAIT_S = 3600.0
"""Between two calls at most: what a condition variable can wait is bounded."""


class Pulse:
    """Calls `method` until it is closed; the method returns the seconds until the next call.

    first_s: seconds until the first call. A UsageError of the method's ends the thread: the object
    was closed meanwhile.
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
        """Let no further call begin."""
        self._over.set()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until the thread has ended."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)


def _run(
    method: weakref.WeakMethod[Callable[[], float]], over: threading.Event, wait_s: float
) -> None:
    with contextlib.suppress(UsageError):
        while not over.wait(min(wait_s, MAX_WAIT_S)):
            call = method()
            if call is None:
                return
            wait_s = call()
            del call  # or it would keep the object


_running: weakref.WeakSet[Pulse] = weakref.WeakSet()


@atexit.register
def _end() -> None:
    pulses = list(_running)
    for pulse in pulses:
        pulse.stop()
    for pulse in pulses:
        pulse.join(JOIN_S)


call_in_child(_running.clear)  # a child has none of these threads


SEND_HWM = 100_000
"""Messages that may wait for a subscriber: a minute's pause at 1,600 ticks a second."""

SEND_TIMEOUT_S = 30.0
"""Longer than a peer that is gone takes to be noticed: only a live one that stalls ends us."""

LINGER_S = 2.0
"""Time for the last messages to leave after closing; stopping may take 5 s in all."""

DRAIN_EVERY = 1024
"""Sends between looks at who subscribed: rare enough to cost nothing."""

PIECE_S = 0.1
"""A send waits for so long at a time, and then looks whether the publisher is being closed."""

STREAMS_A_TURN = 100
"""Heartbeats sent in one turn, in half a millisecond: a tick does not wait for all of them."""

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

    bind: endpoint; port `*` or 0 lets the system choose, and `endpoint` tells which.
    columns: names of the values, in their order.
    heartbeats: whether a thread sends heartbeats; without it `heartbeat` has to be called.
    heartbeat_s: seconds between heartbeats; `clock` gives seconds, monotonic.
    send_hwm: messages that may wait for one subscriber before a send waits; 0 for no limit.
    send_timeout_s: seconds that a send waits for the slowest subscriber; None for no limit.
    session: id of this start of the publisher; None makes one.
    linger_s: seconds that `close` waits for what is still queued; an attribute that may be set.
    recovery: endpoint at which lost ticks are asked for; `recovery_endpoint` tells the actual one.
    ring: ticks of each stream that are kept for that.
    security: keys, and who may connect; None has none, and binds only what this machine alone can
    reach.

    `alive` may be set to a function without arguments: no heartbeats are sent while it returns
    False, so that subscribers see a silent feed. The thread of the heartbeats calls it.

    Raises EndpointError if an endpoint cannot be bound, and ConfigurationError if it must not be,
    or for columns without names of their own. Every call raises UsageError for arguments of a
    wrong type, after `close`, and in a child that was forked after the publisher was made.
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
        session: str | None = None,
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
        self.session = secrets.token_hex(8) if session is None else text("session", session)
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
        self._turns = Turns("Publisher", RULE)
        self._context: zmq.Context[Any] = zmq.Context()
        try:
            self._socket = open_socket(
                self._context, zmq.XPUB, send_hwm=send_hwm, receive_buffer=ASKING_BUFFER
            )
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
            self._piece_s = min(self._send_timeout_s, PIECE_S)
            self._socket.setsockopt(zmq.SNDTIMEO, milliseconds(self._piece_s))
            # Past the layer of pyzmq that is for routing, tracking and enumerations.
            self._send_frame: Any = super(zmq.Socket, self._socket).send
            self._subscriptions = Subscriptions(self._socket)
            self.security = security or Security()
            self._binding = Binding(self._socket, bind, self.security)
            self._recover_from(recovery, ring)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self.endpoint = self._binding.endpoint
        self._pulse = Pulse(self._beat_by_itself, self._heartbeat_s) if heartbeats else None

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
                f"ticks of {stream!r}: values of shape {shape} are not of the columns "
                f"{', '.join(self.columns)}"
            )
        if not isinstance(stream, str):
            raise UsageError(f"the name of the stream is text, not {stream!r:.60}")
        turns = self._turns
        with turns.lock:
            if turns.barred:
                turns.refuse()
            turns.barred = BUSY  # without a call since the test: see `turns`
            try:
                return self._publish(stream, t_ns, values)
            finally:
                turns.barred = ""
                if turns.closing:
                    self._shut()

    def _publish(self, stream: str, t_ns: npt.ArrayLike, values: npt.NDArray[np.float64]) -> int:
        state = self._streams.get(stream) or _Stream()
        seq = state.next_seq
        frames = encode_ticks(
            stream, t_ns, values, session=self.session, seq=seq, encoding=self._encoding
        )
        self._streams[stream] = state
        if seq == 1:
            self._beat(stream, state, end=False)  # whose columns are not ours must not take a tick
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
    def _turn(self) -> Iterator[None]:
        """Hold the publisher; `publish` does the same with less ado."""
        with self._turns.lock, self._turns.held(self._shut):
            yield

    def heartbeat(self) -> bool:
        """Send every stream's heartbeat if they are due, and return whether they were.

        For a publisher with `heartbeats=False`: its heartbeats then show that your loop runs.
        """
        return self._beat_all(wait=True)

    def _beat_by_itself(self) -> float:
        """Send what heartbeats are due, and return the seconds until the next ones are."""
        self._beat_all(wait=False)
        return max(self._heartbeat_due - self._clock(), 0.0) or self._heartbeat_s

    def _beat_all(self, *, wait: bool) -> bool:
        if self.alive is not None and not self.alive():
            return False
        with self._turn():
            now = self._clock()
            if now < self._heartbeat_due:
                return False
            self._heartbeat_due = now + self._heartbeat_s
            self._subscriptions.drain()
            streams = list(self._streams.items())
        for first in range(0, len(streams), STREAMS_A_TURN):
            with self._turn():
                for stream, state in streams[first : first + STREAMS_A_TURN]:
                    if not self._beat(stream, state, end=state.ended, wait=wait):
                        return True
        return True

    def end(self, stream: str | None = None) -> None:
        """Say that no more will come of a stream, or of all of them."""
        with self._turn():
            for name in list(self._streams) if stream is None else [text("stream", stream)]:
                self._beat(name, self._streams.get(name) or _Stream(), end=True)

    def _beat(self, stream: str, state: _Stream, *, end: bool, wait: bool = True) -> bool:
        """Send a heartbeat; return False where it would have to wait and must not."""
        state.ended = end
        beat = Heartbeat(
            stream, state.next_seq, self.session, state.t_ns, end, columns=self.columns
        )
        return self._send(encode_heartbeat(beat, self._encoding), wait=wait)

    def _send(self, frames: Frames, *, wait: bool = True) -> bool:
        """Send a message; return False where it would have to wait and must not."""
        self._sends += 1
        if self._sends % DRAIN_EVERY == 0:
            self._subscriptions.drain()
        send, waited_s = self._send_frame, 0.0
        while True:
            try:
                # libzmq waits before the first frame of a message alone.
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
            if self._turns.closing:
                self._turns.refuse()
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

        Returns how many do; see `subscriptions` for what is counted. Raises EndpointError after
        `timeout_s` seconds; None waits without limit. Other threads may publish meanwhile.
        """
        topic = b"tick/" if stream is None else make_topic("tick", text("stream", stream))
        count, wait_s = whole("count", count, 0), seconds("timeout_s", timeout_s)
        return self._subscriptions.wait(topic, count, wait_s, self._turn)

    def close(self) -> None:
        """Close the sockets; what was sent has `linger_s` seconds to leave.

        Any thread may close. A send in another thread that waits for a subscriber ends with
        UsageError. In a forked child nothing happens: the sockets are the parent's.
        """
        if self._turns.forked:
            return
        self._turns.closing = True
        if self._pulse is not None:
            self._pulse.stop()
        if self._shut() and self._pulse is not None:
            self._pulse.join()

    def _shut(self) -> bool:
        """Close the sockets, unless the call that uses them does so at its end."""
        turns = self._turns
        with turns.lock:
            if turns.barred:
                return turns.barred == CLOSED
            linger_ms = milliseconds(seconds("linger_s", self.linger_s))
            turns.barred = CLOSED
            if self._server is not None:
                self._server.close()
            self._socket.close(linger=linger_ms)
            self._context.term()
            self._binding.close()
        return True


def _check_array(values: object) -> None:
    """Raise TypeError for an array of which a part would not be sent."""
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
        twice = ", ".join(found)
        raise ConfigurationError(f"columns names a value twice: {twice}", key="columns")
    return found


def _checked_period(heartbeat_s: float, by_itself: bool) -> float:
    period_s = seconds("heartbeat_s", heartbeat_s)
    if by_itself and not 0 < period_s < math.inf:
        raise UsageError(
            f"heartbeat_s={heartbeat_s}: write the seconds between two heartbeats, above 0, or "
            "heartbeats=False for none"
        )
    return period_s
