"""The side of a publisher that answers: a ROUTER socket in a thread of its own.

A thread of its own, because `publish` waits for a slow subscriber, and the slow subscriber may be
the one that asks. It shares with the publisher nothing but the ring.

It may take a quarter of a core: after an answer it rests three times as long as that took, during
which requests wait in the socket and then with who sends them. So however many ask, the publisher
keeps its pace. A peer that reads no replies has QUEUE of them waiting, and further ones are lost.

The newest ticks of every stream, kept so that they can be sent again.

Each stream keeps its newest ticks, so many at most; all of them together are bounded in bytes.
Where the bytes run out, a stream that holds more than its even share gives up its oldest ticks, so
that a busy stream never drives out the few of a quiet one.

One thread appends and another reads. Rows lie in chunks that are only ever filled from the front,
so what a reader has found stays as it is, however long copying it takes, and neither waits for the
other longer than it takes to find the chunks.

What a publisher answers to those who ask for lost ticks: each request has one reply, or none.

Nothing here knows a socket: requests come in as bytes with the id of who sent them, replies go
out.

A peer has an allowance of requests that fills up again at a constant rate; beyond it the answer is
BUSY, with the time after which a good part of it is there again. Peers are held in a table, so
that there are never more of them than it has places. A reply is small enough that what waits in
the socket for a peer that reads nothing is bounded by it (see `recovery_server`).
"""

from __future__ import annotations

import select
import socket as sockets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zmq

from ..errors import DecodeError
from ..events import MAX_SEQ
from .endpoints import ASKING_BUFFER, Binding, open_socket
from .guard import Inbound
from .records import (
    Block,
    Busy,
    Gone,
    Hello,
    ReplayRequest,
    Reply,
    SnapshotReply,
    SnapshotRequest,
    Welcome,
    encode_side,
)
from .security import Security
from .wire import decode_request

RING_TICKS = 100_000
"""Ticks of a stream: as many as may wait in the sockets for a slow subscriber, so that one who
lost its connection with all that waited for it gets everything again."""

RING_BYTES = 256 * 2**20
"""Bytes of all streams: twenty streams of fourteen columns in full, and no more than a daemon
takes anyway."""

FIRST_ROWS, MOST_ROWS = 16, 4096
"""Rows of a stream's first chunk, each later one being twice as long, and of its longest: a quiet
stream takes little, and what a busy one gives up at a time is a small part of its own."""

CHUNK_BYTES = 500
"""Of a chunk, beside its rows: two arrays and the object that holds them."""


class _Chunk:
    """Consecutive ticks from number `seq` on, of which `filled` are there."""

    __slots__ = ("filled", "seq", "t_ns", "values")

    def __init__(self, seq: int, rows: int, columns: int) -> None:
        self.seq = seq
        self.filled = 0
        self.t_ns = np.empty(rows, np.int64)
        self.values = np.empty((rows, columns), np.float64)

    @property
    def size(self) -> int:
        return CHUNK_BYTES + self.t_ns.nbytes + self.values.nbytes


class _Stream:
    """The chunks of a stream, which holds the numbers from `oldest` to below `due`."""

    __slots__ = ("chunks", "due", "oldest", "size")

    def __init__(self, seq: int) -> None:
        self.chunks: deque[_Chunk] = deque()
        self.oldest = self.due = seq
        self.size = 0


class RingRows(NamedTuple):
    """Consecutive ticks from number `seq` on: `t_ns` int64 (n,), `values` float64 (n, C)."""

    seq: int
    t_ns: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


class Ring:
    """The newest ticks of every stream.

    columns: values of a tick. ticks: of one stream, at most. most_bytes: of all streams; where
    there are more streams than that has room for, each still keeps its last chunk.
    """

    def __init__(
        self, columns: int, *, ticks: int = RING_TICKS, most_bytes: int = RING_BYTES
    ) -> None:
        self.size = 0
        self._columns = columns
        self._ticks = ticks
        self._most_bytes = most_bytes
        self._streams: dict[str, _Stream] = {}
        self._round: deque[_Stream] = deque()
        self._lock = threading.Lock()

    def append(self, stream: str, seq: int, t_ns: npt.ArrayLike, values: npt.ArrayLike) -> None:
        """Keep a tick, `values` (C,), or a block, `values` (n, C), which `seq` is the first of.

        The numbers of a stream follow each other. What is given is copied.
        """
        block = np.asarray(values, np.float64)
        if block.ndim == 1:
            self._append_one(stream, seq, t_ns, block)
            return
        times = np.broadcast_to(np.asarray(t_ns, np.int64), len(block))
        for start in range(0, len(block), MOST_ROWS):
            part = slice(start, start + MOST_ROWS)
            self._append_block(stream, seq + start, times[part], block[part])

    def _append_one(
        self, stream: str, seq: int, t_ns: npt.ArrayLike, values: npt.NDArray[np.float64]
    ) -> None:
        with self._lock:
            held = self._streams.get(stream)
            chunk = held.chunks[-1] if held is not None and held.chunks else None
            if held is None or chunk is None or chunk.filled == len(chunk.t_ns):
                held, chunk = self._grow(stream, seq, 1)
            k = chunk.filled
            chunk.t_ns[k] = t_ns
            chunk.values[k] = values
            chunk.filled = k + 1
            held.due = seq + 1
            if seq - held.oldest >= self._ticks:
                self._forget(held, seq + 1 - self._ticks)

    def _append_block(
        self,
        stream: str,
        seq: int,
        t_ns: npt.NDArray[np.int64],
        values: npt.NDArray[np.float64],
    ) -> None:
        with self._lock:
            held = self._streams.get(stream)
            chunk = held.chunks[-1] if held is not None and held.chunks else None
            room = 0 if chunk is None else len(chunk.t_ns) - chunk.filled
            if held is None or chunk is None or room < len(t_ns):
                held, chunk = self._grow(stream, seq, len(t_ns))
            part = slice(chunk.filled, chunk.filled + len(t_ns))
            chunk.t_ns[part] = t_ns
            chunk.values[part] = values
            chunk.filled += len(t_ns)
            held.due = seq + len(t_ns)
            if held.due - held.oldest > self._ticks:
                self._forget(held, held.due - self._ticks)

    def _grow(self, stream: str, seq: int, rows: int) -> tuple[_Stream, _Chunk]:
        """Give a stream a chunk for `rows` ticks at least, and drop what it has no room for."""
        held = self._streams.get(stream)
        if held is None:
            held = self._streams[stream] = _Stream(seq)
            self._round.append(held)
        before = len(held.chunks[-1].t_ns) if held.chunks else FIRST_ROWS // 2
        chunk = _Chunk(seq, max(rows, min(2 * before, MOST_ROWS)), self._columns)
        if not held.chunks:
            held.oldest = seq
        held.chunks.append(chunk)
        held.size += chunk.size
        self.size += chunk.size
        if self.size > self._most_bytes:
            self._make_room(held)
        return held, chunk

    def _make_room(self, newest: _Stream) -> None:
        """Drop the oldest chunks of streams that hold more than their share."""
        share = self._most_bytes / len(self._round)
        while self.size > self._most_bytes and newest.size > share and len(newest.chunks) > 1:
            self._drop(newest)
        for _ in range(len(self._round)):
            if self.size <= self._most_bytes:
                return
            while self._round[0].size > share and len(self._round[0].chunks) > 1:
                self._drop(self._round[0])
            self._round.rotate(-1)

    def _drop(self, held: _Stream) -> None:
        chunk = held.chunks.popleft()
        held.size -= chunk.size
        self.size -= chunk.size
        held.oldest = max(held.oldest, held.chunks[0].seq)

    def _forget(self, held: _Stream, oldest: int) -> None:
        """Hold nothing from before number `oldest`."""
        held.oldest = oldest
        while held.chunks[0].seq + held.chunks[0].filled <= oldest:
            self._drop(held)

    def span(self, stream: str) -> tuple[int, int] | None:
        """Return the oldest number that is held and the next one; None for an unknown stream."""
        held = self._streams.get(stream)
        return None if held is None else (held.oldest, held.due)

    def spans(self) -> dict[str, tuple[int, int]]:
        """Return the span of every stream."""
        # Both numbers only grow, so that without a lock a span is at worst a little too long.
        return {name: (held.oldest, held.due) for name, held in list(self._streams.items())}

    def read(self, stream: str, first: int, last: int, most: int) -> RingRows | None:
        """Return up to `most` ticks from number `first` to `last` at most; None if not held."""
        with self._lock:
            held = self._streams.get(stream)
            if held is None or not held.oldest <= first < held.due:
                return None
            stop = min(last + 1, held.due, first + most)
            parts = [
                (chunk, max(first - chunk.seq, 0), min(stop - chunk.seq, chunk.filled))
                for chunk in held.chunks
                if chunk.seq < stop and chunk.seq + chunk.filled > first
            ]
        return RingRows(
            first,
            np.concatenate([chunk.t_ns[low:high] for chunk, low, high in parts]),
            np.concatenate([chunk.values[low:high] for chunk, low, high in parts]),
        )


REPLY_BYTES = 256 * 1024
"""Of the ticks in one BLOCK: some 10,000 ticks of two columns, copied in a tenth of a
millisecond."""

REQUESTS_PER_S = 1_000.0
"""That one peer may send: ten million ticks of two columns a second, more than any session
takes."""

BURST = 1_000.0
"""Requests that one peer may send at once: a stream each of a thousand."""

REFILL = 0.25
"""Of the burst must be there again when a peer that was told BUSY comes back."""

MAX_PEERS = 64
"""Who may ask at a time; each can leave a megabyte of replies unread."""

SNAPSHOT_S = 1.0
"""A snapshot is made no more than once in this time; that of 100,000 streams takes 50 ms."""


class RecoveryCounters:
    """What has been asked and answered so far; `refused` are bytes that were no request."""

    __slots__ = ("busy", "gone", "refused", "replayed", "requests")

    def __init__(self) -> None:
        self.requests = self.replayed = self.gone = self.busy = self.refused = 0


class _Peer:
    __slots__ = ("allowance", "at", "unfinished")

    def __init__(self, at: float) -> None:
        self.allowance, self.at = BURST, at
        self.unfinished = False


class RecoveryResponder:
    """Answers requests for the ticks of a ring.

    session: id of the publisher's run. columns: names of the values. clock: seconds, monotonic.
    present: whether a peer is still connected, asked before its place is given to another.
    """

    def __init__(
        self,
        ring: Ring,
        session: str,
        columns: tuple[str, ...],
        *,
        clock: Callable[[], float],
        present: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        self.counters = RecoveryCounters()
        self._ring = ring
        self._session = session
        self._columns = columns
        self._most_rows = max(1, REPLY_BYTES // (8 + 8 * len(columns)))
        self._clock = clock
        self._present = present
        self._peers: OrderedDict[bytes, _Peer] = OrderedDict()
        self._snapshot: dict[bool, bytes] = {}
        self._snapshot_due = clock()

    def answer(self, peer: bytes, payload: bytes) -> bytes | None:
        """Return the reply to a request, in its encoding; None where there is to be none."""
        self.counters.requests += 1
        known = self._peer(peer)
        json = payload[:1] == b"{"
        if known is None or known.allowance < 1.0:
            retry_s = BURST * REFILL / REQUESTS_PER_S
            return self._busy(payload, retry_s, json=json)
        known.allowance -= 1.0
        try:
            request = decode_request(payload)
        except DecodeError:
            self.counters.refused += 1
            return None
        match request:
            case Hello():
                return _encode(Welcome(session=self._session, columns=self._columns), json=json)
            case SnapshotRequest():
                return self._snapshot_reply(json=json)
            case ReplayRequest():
                reply = self._replay(request)
                whole = not isinstance(reply, Block) or reply.seq + reply.rows > request.to_seq
                known.unfinished = not whole
                return _encode(reply, json=json)

    @property
    def unfinished(self) -> bool:
        """Whether somebody had only the beginning of what it last asked for."""
        return any(peer.unfinished for peer in list(self._peers.values()))

    def _busy(self, payload: bytes, retry_s: float, *, json: bool) -> bytes | None:
        self.counters.busy += 1
        try:
            request = decode_request(payload)
        except DecodeError:
            self.counters.refused += 1
            return None
        stream = request.stream if isinstance(request, ReplayRequest) else ""
        return _encode(Busy(retry_ms=int(retry_s * 1000), stream=stream), json=json)

    def _peer(self, peer: bytes) -> _Peer | None:
        """Return what is known of a peer, its allowance filled up; None if there is no place."""
        now = self._clock()
        known = self._peers.get(peer)
        if known is None:
            if len(self._peers) >= MAX_PEERS and not self._make_place():
                return None
            known = self._peers[peer] = _Peer(now)
        self._peers.move_to_end(peer)
        known.allowance = min(known.allowance + (now - known.at) * REQUESTS_PER_S, BURST)
        known.at = now
        return known

    def _make_place(self) -> bool:
        """Forget a peer that is gone, if there is one; those silent for longest are looked at."""
        for peer in list(self._peers):
            if not self._present(peer):
                del self._peers[peer]
                return True
        return False

    def _replay(self, request: ReplayRequest) -> Reply:
        stream, session = request.stream, request.session
        span = self._ring.span(stream) if session == self._session else None
        if span is not None:
            first, last = request.from_seq, request.to_seq
            rows = self._ring.read(stream, first, last, self._most_rows)
            if rows is not None:
                self.counters.replayed += len(rows.t_ns)
                return Block(
                    stream=stream,
                    session=session,
                    seq=rows.seq,
                    rows=len(rows.t_ns),
                    t_ns=rows.t_ns.astype("<i8", copy=False).tobytes(),
                    values=rows.values.astype("<f8", copy=False).tobytes(),
                )
        self.counters.gone += 1
        # What another session had, or an unknown stream, is not held at any number.
        oldest = MAX_SEQ if span is None or span[0] <= request.from_seq else span[0]
        return Gone(stream=stream, session=session, oldest_seq=oldest)

    def _snapshot_reply(self, *, json: bool) -> bytes:
        now = self._clock()
        if now >= self._snapshot_due:
            self._snapshot.clear()
            self._snapshot_due = now + SNAPSHOT_S
        made = self._snapshot.get(json)
        if made is None:
            made = _encode(
                SnapshotReply(session=self._session, streams=self._ring.spans()), json=json
            )
            self._snapshot[json] = made
        return made


def _encode(reply: Reply, *, json: bool) -> bytes:
    return encode_side(reply, "json" if json else "msgpack")


QUEUE = 8
"""Replies that wait for one peer: twice as many as an honest one asks for at a time."""

REQUESTS_WAITING = 100
"""Requests that wait of one peer."""

MAX_REQUEST_BYTES = 4096
"""A request with the longest names is a quarter of that. Who sends more is disconnected."""

MAX_MESSAGE_BYTES = 2**20
"""Of one request with all its parts, however many: an honest one has two or three."""

REST = 3.0
"""Time of rest after an answer, as a multiple of what that took."""

QUIET_S = 2.0
"""After a request in which another may come: as long as who asks waits for an answer."""

MAX_REST_S = 0.1
"""Of rest at a time: a thread that waited long for its turn is not to rest for as long again."""


class RecoveryServer:
    """Answers requests for the ticks of a ring at an endpoint, until it is closed.

    `endpoint` is the actual one. security: keys, and who may ask. clock: seconds, monotonic.

    Raises EndpointError if the endpoint cannot be bound, ConfigurationError if it must not be.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        bind: str,
        ring: Ring,
        session: str,
        columns: tuple[str, ...],
        *,
        security: Security,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._last_asked = clock()
        self._inbound = Inbound(MAX_MESSAGE_BYTES)
        self._socket = open_socket(
            context,
            zmq.ROUTER,
            send_hwm=QUEUE,
            receive_hwm=REQUESTS_WAITING,
            max_frame_bytes=MAX_REQUEST_BYTES,
            receive_buffer=ASKING_BUFFER,
        )
        try:
            self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._binding = Binding(self._socket, bind, security, self._inbound)
        except BaseException:
            self._socket.close(linger=0)
            raise
        self.endpoint = self._binding.endpoint
        self._probe = encode_side(Welcome(session=session, columns=columns))
        self.desk = RecoveryResponder(ring, session, columns, clock=clock, present=self._present)
        self._wakeup, self._closing = sockets.socketpair()
        self._thread = threading.Thread(target=self._serve, name="recovery", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        """Answer until it is woken to close; only this thread uses the socket."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wakeup, zmq.POLLIN)
        while True:
            self._inbound.waiting = True
            ready = poller.poll()
            self._inbound.waiting = False
            if any(source == self._wakeup.fileno() for source, _ in ready):
                break
            start = time.monotonic()
            self._answer()
            rest_s = min(REST * (time.monotonic() - start), MAX_REST_S)
            if select.select([self._wakeup], [], [], rest_s)[0]:
                break
        self._socket.close(linger=0)

    def _answer(self) -> None:
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        self._inbound.taken += sum(map(len, frames))
        self._last_asked = self._clock()
        # A REQ socket puts an empty frame before its request, and wants one before the reply.
        if len(frames) not in (2, 3) or (len(frames) == 3 and frames[1]):
            self.desk.counters.refused += 1
            return
        reply = self.desk.answer(frames[0], frames[-1])
        if reply is not None:
            self._send([*frames[:-1], reply])

    def _send(self, frames: list[bytes]) -> bool:
        """Send a reply; return whether its receiver is still there."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return True  # it reads nothing: what it misses it may ask for again
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True

    def _present(self, peer: bytes) -> bool:
        return self._send([peer, self._probe])

    def still_asked(self, patience_s: float) -> bool:
        """Return whether somebody is likely to ask on; see `Publisher.still_asked`."""
        unasked_s = self._clock() - self._last_asked
        return unasked_s < (patience_s if self.desk.unfinished else QUIET_S)

    def close(self) -> None:
        """Stop answering."""
        if not self._thread.is_alive():
            return
        self._closing.send(b"x")
        self._thread.join()
        self._closing.close()
        self._wakeup.close()
        self._binding.close()
