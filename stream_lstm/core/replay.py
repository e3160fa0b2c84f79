"""A historical series through a session.

`Replay` is the one loop of everything that replays. Rows come in blocks of any size and pass in
pieces, between which the caller gets the progress and may stop. The results do not depend on the
pieces. Streams that only step pass in columns; those that learn are pushed run by run.

`Digest` is one string to compare two runs by: SHA-256 over the predictions of a stream in order,
each as the stream's name (UTF-8), n (int64) and the float32 bits of p, little-endian. The digest
of several streams is SHA-256 over their digests in the order of their names, since the order
between streams is a matter of timing.

`LateLabels` gives the session the labels of a file, each at its time. The label of the prediction
made after element n is in the row of element n + horizon. It comes with the row that is `delay`
elements after that one, or with the first that is `delay_ns` nanoseconds later. A label that comes
with a row is known to the prediction made after it, so it is given before the row is stepped; but
the label of an element of its own (horizon 0) comes after its prediction. Only the session knows
which rows make elements, so rows are pushed in pieces that end where a label is read or given. A
missing label (NaN) never comes.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from ..errors import DataError
from ..events import Label, Prediction, Ticks
from ..records import Batch
from ..typing import Float64s, Int64s
from .columnar import Arrivals
from .elements import Memory
from .session import Session

PIECE = 16_384
"""Rows between two looks at `stop`: 20 ms, and longer columns are faster."""

LEARN_PIECE = 4096
"""The same with learning: half a second."""

COLUMNS_FROM = 256
"""Ticks of one stream from which columns are faster."""

_PAIR = struct.Struct("<qf")


class Digest:
    """A running digest, see the module."""

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}

    def add(self, prediction: Prediction) -> None:
        """Add one prediction."""
        self._add(prediction.stream, prediction.n, prediction.p)

    def _add(self, stream: str, n: int, p: float) -> None:
        self._hash(stream).update(stream.encode() + _PAIR.pack(n, p))

    def add_batch(self, predictions: Batch[Prediction]) -> None:
        """Add many predictions."""
        streams = predictions["stream"].tolist()
        if len(set(streams)) > 1:
            ns, ps = predictions["n"].tolist(), predictions["p"].tolist()
            for row in zip(streams, ns, ps, strict=True):
                self._add(*row)
        elif streams:
            name = streams[0].encode()
            packed = np.empty(
                len(streams), [("name", f"V{len(name)}"), ("n", "<i8"), ("p", "<f4")]
            )
            packed["name"] = np.void(name)
            packed["n"], packed["p"] = predictions["n"], predictions["p"]
            self._hash(streams[0]).update(packed.tobytes())

    def _hash(self, stream: str) -> Any:
        if stream not in self._hashes:
            self._hashes[stream] = hashlib.sha256()
        return self._hashes[stream]

    def hexdigest(self) -> str:
        """Return the digest so far, in hexadecimal."""
        hashes = [self._hashes[name] for name in sorted(self._hashes)]
        if len(hashes) == 1:
            return str(hashes[0].hexdigest())
        return hashlib.sha256(b"".join(one.digest() for one in hashes)).hexdigest()


def weights_digest(weights: Any) -> str:
    """Return a digest of the bits of weights."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(weights):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


OnPiece: TypeAlias = Callable[[int], object]
OnInput: TypeAlias = Callable[[Ticks | Label], object]


def _ignore(*_: object) -> None:
    """Ignore a refusal, a piece or an input."""


class LateLabels:
    """Pushes the ticks of one stream, and gives each label at its time.

    session: with `labels = "external"`. delay: in elements. delay_ns: in nanoseconds, instead of
    elements unless it is None. rng: draws each delay in elements from 0 to `delay`, so that labels
    come in another order; None delays all the same. on_piece: called with the first row of each
    piece that is pushed. on_input: called with each input that the session got.

    Attributes: `missing`, the labels that the file does not contain.
    """

    def __init__(
        self,
        session: Session,
        *,
        delay: int = 0,
        delay_ns: int | None = None,
        rng: np.random.Generator | None = None,
        on_piece: OnPiece = _ignore,
        on_input: OnInput = _ignore,
    ) -> None:
        stream = session.config.stream
        self.missing = 0
        self._session: Session | _Rehearsal = session
        self._on_piece, self._on_input = on_piece, on_input
        self._delay, self._delay_ns, self._rng = delay, delay_ns, rng
        self._horizon, self._stride = stream.horizon, stream.stride
        self._next = stream.window  # the prediction whose label is read next
        # (element or time of arrival, number of the label, n, y)
        self._arrivals: list[tuple[int, int, int, float]] = []
        self._drawn = self._given = 0

    @property
    def undelivered(self) -> int:
        """Labels that were read and are not given yet."""
        return len(self._arrivals)

    def push(self, ticks: Ticks, labels: Float64s) -> None:
        """Push ticks (m) with the labels (m,) of their rows."""
        start, count = 0, len(ticks.values)
        while start < count:
            n, t_ns = self._elements(ticks.stream), int(ticks.t_ns[start])
            if self._brings_label(n + 1) and self._makes_element(ticks, start):
                if self._horizon and n + 1 == self._next + self._horizon:
                    self._read(float(labels[start]), n + 1, t_ns)
                self._give(ticks.stream, n + 1, t_ns)
            elif self._delay_ns is not None:
                self._give(ticks.stream, n, t_ns)
            stop = start + self._uncut(n, ticks.t_ns[start:])
            self._on_piece(start)
            piece = _piece(ticks, start, stop)
            self._session.push(piece)
            self._on_input(piece)
            start, n, t_ns = stop, self._elements(ticks.stream), int(ticks.t_ns[stop - 1])
            if not self._horizon and n == self._next:
                self._read(float(labels[stop - 1]), n, t_ns)
                self._give(ticks.stream, n, t_ns)  # its own, unless it is late

    def _brings_label(self, n: int) -> bool:
        late = self._arrivals and self._delay_ns is None and self._arrivals[0][0] == n
        return bool(late) or (self._horizon > 0 and n == self._next + self._horizon)

    def _makes_element(self, ticks: Ticks, start: int) -> bool:
        stream, row = self._session.streams.get(ticks.stream), slice(start, start + 1)
        maker = self._session.maker
        memory = maker.empty(ticks.stream) if stream is None else stream.memory
        return maker.accepts(memory, ticks.t_ns[row], ticks.values[row])

    def _elements(self, stream: str) -> int:
        state = self._session.streams.get(stream)
        return 0 if state is None else state.n

    def _uncut(self, n: int, t_ns: Int64s) -> int:
        """Return how many of the next rows can be pushed together, after element n."""
        size = self._next + self._horizon - n - (self._horizon > 0)
        # A row that was to bring a label, and makes no element, is pushed alone.
        size = min(len(t_ns), max(size, 1))
        if not self._arrivals:
            return size
        first = self._arrivals[0][0]
        if self._delay_ns is None:
            return min(size, max(first - 1 - n, 1))
        over = t_ns[:size] >= first
        return int(over.argmax()) if over.any() else size

    def _read(self, y: float, n: int, t_ns: int) -> None:
        """Read the label in the row of element n, at `t_ns`."""
        of, self._next = self._next, self._next + self._stride
        if np.isnan(y):
            self.missing += 1
            return
        delay = self._delay if self._rng is None else int(self._rng.integers(self._delay + 1))
        arrival = n + delay if self._delay_ns is None else t_ns + self._delay_ns
        heapq.heappush(self._arrivals, (arrival, self._drawn, of, y))
        self._drawn += 1

    def _give(self, stream: str, n: int, t_ns: int) -> None:
        """Give the labels that come with the row of element n, or by time `t_ns`."""
        now = n if self._delay_ns is None else t_ns
        while self._arrivals and self._arrivals[0][0] <= now:
            arrival, _, of, y = heapq.heappop(self._arrivals)
            if self._given:
                self._given -= 1  # an earlier run gave it, but had not stepped its row
                continue
            self._label(Label(stream, of, y, t_ns if self._delay_ns is None else arrival))

    def _label(self, label: Label) -> None:
        self._session.label(label)
        self._on_input(label)

    def rehearse(self, pieces: Iterable[tuple[Ticks, Float64s | None]], given: int) -> None:
        """Pass over ticks and labels of an earlier run, which gave `given` of the labels.

        A label that was due after the last of these ticks, and was not given, is given now.
        """
        session, on_piece, on_input = self._session, self._on_piece, self._on_input
        assert isinstance(session, Session)
        self._session = rehearsal = _Rehearsal(session)
        self._on_piece = self._on_input = _ignore
        try:
            for ticks, labels in pieces:
                assert labels is not None
                self.push(ticks, labels)
        finally:
            self._session, self._on_piece, self._on_input = session, on_piece, on_input
        surplus = rehearsal.labels - given
        for label in rehearsal.last[len(rehearsal.last) - surplus :] if surplus > 0 else ():
            self._label(label)
        self._given = max(-surplus, 0)


class _Rehearsal:
    """Replaces a session: counts elements and labels, and does nothing else.

    `last` are the labels since the last ticks.
    """

    def __init__(self, session: Session) -> None:
        self.maker, self.columns = session.maker, session.columns
        self.streams: dict[str, _CountedStream] = {}
        self.labels = 0
        self.last: list[Label] = []

    def push(self, ticks: Ticks) -> None:
        stream = self.streams.setdefault(
            ticks.stream, _CountedStream(self.maker.empty(ticks.stream))
        )
        for t_ns, _ in self.maker.make(stream.memory, ticks.t_ns, ticks.values, _ignore):
            stream.n += len(t_ns)
        self.last.clear()

    def label(self, label: Label) -> None:
        self.labels += 1
        self.last.append(label)


class _CountedStream:
    def __init__(self, memory: Memory) -> None:
        self.memory, self.n = memory, 0


def _piece(ticks: Ticks, start: int, stop: int) -> Ticks:
    part = slice(start, stop)
    seq = None if ticks.seq is None else ticks.seq + start
    return Ticks(
        ticks.stream, ticks.t_ns[part], ticks.values[part], ticks.session, seq, ticks.where
    )


class ReplayRows(NamedTuple):
    """Consecutive rows of a series: times (m,), and values (m, C) in the session's order.

    `numbers` (m,) are the numbers of the rows in messages, and `labels` (m,) their labels. `keys`
    are (names, codes (m,)) for rows of many streams: row k belongs to `names[codes[k]]`.
    """

    t_ns: Int64s
    values: Float64s
    numbers: Int64s | None = None
    labels: Float64s | None = None
    keys: tuple[tuple[str, ...], Int64s] | None = None

    def part(self, rows: slice) -> ReplayRows:
        """Return some of the rows."""
        numbers, labels, keys = self.numbers, self.labels, self.keys
        return ReplayRows(
            self.t_ns[rows],
            self.values[rows],
            None if numbers is None else numbers[rows],
            None if labels is None else labels[rows],
            None if keys is None else (keys[0], keys[1][rows]),
        )

    def pieces(self, size: int) -> Iterator[ReplayRows]:
        """Yield the rows, at most `size` at a time."""
        for start in range(0, len(self.t_ns), size):
            yield self.part(slice(start, start + size))


OnRows: TypeAlias = Callable[[ReplayRows], object]


class Replay:
    """Runs rows through a session.

    stream: of rows without keys. late: gives their labels, if these are external. numbered:
    whether the rows count as numbered by their feed, so that gaps would be visible. before, after:
    called with each piece before and after its way through the session.
    """

    def __init__(
        self,
        session: Session,
        stream: str = "",
        *,
        late: LateLabels | None = None,
        numbered: bool = False,
        before: OnRows = _ignore,
        after: OnRows = _ignore,
    ) -> None:
        self.session, self.stream, self.late = session, stream, late
        self.rows = 0
        self._numbered, self._before, self._after = numbered, before, after
        self._piece = PIECE if session.plain else LEARN_PIECE

    def run(
        self,
        blocks: Iterable[ReplayRows],
        progress: Callable[[int], object] = _ignore,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Run all rows through, and settle; False if `stop` ended it early.

        progress: called with the number of rows so far. Raises DataError at the limit of streams.
        """
        for block in blocks:
            for piece in block.pieces(self._piece):
                self._before(piece)
                self._push(piece)
                self._after(piece)
                self.rows += len(piece.t_ns)
                progress(self.rows)
                if stop():
                    return False
        self.session.settle()
        return True

    def _push(self, piece: ReplayRows) -> None:
        if piece.keys is not None:
            places = self._places(piece.keys, piece)
            self.session.arrive(Arrivals(places, piece.t_ns, piece.values))
            return
        seq = self.rows if self._numbered else None
        ticks = Ticks(self.stream, piece.t_ns, piece.values, seq=seq)
        if self.late is not None and piece.labels is not None:
            self.late.push(ticks, piece.labels)
        else:
            send(self.session, ticks)

    def _places(self, keys: tuple[tuple[str, ...], Int64s], piece: ReplayRows) -> Int64s:
        """Return the row of the session's table for each row, opening new streams in order."""
        names, codes = keys
        used, first = np.unique(codes, return_index=True)
        place = np.empty(len(names), np.int64)
        for at, code in sorted(zip(first.tolist(), used.tolist(), strict=True)):
            place[code] = self.session.place(names[code])
            if place[code] < 0:
                number = at if piece.numbers is None else piece.numbers[at]
                raise DataError(
                    f"row {number} is of the stream {names[code]!r}, and "
                    f"{self.session.table.limit} streams are the limit: replay fewer at a time"
                )
        return place[codes]


def send(session: Session, ticks: Ticks) -> None:
    """Push ticks, in columns if the session can and they are many."""
    if session.columnar and len(ticks.t_ns) >= COLUMNS_FROM:
        place = session.place(ticks.stream)
        if place >= 0:
            places, numbered = np.full(len(ticks.t_ns), place), ticks.seq is not None
            origins = ((0, ticks.where),)
            session.arrive(
                Arrivals(places, ticks.t_ns, ticks.values, ticks.session, numbered, origins)
            )
            return
    session.push(ticks)  # refused at the limit of streams
