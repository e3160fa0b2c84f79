"""The publisher's side of recovery: a ring of sent ticks, and replies to requests for them.

**Ring.** It stores the newest ticks of every stream, at most `ticks` of each and `max_bytes` in
all. When the bytes run out, a stream above its even share loses its oldest ticks, so a busy stream
never displaces the few ticks of a quiet one. One thread appends and another reads. Rows are in
chunks that are only filled from the front, so rows that a reader has found never change, and the
lock is held only while the chunks are looked up.

**Responder.** Each request gets one reply, or none. A peer may send a burst of requests and then
a constant rate; beyond that the reply is BUSY with the time to wait. The table of peers is
bounded, and replies are small, so a peer that reads nothing occupies bounded memory. The responder
has no socket: requests come in as bytes with the peer's id.

**Server.** A ROUTER socket in a thread of its own, because `publish` waits for a slow subscriber,
which may be the one that sends requests. It shares only the ring with the publisher. After a reply
it rests three times as long as the reply took, so it uses at most a quarter of a core and the
publisher keeps its pace; requests wait in the socket meanwhile.
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
from ..typing import Float64s, Int64s
from .endpoints import REQUEST_BUFFER, Binding, open_socket
from .guard import Inbound
from .protocol import (
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
"""Ticks of a stream: as many as may wait in the sockets for a slow subscriber, so one that lost
its connection with all that was queued for it can recover everything."""

RING_BYTES = 256 * 2**20
"""Bytes of all streams: twenty full streams of fourteen columns."""

FIRST_ROWS, MAX_ROWS = 16, 4096
"""Rows of a stream's first chunk and of its longest; each chunk doubles. So a quiet stream takes
little memory, and a busy one loses a small part of its ticks at a time."""

CHUNK_BYTES = 500
"""Of a chunk, beside its rows: two arrays and the object that refers to them."""


class _Chunk:
    """Consecutive ticks from number `seq` on; the first `filled` rows are set."""

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
    """The chunks of a stream, with the numbers from `oldest` to below `next_seq`."""

    __slots__ = ("chunks", "next_seq", "oldest", "size")

    def __init__(self, seq: int) -> None:
        self.chunks: deque[_Chunk] = deque()
        self.oldest = self.next_seq = seq
        self.size = 0


class RingRows(NamedTuple):
    """Consecutive ticks from number `seq` on: `t_ns` int64 (n,), `values` float64 (n, C)."""

    seq: int
    t_ns: Int64s
    values: Float64s


class Ring:
    """The newest ticks of every stream.

    columns: values of a tick. ticks: of one stream, at most. max_bytes: of all streams; if there
    are more streams than fit, each still has its last chunk.
    """

    def __init__(
        self, columns: int, *, ticks: int = RING_TICKS, max_bytes: int = RING_BYTES
    ) -> None:
        self.size = 0
        self._columns = columns
        self._ticks = ticks
        self._max_bytes = max_bytes
        self._streams: dict[str, _Stream] = {}
        self._rotation: deque[_Stream] = deque()
        self._lock = threading.Lock()

    def append(self, stream: str, seq: int, t_ns: npt.ArrayLike, values: npt.ArrayLike) -> None:
        """Copy a tick, `values` (C,), or a block, `values` (n, C), whose first number is `seq`.

        The numbers of a stream must be consecutive.
        """
        block = np.asarray(values, np.float64)
        if block.ndim == 1:
            self._append(stream, seq, t_ns, block, 1)
            return
        times = np.broadcast_to(np.asarray(t_ns, np.int64), len(block))
        for start in range(0, len(block), MAX_ROWS):
            part = slice(start, start + MAX_ROWS)
            self._append(stream, seq + start, times[part], block[part], len(times[part]))

    def _append(
        self, name: str, seq: int, t_ns: npt.ArrayLike, values: Float64s, count: int
    ) -> None:
        with self._lock:
            stream = self._streams.get(name)
            if stream is None:
                stream = self._streams[name] = _Stream(seq)
                self._rotation.append(stream)
            chunk = stream.chunks[-1] if stream.chunks else None
            if chunk is None or chunk.filled + count > len(chunk.t_ns):
                chunk = self._grow(stream, seq, count)
            end = chunk.filled + count
            chunk.t_ns[chunk.filled : end] = t_ns
            chunk.values[chunk.filled : end] = values
            chunk.filled = end
            stream.next_seq = seq + count
            oldest = stream.next_seq - self._ticks
            if stream.oldest < oldest:
                stream.oldest = oldest
                while stream.chunks[0].seq + stream.chunks[0].filled <= oldest:
                    self._drop(stream)

    def _grow(self, stream: _Stream, seq: int, rows: int) -> _Chunk:
        """Append a chunk for at least `rows` ticks, and drop others if there is no room."""
        before = len(stream.chunks[-1].t_ns) if stream.chunks else FIRST_ROWS // 2
        chunk = _Chunk(seq, max(rows, min(2 * before, MAX_ROWS)), self._columns)
        if not stream.chunks:
            stream.oldest = seq
        stream.chunks.append(chunk)
        stream.size += chunk.size
        self.size += chunk.size
        if self.size > self._max_bytes:
            self._make_room(stream)
        return chunk

    def _make_room(self, newest: _Stream) -> None:
        """Drop the oldest chunks of streams above their share."""
        share = self._max_bytes / len(self._rotation)
        while self.size > self._max_bytes and newest.size > share and len(newest.chunks) > 1:
            self._drop(newest)
        for _ in range(len(self._rotation)):
            if self.size <= self._max_bytes:
                return
            while self._rotation[0].size > share and len(self._rotation[0].chunks) > 1:
                self._drop(self._rotation[0])
            self._rotation.rotate(-1)

    def _drop(self, stream: _Stream) -> None:
        chunk = stream.chunks.popleft()
        stream.size -= chunk.size
        self.size -= chunk.size
        stream.oldest = max(stream.oldest, stream.chunks[0].seq)

    def span(self, stream: str) -> tuple[int, int] | None:
        """Return the oldest number and the next one; None for an unknown stream."""
        found = self._streams.get(stream)
        return None if found is None else (found.oldest, found.next_seq)

    def spans(self) -> dict[str, tuple[int, int]]:
        """Return the span of every stream."""
        # Both numbers only grow, so without a lock a span is at worst a little too long.
        return {name: (s.oldest, s.next_seq) for name, s in list(self._streams.items())}

    def read(self, stream: str, first: int, last: int, most: int) -> RingRows | None:
        """Return up to `most` ticks from `first` to at most `last`; None without `first`."""
        with self._lock:
            found = self._streams.get(stream)
            if found is None or not found.oldest <= first < found.next_seq:
                return None
            stop = min(last + 1, found.next_seq, first + most)
            parts = [
                (chunk, max(first - chunk.seq, 0), min(stop - chunk.seq, chunk.filled))
                for chunk in found.chunks
                if chunk.seq < stop and chunk.seq + chunk.filled > first
            ]
        return RingRows(
            first,
            np.concatenate([chunk.t_ns[low:high] for chunk, low, high in parts]),
            np.concatenate([chunk.values[low:high] for chunk, low, high in parts]),
        )


REPLY_BYTES = 256 * 1024
"""Of the ticks in one BLOCK: some 10,000 ticks of two columns, copied in 0.1 ms."""

REQUESTS_PER_S = 1_000.0
"""Of one peer: ten million ticks of two columns a second, more than any session takes."""

BURST = 1_000.0
"""Requests that one peer may send together: one for each of a thousand streams."""

REFILL = 0.25
"""Part of the burst that is available again after the time in BUSY."""

MAX_PEERS = 64
"""Peers in the table; each can leave a megabyte of replies unread."""

SNAPSHOT_S = 1.0
"""Least time between two snapshots; one of 100,000 streams takes 50 ms."""


class RecoveryCounters:
    """Counts of requests and replies; `refused` are messages that were not valid requests."""

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

    run_id: of the publisher. columns: names of the values. clock: seconds, monotonic. connected:
    whether a peer is still there, called before its place in the table is given to another one.
    """

    def __init__(
        self,
        ring: Ring,
        run_id: str,
        columns: tuple[str, ...],
        *,
        clock: Callable[[], float],
        connected: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        self.counters = RecoveryCounters()
        self._ring = ring
        self._run_id = run_id
        self._columns = columns
        self._max_rows = max(1, REPLY_BYTES // (8 + 8 * len(columns)))
        self._clock = clock
        self._connected = connected
        self._peers: OrderedDict[bytes, _Peer] = OrderedDict()
        self._snapshots: dict[bool, bytes] = {}
        self._snapshot_due = clock()

    @property
    def unfinished(self) -> bool:
        """Whether a peer has received only the beginning of the ticks it last requested."""
        return any(peer.unfinished for peer in list(self._peers.values()))

    def answer(self, peer_id: bytes, payload: bytes) -> bytes | None:
        """Return the reply to a request, in its encoding; None for no reply."""
        self.counters.requests += 1
        peer = self._peer(peer_id)
        busy = peer is None or peer.allowance < 1.0
        if peer is not None and not busy:
            peer.allowance -= 1.0
        self.counters.busy += busy
        try:
            request = decode_request(payload)
        except DecodeError:
            self.counters.refused += 1
            return None
        json = payload[:1] == b"{"
        if peer is None or busy:
            stream = request.stream if isinstance(request, ReplayRequest) else ""
            retry_ms = int(BURST * REFILL / REQUESTS_PER_S * 1000)
            return _encode(Busy(retry_ms=retry_ms, stream=stream), json=json)
        match request:
            case Hello():
                return _encode(Welcome(run_id=self._run_id, columns=self._columns), json=json)
            case SnapshotRequest():
                return self._snapshot(json=json)
            case ReplayRequest():
                reply = self._replay(request)
                peer.unfinished = (
                    isinstance(reply, Block) and reply.seq + reply.rows <= request.to_seq
                )
                return _encode(reply, json=json)

    def _peer(self, peer_id: bytes) -> _Peer | None:
        """Return a peer, its allowance refilled; None if the table is full."""
        now = self._clock()
        peer = self._peers.get(peer_id)
        if peer is None:
            if len(self._peers) >= MAX_PEERS and not self._evict():
                return None
            peer = self._peers[peer_id] = _Peer(now)
        self._peers.move_to_end(peer_id)
        peer.allowance = min(peer.allowance + (now - peer.at) * REQUESTS_PER_S, BURST)
        peer.at = now
        return peer

    def _evict(self) -> bool:
        """Remove the longest silent peer that is gone; return whether there was one."""
        for peer_id in list(self._peers):
            if not self._connected(peer_id):
                del self._peers[peer_id]
                return True
        return False

    def _replay(self, request: ReplayRequest) -> Reply:
        stream, run_id, first = request.stream, request.run_id, request.from_seq
        span = self._ring.span(stream) if run_id == self._run_id else None
        rows = (
            None
            if span is None
            else self._ring.read(stream, first, request.to_seq, self._max_rows)
        )
        if rows is not None:
            self.counters.replayed += len(rows.t_ns)
            return Block(
                stream=stream,
                run_id=run_id,
                seq=rows.seq,
                rows=len(rows.t_ns),
                t_ns=rows.t_ns.astype("<i8", copy=False).tobytes(),
                values=rows.values.astype("<f8", copy=False).tobytes(),
            )
        self.counters.gone += 1
        # No number of another run or an unknown stream is available.
        oldest = MAX_SEQ if span is None or span[0] <= first else span[0]
        return Gone(stream=stream, run_id=run_id, oldest_seq=oldest)

    def _snapshot(self, *, json: bool) -> bytes:
        now = self._clock()
        if now >= self._snapshot_due:
            self._snapshots.clear()
            self._snapshot_due = now + SNAPSHOT_S
        if json not in self._snapshots:
            reply = SnapshotReply(run_id=self._run_id, streams=self._ring.spans())
            self._snapshots[json] = _encode(reply, json=json)
        return self._snapshots[json]


def _encode(reply: Reply, *, json: bool) -> bytes:
    return encode_side(reply, "json" if json else "msgpack")


MAX_REPLIES_WAITING = 8
"""For one peer: twice as many as a subscriber requests at a time; further ones are lost."""

MAX_REQUESTS_WAITING = 100
"""Of one peer."""

MAX_REQUEST_BYTES = 4096
"""A request with the longest names is a quarter of that. A peer that sends more is dropped."""

MAX_MESSAGE_BYTES = 2**20
"""Of one request with all its parts, however many: a valid one has two or three."""

REST = 3.0
"""Time of rest after a reply, as a multiple of the time that it took."""

MAX_REST_S = 0.1
"""Of one rest: a thread that waited long for the interpreter need not rest that long again."""

QUIET_S = 2.0
"""After a request in which another may come: as long as a subscriber waits for a reply."""


class RecoveryServer:
    """Answers requests for the ticks of a ring at an endpoint, until it is closed.

    `endpoint` is the actual one. security: keys, and who may connect. clock: seconds, monotonic.

    Raises EndpointError if the endpoint cannot be bound, ConfigurationError if it must not be.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        bind: str,
        ring: Ring,
        run_id: str,
        columns: tuple[str, ...],
        *,
        security: Security,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._last_request = clock()
        self._inbound = Inbound(MAX_MESSAGE_BYTES)
        self._socket = open_socket(
            context,
            zmq.ROUTER,
            send_hwm=MAX_REPLIES_WAITING,
            receive_hwm=MAX_REQUESTS_WAITING,
            max_frame_bytes=MAX_REQUEST_BYTES,
            receive_buffer=REQUEST_BUFFER,
        )
        try:
            self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._binding = Binding(self._socket, bind, security, self._inbound)
        except BaseException:
            self._socket.close(linger=0)
            raise
        self.endpoint = self._binding.endpoint
        self._probe = encode_side(Welcome(run_id=run_id, columns=columns))
        self.responder = RecoveryResponder(
            ring, run_id, columns, clock=clock, connected=self._is_connected
        )
        self._wakeup, self._closing = sockets.socketpair()
        self._thread = threading.Thread(target=self._serve, name="recovery", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        """Answer until `close`; only this thread uses the socket."""
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
        self._last_request = self._clock()
        # A REQ socket sends an empty frame before its request and expects one before the reply.
        if len(frames) not in (2, 3) or (len(frames) == 3 and frames[1]):
            self.responder.counters.refused += 1
            return
        reply = self.responder.answer(frames[0], frames[-1])
        if reply is not None:
            self._send([*frames[:-1], reply])

    def _send(self, frames: list[bytes]) -> bool:
        """Send a reply; return whether its receiver is still there."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return True  # it reads nothing; it may request again what it misses
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True

    def _is_connected(self, peer_id: bytes) -> bool:
        return self._send([peer_id, self._probe])

    def expects_requests(self, patience_s: float) -> bool:
        """Return whether more requests are likely; see `Publisher.expects_requests`."""
        quiet_s = self._clock() - self._last_request
        return quiet_s < (patience_s if self.responder.unfinished else QUIET_S)

    def close(self) -> None:
        """Stop answering."""
        if not self._thread.is_alive():
            return
        self._closing.send(b"x")
        self._thread.join()
        self._closing.close()
        self._wakeup.close()
        self._binding.close()
