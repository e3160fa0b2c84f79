"""The table of a session: one row per stream, its numbers in columns.

`ints` contains each stream's position and its counters, `carry` the network's carried state,
`memory_t` and `memory_v` the last accepted ticks, `last` the values of the tick with the latest
time, and `pending` the predictions that wait for a label of the series. A prediction waits for
`horizon` elements and one is made every `stride`, so each stream has a fixed number of slots.
`stream.StreamExtras` contains what only some configurations need, such as a tape.

Elements are counted from 1, and the count never decreases. `fresh` is the count at the last
reset: the warm-up ends W elements later. `first` is the element of the first prediction since
then, and `flag_until` the last element whose prediction is flagged because of a gap or a pause.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ..config import Config
from ..events import MAX_COUNT
from ..model.runtime import aligned_zeros
from ..typing import Bools, Float32s, Float64s, Int64s
from .old_ticks import NEVER

MAX_STREAMS = 100_000
"""Streams of one session: bounds the memory that a feed can claim by inventing names."""

FIRST_ROWS = 16
"""Rows of a new table; a full table doubles."""


class Counters(msgspec.Struct):
    """Events of a stream since it was opened.

    `old_ticks` counts every tick that `old_ticks` calls old, refused or not. The `labels_*`
    counters belong to external labels, see `labels.LabelPolicy`. `updates_refused` is the sum of
    the three reasons after it, and `updates_rested` counts updates skipped after a rollback. New
    counters come last: `StreamTable.restore` sets those that an older snapshot lacks to 0.
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
    pauses: int = 0


COLUMNS: tuple[str, ...] = (
    "n",
    "fresh",
    "first",
    "flag_until",
    "last_label",
    "memory_size",  # ticks in the feature memory
    "numbered",  # whether the feed numbers its ticks, which makes gaps visible
    "expired",
    "labels",  # this and the next two are the counts of the plain forecasters
    "positives",
    "repeats",
    "latest",  # the latest time, in ns since 1970
    *Counters.__struct_fields__,
)
"""The columns of `ints`."""

AT = {name: k for k, name in enumerate(COLUMNS)}
"""The index of each column."""

N, FRESH, FIRST, FLAG_UNTIL, LAST_LABEL, MEMORY_SIZE, NUMBERED, EXPIRED = range(8)
LABELS, POSITIVES, REPEATS, LATEST = 8, 9, 10, 11
OLD_TICKS, RESETS = AT["old_ticks"], AT["resets"]
TICKS, REFUSED_TICKS, PREDICTIONS = AT["ticks"], AT["refused_ticks"], AT["predictions"]

P, BASE_P, LAST_P, LAST = range(4)
"""The columns of `pending`: p of the network and the plain forecasters, and the last label."""

_ARRAYS = ("ints", "carry", "memory_t", "memory_v", "last", "pending", "pending_sources", "own")


class PendingPrediction(NamedTuple):
    """A prediction that waits for a label of the series; see `labels.LedgerEntry` for fields."""

    n: int
    p: float
    base_rate_p: float
    last_label_p: float
    last_label: int
    run_id: str
    raw_p: float | None = None
    frozen_p: float | None = None
    stateless_p: float | None = None
    experts: np.ndarray | None = None


class TableState(msgspec.Struct, frozen=True):
    """A table as plain data, for a snapshot; `own` are the weights of each stream.

    `sources` (rows,) and `pending_sources` (rows, slots) are object arrays of text, or lists where
    a snapshot was decoded.
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

    start: the carry (width,) of a new stream. lag, columns: ticks of the feature memory, and
    values of each. own: the weights (w,) of a new stream, where streams have their own weights and
    do not learn. limit: streams at most.

    Attributes: `names`, the streams in the order of opening, and `called`, the same as an array;
    `places`, the row of each name; `sources` (rows,), the run ids of the publishers.
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
        self.memory_v: Float64s = np.zeros((rows, lag, columns))
        self.last: Float64s = np.zeros((rows, columns))
        self.pending: Float64s = np.zeros((rows, self.slots, 4))
        self.pending_sources: npt.NDArray[np.object_] = np.full((rows, self.slots), "", np.object_)
        self.sources: npt.NDArray[np.object_] = np.full(rows, "", np.object_)
        self.called: npt.NDArray[np.object_] = np.full(rows, "", np.object_)
        # Each row of weights starts at an aligned address: compiled code reads it in place.
        self.own: Float32s = aligned_zeros((rows, -(-own // 16) * 16))
        self.view: Any = self.ints.data

    def __len__(self) -> int:
        return len(self.names)

    def open(self, name: str) -> int:
        """Return the row of a stream, opening it if it is new; -1 at the limit.

        All arrays are replaced when the table grows; `capacity` changes then.
        """
        row = self.places.get(name)
        if row is not None:
            return row
        row = len(self.names)
        if row == self.limit:
            return -1
        if row == self.capacity:
            old = {array: getattr(self, array) for array in (*_ARRAYS, "sources", "called")}
            self._allocate(min(2 * row, self.limit))
            for array, values in old.items():
                getattr(self, array)[:row] = values
        self.names.append(name)
        self.places[name] = row
        self.called[row] = name
        ints = self.ints[row]
        ints[NUMBERED], ints[LAST_LABEL], ints[LATEST] = 1, -1, NEVER
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
        """Return the element of a stream's next prediction."""
        window, stride = self.stream.window, self.stream.stride
        n, first = int(self.view[row, N]), int(self.view[row, FIRST])
        return max(first, window + ((n - window) // stride + 1) * stride)

    def waiting(self, row: int) -> list[PendingPrediction]:
        """Return a stream's predictions that wait for a label of the series, in order."""
        stream, n = self.stream, int(self.view[row, N])
        oldest = n - stream.horizon + 1
        oldest += (stream.window - oldest) % stream.stride
        oldest = max(int(self.view[row, FIRST]), oldest)
        return [self._waiting(row, made) for made in range(oldest, n + 1, stream.stride)]

    def _waiting(self, row: int, n: int) -> PendingPrediction:
        place = row, self.slot(n)
        p, base, last_p, last = self.pending[place].tolist()
        return PendingPrediction(n, p, base, last_p, int(last), str(self.pending_sources[place]))

    def set_waiting(self, row: int, pending: Iterable[PendingPrediction]) -> None:
        """Write a stream's waiting predictions."""
        for one in pending:
            place = row, self.slot(one.n)
            self.pending[place] = one[1:5]
            self.pending_sources[place] = one.run_id

    def slot(self, n: Any) -> Any:
        """Return the slot in `pending` of the prediction after element `n`."""
        return (n - self.stream.window) // self.stream.stride % self.slots

    def counters(self, row: int) -> Counters:
        """Return the counters of a stream."""
        return Counters(*self.ints[row, TICKS:].tolist())

    def totals(self) -> Counters:
        """Return the counters of all streams together."""
        counts = self.ints[: len(self), TICKS:]
        # int64 wraps silently, float64 does not
        beyond = counts.sum(axis=0, dtype=np.float64) >= MAX_COUNT
        return Counters(*np.where(beyond, MAX_COUNT, counts.sum(axis=0)).tolist())

    def column(self, name: str) -> Int64s:
        """Return a column of `ints` for all streams."""
        return self.ints[: len(self), AT[name]]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, without the stream's name."""
        return sum(int(getattr(self, name)[:1].nbytes) for name in _ARRAYS) + 8

    def state(self) -> TableState:
        """Return a copy of the rows of the open streams, with unused cells set to zero."""
        count = len(self)
        arrays = {name: getattr(self, name)[:count].copy() for name in _ARRAYS}
        idle = ~self._occupied(count)
        arrays["pending"][idle], arrays["pending_sources"][idle] = 0.0, ""
        unused = np.arange(arrays["memory_t"].shape[1]) >= arrays["ints"][:, MEMORY_SIZE, None]
        arrays["memory_t"][unused], arrays["memory_v"][unused] = 0, 0.0
        return TableState(list(self.names), self.sources[:count].copy(), **arrays)

    def _occupied(self, count: int) -> Bools:
        """Return which slots (rows, slots) contain a waiting prediction."""
        stream, n, first = self.stream, self.ints[:count, N], self.ints[:count, FIRST]
        occupied = np.zeros((count, self.slots), np.bool_)
        newest = n - (n - stream.window) % stream.stride
        for k in range(self.slots):
            made = newest - k * stream.stride
            waits = (made >= first) & (made > n - stream.horizon)
            occupied[np.flatnonzero(waits), self.slot(made[waits])] = True
        return occupied

    def restore(self, state: TableState) -> None:
        """Replace all rows by those of `state`; raises ValueError where they do not fit."""
        count = len(state.names)
        arrays = {name: getattr(state, name) for name in _ARRAYS if name != "pending_sources"}
        arrays["ints"] = with_new_counters(state.ints)
        for name, array in arrays.items():
            wanted = getattr(self, name)
            if array.shape != (count, *wanted.shape[1:]) or array.dtype != wanted.dtype:
                raise ValueError(f"the column {name} has the shape {array.shape}")
        if not len(state.sources) == len(set(state.names)) == len(state.pending_sources) == count:
            raise ValueError("the numbers of names and rows differ")
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


def with_new_counters(ints: Int64s) -> Int64s:
    """Return the `ints` of a snapshot with 0 for the counters that did not exist then."""
    missing = len(COLUMNS) - ints.shape[-1]
    if ints.ndim == 2 and 0 < missing < len(COLUMNS) - RESETS:
        return np.pad(ints, ((0, 0), (0, missing)))
    return ints
