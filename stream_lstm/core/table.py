"""The table of a session: one row for each stream, its numbers side by side in columns.

`ints` holds where a stream stands and its counters, `carry` what the network carries, `memory_t`
and `memory_v` the last accepted ticks, `last` the values of the tick that had the latest time, and
`pending` the predictions that wait for a label of the series itself. A prediction waits for
`horizon` elements and is made every `stride`, so a stream has a fixed number of places for them.
What only some configurations need (a tape, a ledger of
labels from outside) is kept beside the table; see `stream`.

Elements are counted from 1 and the count never goes back. `fresh` is the count at the last reset:
warm-up is over once W elements have come since then. `first` is the element after which
predictions began, or will begin, and `flag_until` the last element whose prediction is flagged
because of a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..config import Config
from ..events import MAX_COUNT
from ..model.buffers import aligned_zeros
from ..typing import Float32s, Int64s
from .old_times import NEVER

MAX_STREAMS = 100_000
"""Streams of one session: a bound on what a feed that invents names can take."""

FIRST_ROWS = 16
"""Rows of a new table, which doubles when it is full."""


class Counters(msgspec.Struct):
    """What happened on a stream since it was opened.

    `old_ticks` are those that `old_times` calls old, whether they were refused for it or not.
    Those of `labels_` are of labels from outside; see `labels.LabelPolicy`. `updates_refused` are
    those of the three reasons below together, `updates_rested` those that were left out after a
    roll-back.
    """

    ticks: int = 0
    refused_ticks: int = 0
    old_ticks: int = 0
    refused_labels: int = 0
    labels_early: int = 0
    labels_repeated: int = 0
    labels_revised: int = 0
    labels_disagreeing: int = 0
    labels_late: int = 0
    labels_unknown: int = 0
    labels_bad: int = 0
    predictions: int = 0
    updates: int = 0
    updates_refused: int = 0
    updates_not_finite: int = 0
    updates_too_large: int = 0
    weights_too_large: int = 0
    updates_rested: int = 0
    rollbacks: int = 0
    gaps: int = 0
    missed: int = 0
    resets: int = 0


COUNTED: tuple[str, ...] = Counters.__struct_fields__

COLUMNS: tuple[str, ...] = (
    "n",
    "fresh",
    "first",
    "flag_until",
    "last_label",
    "held",  # ticks in the feature memory
    "visible",  # whether the feed numbers its ticks, so that gaps are seen
    "expired",
    "labels",  # with the two below: what the plain forecasters count
    "positives",
    "repeats",
    "latest",  # the latest time, in ns since 1970
    *COUNTED,
)
"""The columns of `ints`."""

AT = {name: k for k, name in enumerate(COLUMNS)}
"""Where each is."""

N, FRESH, FIRST, FLAG_UNTIL, LAST_LABEL, HELD, VISIBLE, EXPIRED = range(8)
LABELS, POSITIVES, REPEATS, LATEST = 8, 9, 10, 11
OLD_TICKS = AT["old_ticks"]
TICKS, REFUSED_TICKS, PREDICTIONS = AT["ticks"], AT["refused_ticks"], AT["predictions"]

P, BASE_P, LAST_P, LAST = range(4)
"""The columns of `pending`: what network and plain forecasters gave, and the last label."""


class TableState(msgspec.Struct, frozen=True):
    """A table as plain data, for a snapshot; `own` are the streams' own weights.

    `sources` (rows,) and `pending_sources` (rows, slots) are arrays of texts where they were not
    read from a snapshot.
    """

    names: list[str]
    sources: Sequence[str] | Any
    pending_sources: Sequence[Sequence[str]] | Any
    ints: np.ndarray
    carry: np.ndarray
    memory_t: np.ndarray
    memory_v: np.ndarray
    last: np.ndarray
    pending: np.ndarray
    own: np.ndarray


class StreamTable:
    """The rows of all streams.

    start: the carry (width,) of a new stream. lag, columns: ticks of the feature memory and
    values of each. own: the weights (w,) that a new stream starts from, where each has weights of
    its own and does not learn. limit: streams at most.

    `names` are the streams in the order of their opening (`called` is an array of them by row),
    `places` their rows, `sources` (rows,) the
    publishers' run ids.
    """

    def __init__(
        self,
        config: Config,
        start: Float32s,
        lag: int,
        columns: int,
        *,
        own: Float32s | None = None,
        limit: int = MAX_STREAMS,
    ) -> None:
        self.stream, self.limit = config.stream, limit
        self.slots = -(-config.stream.horizon // config.stream.stride)
        self.names: list[str] = []
        self.places: dict[str, int] = {}
        self._start, self._own = start, own
        self._shapes = (len(start), lag, columns, 0 if own is None else len(own))
        self._allocate(FIRST_ROWS)

    def _allocate(self, rows: int) -> None:
        width, lag, columns, own = self._shapes
        self.capacity = rows
        self.ints: Int64s = np.zeros((rows, len(COLUMNS)), np.int64)
        self.carry: Float32s = aligned_zeros((rows, width))
        self.memory_t: Int64s = np.zeros((rows, lag), np.int64)
        self.memory_v: npt.NDArray[np.float64] = np.zeros((rows, lag, columns))
        self.last: npt.NDArray[np.float64] = np.zeros((rows, columns))
        self.pending: npt.NDArray[np.float64] = np.zeros((rows, self.slots, 4))
        self.pending_sources: npt.NDArray[np.object_] = np.full((rows, self.slots), "", np.object_)
        self.sources: npt.NDArray[np.object_] = np.full(rows, "", np.object_)
        self.called: npt.NDArray[np.object_] = np.full(rows, "", np.object_)
        # A row of weights starts at a line of memory, so that a call can read it where it is.
        self.own: Float32s = aligned_zeros((rows, -(-own // 16) * 16))
        self.view: Any = self.ints.data

    def _grow(self, rows: int) -> None:
        old = {name: getattr(self, name) for name in (*_ARRAYS, "sources", "called")}
        self._allocate(rows)
        for name, array in old.items():
            getattr(self, name)[: len(array)] = array

    def __len__(self) -> int:
        return len(self.names)

    def open(self, name: str) -> int:
        """Return the row of a stream, opened if it is new; -1 where there are too many.

        Arrays are new ones where the table had to grow; `capacity` tells.
        """
        row = self.places.get(name)
        if row is not None:
            return row
        row = len(self.names)
        if row == self.limit:
            return -1
        if row == self.capacity:
            self._grow(min(2 * row, self.limit))
        self.names.append(name)
        self.places[name] = row
        self.called[row] = name
        ints = self.ints[row]
        ints[VISIBLE], ints[LAST_LABEL], ints[LATEST] = 1, -1, NEVER
        ints[FIRST] = self.first_due(0)
        self.carry[row] = self._start
        if self._own is not None:
            self.own[row, : len(self._own)] = self._own
        return row

    def first_due(self, fresh: int) -> int:
        """Return the first n >= fresh + window with (n - window) a multiple of stride."""
        stride = self.stream.stride
        return self.stream.window + -(-fresh // stride) * stride

    def next_due(self, row: int) -> int:
        """Return the element after which the next prediction of a stream is due."""
        window, stride = self.stream.window, self.stream.stride
        n, first = int(self.view[row, N]), int(self.view[row, FIRST])
        return max(first, window + ((n - window) // stride + 1) * stride)

    def waiting(self, row: int) -> range:
        """Return the predictions of a stream that wait for a label of the series."""
        stream = self.stream
        n = int(self.view[row, N])
        oldest = n - stream.horizon + 1
        oldest += (stream.window - oldest) % stream.stride
        return range(max(int(self.view[row, FIRST]), oldest), n + 1, stream.stride)

    def slot(self, n: Any) -> Any:
        """Return the place among `pending` of the prediction after element `n`."""
        return (n - self.stream.window) // self.stream.stride % self.slots

    def counters(self, row: int) -> Counters:
        """Return what happened on a stream."""
        counts = self.ints[row, TICKS:].tolist()
        return Counters(*counts)

    def totals(self) -> Counters:
        """Return what happened on all streams."""
        counts = self.ints[: len(self), TICKS:]
        # int64 wraps without a word, and float64 does not
        beyond = counts.sum(axis=0, dtype=np.float64) >= MAX_COUNT
        return Counters(*np.where(beyond, MAX_COUNT, counts.sum(axis=0)).tolist())

    @property
    def row_bytes(self) -> int:
        """Bytes of a row; a stream's name comes to that."""
        arrays = [getattr(self, name) for name in _ARRAYS]
        return sum(int(array[:1].nbytes) for array in arrays) + 8

    def state(self) -> TableState:
        """Return the rows of the open streams."""
        count = len(self)
        arrays = {name: getattr(self, name)[:count].copy() for name in _ARRAYS}
        # What is left of predictions that do not wait any more is no part of the state.
        idle = ~self._occupied(count)
        arrays["pending"][idle], arrays["pending_sources"][idle] = 0.0, ""
        unused = np.arange(arrays["memory_t"].shape[1]) >= arrays["ints"][:, HELD, None]
        arrays["memory_t"][unused], arrays["memory_v"][unused] = 0, 0.0
        return TableState(list(self.names), self.sources[:count].copy(), **arrays)

    def _occupied(self, count: int) -> npt.NDArray[np.bool_]:
        """Return which places of the first rows hold a prediction that waits, (rows, slots)."""
        stream, n, first = self.stream, self.ints[:count, N], self.ints[:count, FIRST]
        occupied = np.zeros((count, self.slots), np.bool_)
        newest = n - (n - stream.window) % stream.stride
        for k in range(self.slots):
            made = newest - k * stream.stride
            waits = (made >= first) & (made > n - stream.horizon)
            occupied[np.flatnonzero(waits), self.slot(made[waits])] = True
        return occupied

    def restore(self, state: TableState) -> None:
        """Become what `state` says; raises ValueError where it does not fit."""
        count = len(state.names)
        arrays = {name: getattr(state, name) for name in _ARRAYS if name != "pending_sources"}
        for name, array in arrays.items():
            wanted = getattr(self, name)
            if array.shape != (count, *wanted.shape[1:]) or array.dtype != wanted.dtype:
                raise ValueError(f"the column {name} has the shape {array.shape}")
        if not len(state.sources) == len(set(state.names)) == len(state.pending_sources) == count:
            raise ValueError("there are not as many names as rows")
        rows = FIRST_ROWS
        while rows < count:
            rows = min(2 * rows, self.limit)
        self._allocate(rows)
        for name, array in arrays.items():
            getattr(self, name)[:count] = array
        for row, sources in enumerate(state.pending_sources):
            self.pending_sources[row] = sources
        self.names = list(state.names)
        self.called[:count], self.sources[:count] = self.names, state.sources
        self.places = {name: row for row, name in enumerate(self.names)}


_ARRAYS = ("ints", "carry", "memory_t", "memory_v", "last", "pending", "pending_sources", "own")
