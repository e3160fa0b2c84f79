"""The newest ticks of every stream, kept so that they can be sent again.

Each stream keeps its newest ticks, so many at most; all of them together are bounded in bytes.
Where the bytes run out, a stream that holds more than its even share gives up its oldest ticks, so
that a busy stream never drives out the few of a quiet one.

One thread appends and another reads. Rows lie in chunks that are only ever filled from the front,
so what a reader has found stays as it is, however long copying it takes, and neither waits for the
other longer than it takes to find the chunks.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

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


class Rows(NamedTuple):
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

    def read(self, stream: str, first: int, last: int, most: int) -> Rows | None:
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
        return Rows(
            first,
            np.concatenate([chunk.t_ns[low:high] for chunk, low, high in parts]),
            np.concatenate([chunk.values[low:high] for chunk, low, high in parts]),
        )
