"""What a publisher answers to those who ask for lost ticks: each request has one reply, or none.

Nothing here knows a socket: requests come in as bytes with the id of who sent them, replies go
out.

A peer has an allowance of requests that fills up again at a constant rate; beyond it the answer is
BUSY, with the time after which a good part of it is there again. Peers are held in a table, so
that there are never more of them than it has places. A reply is small enough that what waits in
the socket for a peer that reads nothing is bounded by it (see `recovery_server`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from ..errors import DecodeError
from ..events import MAX_SEQ
from .encode import encode_side
from .records import (
    Block,
    Busy,
    Gone,
    Hello,
    ReplayRequest,
    Reply,
    Snapshot,
    SnapshotRequest,
    Welcome,
)
from .ring import Ring
from .wire import decode_request

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


class DeskCounters:
    """What has been asked and answered so far; `refused` are bytes that were no request."""

    __slots__ = ("busy", "gone", "refused", "replayed", "requests")

    def __init__(self) -> None:
        self.requests = self.replayed = self.gone = self.busy = self.refused = 0


class _Peer:
    __slots__ = ("allowance", "at", "unfinished")

    def __init__(self, at: float) -> None:
        self.allowance, self.at = BURST, at
        self.unfinished = False


class RecoveryDesk:
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
        self.counters = DeskCounters()
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
            made = _encode(Snapshot(session=self._session, streams=self._ring.spans()), json=json)
            self._snapshot[json] = made
        return made


def _encode(reply: Reply, *, json: bool) -> bytes:
    return encode_side(reply, "json" if json else "msgpack")
