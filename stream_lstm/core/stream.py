"""A stream while it is stepped tick by tick or chunk by chunk, and what it keeps beside its row.

NumPy is slow for single numbers, so the numbers that every tick needs are Python's own in
`Stream`, and are written to the table after each chunk. A stream also has a row buffer: the last
accepted ticks, which are the feature memory, and behind them the queued ticks, which are checked
and not yet stepped.

`StreamExtras` contains what only some configurations need: the tape, the trace, a bank's mixture,
the carry of the frozen twin, a recalibration, the ledger of external labels and the updates that
are due. `StreamView` shows a stream of a session from outside.

The tape contains the last elements of a stream, for updates to look back over. Entry m is what
element m left behind: its scaled input, the network state after it, and whether its target was
positive. The entries are one array, which is filled to its end and then moved back to its
beginning, so any run of entries is one slice and appending is one copy.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ..events import MAX_COUNT, Refusal
from ..model.runtime import SharedArray
from ..typing import Bools, Float32s
from .elements import Memory
from .labels import Ledger, LedgerEntry
from .losses import Mixture, Recalibration
from .old_ticks import known
from .table import (
    AT,
    EXPIRED,
    FIRST,
    FLAG_UNTIL,
    FRESH,
    LABELS,
    LAST_LABEL,
    LATEST,
    MEMORY_SIZE,
    NUMBERED,
    POSITIVES,
    PREDICTIONS,
    REPEATS,
    Counters,
    N,
    PendingPrediction,
    StreamTable,
)

if TYPE_CHECKING:
    from .machine import Machine
    from .scores import Scoreboard
    from .session import Session

MAX_QUEUED = 64
"""Ticks that can be queued: more than a usual stride, and no more than one compiled call takes."""

TAPE_BLOCKS = 4
"""Blocks behind the entries that must stay: one move every few blocks costs nothing."""

NO_TRACE = np.zeros(0, np.float32)


class Tape(msgspec.Struct, omit_defaults=True):
    """Entries from element `first` on, of which at least the newest `keep` stay.

    `entries` is float32 (capacity, F + N), N the length of a state, and `positive` float32
    (capacity,) of 0 and 1; `used` of them are filled. `lent` says that a frozen copy reads the
    memory of both, so entries may be added but not moved.
    """

    keep: int
    features: int
    entries: np.ndarray
    positive: np.ndarray
    first: int
    used: int
    lent: bool = False

    @classmethod
    def start(cls, n: int, *, keep: int, block: int, features: int, state: int) -> Tape:
        """Return a tape of `keep` zero entries up to element `n`.

        They represent the time before a stream's first element: no input, in a zero state.
        """
        capacity = keep + TAPE_BLOCKS * block
        entries = np.zeros((capacity, features + state), np.float32)
        positive = np.zeros(capacity, np.float32)
        return cls(keep, features, entries, positive, first=n + 1 - keep, used=keep)

    def frozen(self) -> Tape:
        """Return the newest `keep` entries, which do not change while this tape grows."""
        self.lent = True
        start = max(self.used - self.keep, 0)
        entries, positive = self.entries[start : self.used], self.positive[start : self.used]
        return Tape(self.keep, self.features, entries, positive, self.first + start, len(entries))

    def thawed(self, like: Tape) -> Tape:
        """Return these entries in memory as large as that of `like`.

        Raises ValueError where `like` is a tape of another shape.
        """
        shape, used = self.entries.shape, self.used
        fits = (self.keep, self.features) == (like.keep, like.features)
        fits &= shape == (used, like.entries.shape[1]) and self.positive.shape == (used,)
        if not fits or used > self.keep or self.entries.dtype != like.entries.dtype:
            raise ValueError(f"a tape of {used} entries {shape} is not one of this session")
        entries, positive = np.zeros_like(like.entries), np.zeros_like(like.positive)
        entries[:used], positive[:used] = self.entries, self.positive
        return Tape(self.keep, self.features, entries, positive, self.first, used)

    def append(self, entries: Float32s, positive: Bools) -> None:
        """Append entries (m, F + N) and whether their targets were positive (m,)."""
        if len(entries) > len(self.entries) - self.keep:  # more than a block: `keep` stay in all
            drop = max(len(entries) - self.keep, 0)
            entries, positive = entries[drop:], positive[drop:]
            self._drop_all_but(self.keep - len(entries))
            self.first += drop
        elif self.used + len(entries) > len(self.entries):
            self._drop_all_but(min(self.used, self.keep))
        end = self.used + len(entries)
        self.entries[self.used : end], self.positive[self.used : end] = entries, positive
        self.used = end

    def _drop_all_but(self, left: int) -> None:
        drop = self.used - left
        entries = self.entries[drop : self.used].copy()
        positive = self.positive[drop : self.used].copy()
        if self.lent:
            self.entries, self.positive = np.zeros_like(self.entries), np.zeros_like(self.positive)
            self.lent = False
        self.entries[:left], self.positive[:left] = entries, positive
        self.first += drop
        self.used = left

    def inputs(self, n: int, length: int) -> Float32s:
        """Return a copy of the scaled inputs (length, F) of the elements up to `n`."""
        end = n + 1 - self.first
        out: Float32s = self.entries[end - length : end, : self.features].copy()
        return out

    def states(self, ns: Sequence[int]) -> Float32s:
        """Return a copy of the states (D, N) after the elements `ns`."""
        out: Float32s = self.entries[[n - self.first for n in ns], self.features :]
        return out

    def targets(self, n: int, length: int) -> Float32s:
        """Return whether the targets of the elements up to `n` were positive, (length,)."""
        end = n + 1 - self.first
        out: Float32s = self.positive[end - length : end].copy()
        return out

    def newest(self, count: int) -> Float32s:
        """Return the newest entries (count, F + N + 1), with the target's sign as last column.

        Entries that the tape no longer contains are zero.
        """
        there = min(count, self.used)
        out = np.zeros((count, self.entries.shape[1] + 1), np.float32)
        out[count - there :, :-1] = self.entries[self.used - there : self.used]
        out[count - there :, -1] = self.positive[self.used - there : self.used]
        return out


class DueUpdate(msgspec.Struct):
    """A label that became known since the last publication; it is learned from after the next.

    `loss` and `base_loss` are the log losses of the model and the base rate, in nats. `inputs` and
    `starts` are the tape of an external label, None for a label of the series.
    """

    n: int
    label: int
    loss: float
    base_loss: float
    inputs: np.ndarray | None = None
    starts: np.ndarray | None = None


class StreamExtras(msgspec.Struct, rename={"updates": "owed", "pending": "waiting"}):
    """What some configurations keep of a stream beside its row of the table.

    `twin` is the carry of the frozen twin, and `trace` what learning carries from update to
    update. `pending` are predictions with forecasts that a row has no column for.
    """

    tape: Tape | None = None
    trace: np.ndarray | None = None
    mixture: Mixture | None = None
    twin: np.ndarray | None = None
    recalibration: Recalibration | None = None
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    updates: list[DueUpdate] = []
    pending: list[PendingPrediction] = []

    def frozen(self) -> StreamExtras:
        """Return a copy that does not change while this one is worked on."""
        trace: Any = self.trace
        if trace is not None:  # the next update takes its memory
            trace = np.array(trace) if trace.size else NO_TRACE
        return StreamExtras(
            tape=None if self.tape is None else self.tape.frozen(),
            trace=trace,
            mixture=copy.copy(self.mixture),
            twin=None if self.twin is None else self.twin.copy(),
            recalibration=copy.copy(self.recalibration),
            ledger=self.ledger.frozen(),
            updates=list(self.updates),
            pending=self.pending,
        )


class Stream:
    """A stream at work.

    `row` is its row of the table and `n` its element count; `due` is the element of its next
    prediction. `queued` ticks wait to be stepped, and at `room` of them they are. `pending` are
    the predictions that wait for a label of the series, the oldest first. `values` (lag +
    MAX_QUEUED, C) and `times` are the row buffer; the `memory_size` rows before index `lag` are
    the feature memory. `latest` is the latest time, and `last` the values of the tick that had it
    last when no tick was queued, see `old_ticks`. `refused` are ticks to report before an element.
    """

    def __init__(
        self, table: StreamTable, row: int, lag: int, columns: int, extras: StreamExtras | None
    ) -> None:
        self.table, self.row, self.name, self.lag = table, row, table.names[row], lag
        self.values = np.zeros((lag + MAX_QUEUED, columns))
        self.times = np.zeros(lag + MAX_QUEUED, np.int64)
        self.buffer: Any = self.values
        self.flat_values: Any = self.values.data.cast("B").cast("d")
        self.time_view: Any = self.times.data
        self.extras = extras
        self.learner: Any = None
        self.twin: SharedArray | None = None
        self.queued = 0
        self.machine: Any = None
        self.elements: Any = None
        self.refused: list[tuple[int, Refusal]] = []
        self.bind()
        view = self.view
        self.n, self.memory_size = view[row, N], view[row, MEMORY_SIZE]
        self.labels, self.positives = view[row, LABELS], view[row, POSITIVES]
        self.repeats = view[row, REPEATS]
        self.run_id, self.numbered = table.sources[row], bool(view[row, NUMBERED])
        self.latest, self.last = view[row, LATEST], table.last[row].tolist()
        memory = slice(lag - self.memory_size, lag)
        self.values[memory] = table.memory_v[row, : self.memory_size]
        self.times[memory] = table.memory_t[row, : self.memory_size]
        self.plan()
        self.pending = deque(table.waiting(row) if extras is None else extras.pending)

    def bind(self) -> None:
        """Refer to the memory of the table, which is replaced when the table grows."""
        self.view = self.table.view
        self.carry = SharedArray(self.table.carry[self.row])

    def set_machine(self, machine: Machine, features: int) -> None:
        """Make elements of `features` numbers with a machine; those of queued ticks wait here."""
        self.machine = machine
        self.elements = np.zeros((MAX_QUEUED, features), np.float32)

    def plan(self) -> None:
        """Set when the next prediction is due."""
        self.due = self.table.next_due(self.row)
        self.room = min(self.due - self.n, MAX_QUEUED)

    def store(self) -> None:
        """Write to the row what a chunk leaves elsewhere; no tick may be queued."""
        table, row, view, size = self.table, self.row, self.view, self.memory_size
        table.sources[row] = self.run_id
        view[row, NUMBERED], view[row, MEMORY_SIZE] = self.numbered, size
        view[row, LATEST], table.last[row] = self.latest, self.last
        table.memory_v[row, :size] = self.values[self.lag - size : self.lag]
        table.memory_t[row, :size] = self.times[self.lag - size : self.lag]
        if self.extras is not None:
            self.extras.pending = list(self.pending)
            self.extras.twin = None if self.twin is None else self.twin.host
        else:
            table.set_waiting(row, self.pending)

    def sent_by(self, run_id: str, *, numbered: bool) -> None:
        """Set the publisher's run id, and whether it numbers its ticks."""
        self.run_id, self.numbered = run_id, numbered
        self.table.sources[self.row] = run_id

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter, which stops at MAX_COUNT."""
        place = self.row, AT[name]
        self.view[place] = min(self.view[place] + by, MAX_COUNT)

    def is_old(self, t_ns: int, values: Sequence[float | None]) -> bool:
        """Return whether a tick whose time is not after the latest is old."""
        return t_ns < self.latest or known(values) == known(self.latest_values())

    def latest_values(self) -> list[float]:
        """Return the values of the last tick that had the latest time, queued or not."""
        for at in range(self.lag + self.queued - 1, self.lag - 1, -1):
            if self.time_view[at] == self.latest:
                found: list[float] = self.values[at].tolist()
                return found
        last: list[float] = self.last
        return last

    def labelled(self, label: int, last: int) -> None:
        """Count a label for the plain forecasters; last: the label known before it."""
        self.labels += 1
        self.positives += label
        self.repeats += label == last

    def moved(self, predictions: int) -> None:
        """Write the numbers that others read to the row, after a chunk."""
        view, row = self.view, self.row
        view[row, N] = self.n
        view[row, LABELS], view[row, POSITIVES] = self.labels, self.positives
        view[row, REPEATS] = self.repeats
        view[row, PREDICTIONS] += predictions

    def memory(self) -> Memory:
        """Return a copy of the feature memory, but the machine itself."""
        part = slice(self.lag - self.memory_size, self.lag)
        last = np.array(self.last, np.float64)
        times, values = self.times[part].copy(), self.values[part].copy()
        return Memory(times, values, self.latest, last, None, self.machine)

    def remember(self, memory: Memory) -> None:
        """Replace the feature memory."""
        self.memory_size = len(memory.t_ns)
        self.latest, self.last = memory.latest, memory.last.tolist()
        part = slice(self.lag - self.memory_size, self.lag)
        self.times[part], self.values[part] = memory.t_ns, memory.values

    @property
    def ledger(self) -> Ledger:
        """The ledger of external labels."""
        assert self.extras is not None
        return self.extras.ledger

    @property
    def last_label(self) -> int:
        """The last external label that counted, -1 before the first."""
        return int(self.view[self.row, LAST_LABEL])

    @last_label.setter
    def last_label(self, label: int) -> None:
        self.view[self.row, LAST_LABEL] = label

    def flag(self, window: int) -> None:
        """Flag the predictions of the next `window` elements."""
        self.view[self.row, FLAG_UNTIL] = self.n + window

    def expired(self, first: int) -> None:
        """Count an expired prediction of the series; `first` is the oldest that can wait now."""
        self.view[self.row, EXPIRED] += 1
        self.view[self.row, FIRST] = first

    def restart(self) -> None:
        """Begin a new warm-up after the present element."""
        self.view[self.row, FRESH] = self.n
        self.view[self.row, FIRST] = self.table.first_due(self.n)
        self.plan()


def _number(column: int, doc: str) -> Any:
    return property(lambda view: int(view._table.ints[view._row, column]), doc=doc)


def _extra(name: str, doc: str) -> Any:
    return property(lambda view: getattr(view._extras, name), doc=doc)


class StreamView:
    """A stream as it was when `Session.streams` was read."""

    n: int = _number(N, "Elements accepted.")
    fresh: int = _number(FRESH, "Elements at the last reset.")
    flag_until: int = _number(
        FLAG_UNTIL, "Last element that a gap or a pause flags the prediction of."
    )
    last_label: int = _number(LAST_LABEL, "Last external label that counted, -1 before one did.")
    tape: Tape | None = _extra("tape", "The last elements.")
    trace: Any = _extra("trace", "What learning carries from update to update.")
    mixture: Mixture | None = _extra("mixture", "The weights of a bank.")
    twin: np.ndarray | None = _extra("twin", "The carry of the frozen twin.")
    recalibration: Recalibration | None = _extra("recalibration", "The recalibration of p.")
    updates: list[DueUpdate] = _extra("updates", "Labels that are not learned from yet.")

    def __init__(self, session: Session, row: int) -> None:
        self._session, self._table, self._row = session, session.table, row
        self.name = session.table.names[row]

    @property
    def _extras(self) -> StreamExtras:
        return self._session.extras.get(self._row) or StreamExtras()

    @property
    def next_due(self) -> int:
        """The element of the next prediction."""
        return self._table.next_due(self._row)

    @property
    def run_id(self) -> str:
        """The publisher's run id."""
        return str(self._table.sources[self._row])

    @property
    def gaps_visible(self) -> bool:
        """Whether the feed numbers its ticks."""
        return bool(self._table.ints[self._row, NUMBERED])

    @property
    def carry(self) -> np.ndarray:
        """The carried state of scaler and network, float32."""
        return np.array(self._table.carry[self._row])

    @property
    def memory(self) -> Memory:
        """The feature memory."""
        table, row = self._table, self._row
        size, latest = (int(table.ints[row, column]) for column in (MEMORY_SIZE, LATEST))
        times, values = table.memory_t[row, :size].copy(), table.memory_v[row, :size].copy()
        machine = self._session.machines.get(self.name)
        machine = machine.copy() if machine else self._session.maker.empty(self.name).machine
        return Memory(times, values, latest, table.last[row].copy(), None, machine)

    @property
    def counters(self) -> Counters:
        """The counters of the stream."""
        return self._table.counters(self._row)

    @property
    def scores(self) -> Scoreboard:
        """The scores of the stream."""
        return self._session.scores.of(self._row)

    @property
    def expired(self) -> int:
        """Predictions that expired without a label."""
        return int(self._table.ints[self._row, EXPIRED]) + self._extras.ledger.expired

    @property
    def ledger(self) -> Ledger:
        """The waiting predictions, and external labels."""
        if self._session.external:
            return self._extras.ledger
        if self._row in self._session.extras:
            pending = self._extras.pending
        else:
            pending = self._table.waiting(self._row)
        waiting = {one.n: LedgerEntry(*one[:6], 0, *one[6:]) for one in pending}
        return Ledger(waiting, expired=self.expired)

    def state(self) -> dict[str, Any]:
        """Return everything that the session keeps of the stream, by name."""
        names = [name for name, value in vars(type(self)).items() if isinstance(value, property)]
        own = {name: getattr(self, name) for name in names if not name.startswith("_")}
        return own | {
            "name": self.name,
            "scores": self._session.scores.board[self._row].copy(),
            "first": int(self._table.ints[self._row, FIRST]),
        }


class Streams(Mapping[str, StreamView]):
    """The streams of a session by name, in the order of opening."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __len__(self) -> int:
        return len(self._session.table)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._session.table.names))

    def __contains__(self, name: object) -> bool:
        return name in self._session.table.places

    def __getitem__(self, name: str) -> StreamView:
        return StreamView(self._session, self._session.table.places[name])
