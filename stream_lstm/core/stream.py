"""A row of the table while its stream is worked on tick by tick, or chunk by chunk.

NumPy is dear for single numbers, so the numbers that every tick needs are Python's own here, and
are written to the table after each chunk. A stream also has the row buffer of ticks that wait: the
last accepted ticks (the feature memory), and behind them those that were checked and not yet
stepped.

What only some configurations need is in `side`: the tape, the trace, a bank's mixture, a twin, a
recalibration, the ledger of labels from outside, and the labels that are still to be learned from.

The book of published predictions that wait for their labels.

What is scored is the prediction that was published, so the book keeps it, together with what
the plain forecasters gave at the same time and, where labels come from outside, the tape to
learn from. A prediction leaves the book once, by one of two ways, and hence is scored at most
once:

```
                    label                         settled
waiting ──────────────────────────▶ held ─────────────────▶ scored, learned from
   │  longer than allowed, or the     a label may be
   ▼  oldest when the book is full    revised until then
expired
```

A label that comes before its prediction waits for it. What became of the last predictions that
left is remembered, so that a second label can be told from one for an unknown prediction. All
four parts are bounded.

The last elements of a stream, kept so that an update can look back over them.

Entry m holds what element m left behind: its scaled input, the network state after it, and
whether its target was positive. Entries stand in one array that is filled to its end and then
moved back to its beginning, so that any stretch of them is one slice and appending is one copy.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ..events import MAX_COUNT, Refusal
from ..model.buffers import SharedArray
from ..typing import Float32s
from .elements import Memory
from .forecasts import Mixture, Recalibration
from .table import (
    AT,
    BASE_P,
    EXPIRED,
    FIRST,
    FLAG_UNTIL,
    FRESH,
    HELD,
    LABELS,
    LAST,
    LAST_LABEL,
    LAST_P,
    LATEST,
    POSITIVES,
    PREDICTIONS,
    REPEATS,
    TICKS,
    VISIBLE,
    N,
    P,
    StreamTable,
)

REMEMBERED = 1000
"""Predictions that have left and are remembered at least, however few may wait."""

LEFT_UNLABELLED = -1
"""What is remembered of a prediction that left without a label."""


class Pending(msgspec.Struct):
    """A waiting prediction: p, the plain forecasters' p, and the last label known then.

    `raw_p` is p before recalibration, and `frozen_p` and `stateless_p` are those of the twins,
    each where there is one. `experts` (M,) are the probabilities of a bank's members. `inputs`
    (K, F) and `state` (D, N) are the tape, empty where it is taken from the series.
    """

    n: int
    p: float
    base_rate_p: float
    last_label_p: float
    last_label: int
    session: str = ""
    t_ns: int = 0
    raw_p: float | None = None
    frozen_p: float | None = None
    stateless_p: float | None = None
    experts: np.ndarray | None = None
    inputs: np.ndarray | None = None
    state: np.ndarray | None = None


class TimedLabel(msgspec.Struct):
    """A label (0 or 1) and the time that it came with."""

    label: int
    t_ns: int


class LabelledPrediction(msgspec.Struct):
    """A labelled prediction, settled once element `until` has been stepped."""

    pending: Pending
    truth: TimedLabel
    until: int


class Ledger(msgspec.Struct):
    """Predictions and labels by n, each in the order in which they came.

    `expired` counts the predictions that left unlabelled.
    """

    waiting: dict[int, Pending] = msgspec.field(default_factory=dict)
    held: dict[int, LabelledPrediction] = msgspec.field(default_factory=dict)
    early: dict[int, TimedLabel] = msgspec.field(default_factory=dict)
    closed: dict[int, int] = msgspec.field(default_factory=dict)
    expired: int = 0

    def frozen(self) -> Ledger:
        """Return a copy that stays as it is: entries are replaced, never written to."""
        waiting, held = self.waiting.copy(), self.held.copy()
        return Ledger(waiting, held, self.early.copy(), self.closed.copy(), self.expired)

    def add(self, pending: Pending, limit: int) -> Pending | None:
        """Enter a prediction; return the oldest one where it had to leave for it."""
        self.waiting[pending.n] = pending
        return self.expire(limit) if len(self.waiting) > limit else None

    def oldest(self) -> int | None:
        """Return the n of the oldest waiting prediction."""
        return next(iter(self.waiting), None)

    def take(self, n: int) -> Pending | None:
        """Return prediction `n` and strike it out; None where it does not wait."""
        return self.waiting.pop(n, None)

    def hold(self, n: int, truth: TimedLabel, until: int) -> None:
        """Give waiting prediction `n` its label, which counts from element `until` on."""
        self.held[n] = LabelledPrediction(self.waiting.pop(n), truth, until)

    def settle(self, n: int | None, limit: int) -> LabelledPrediction | None:
        """Return the next labelled prediction due at element `n`, or any at all for None."""
        first = next(iter(self.held.values()), None)
        if first is None or (n is not None and first.until > n):
            return None
        del self.held[first.pending.n]
        self._close(first.pending.n, first.truth.label, limit)
        return first

    def expire(self, limit: int) -> Pending:
        """Strike out the oldest waiting prediction, which has no label."""
        self.expired += 1
        pending = self.waiting.pop(next(iter(self.waiting)))
        self._close(pending.n, LEFT_UNLABELLED, limit)
        return pending

    def expire_all(self, limit: int) -> Iterator[Pending]:
        """Strike out every waiting prediction, and yield them, the oldest first."""
        while self.waiting:
            yield self.expire(limit)

    def _close(self, n: int, label: int, limit: int) -> None:
        self.closed[n] = label
        if len(self.closed) > max(limit, REMEMBERED):
            del self.closed[next(iter(self.closed))]


TAPE_ROOM = 4
"""Blocks that fit behind the entries that must stay: a move every few blocks costs nothing."""


class Tape(msgspec.Struct, omit_defaults=True):
    """Entries `first` to `last`, of which at least the newest `keep` stay.

    `entries` is float32 (capacity, F + N), N the length of a state; `positive` is float32
    (capacity,) of 0 and 1. `lent` says that a frozen copy reads the memory of both, so that
    entries may be added but not moved there.
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
        """Return a tape of `keep` entries up to element `n`, with zero inputs and states.

        They stand for what came before a stream's first element: nothing, in a zero state.
        """
        capacity = keep + TAPE_ROOM * block
        entries = np.zeros((capacity, features + state), np.float32)
        positive = np.zeros(capacity, np.float32)
        return cls(keep, features, entries, positive, first=n + 1 - keep, used=keep)

    def frozen(self) -> Tape:
        """Return the newest `keep` entries, which stay as they are while this tape grows."""
        self.lent = True
        held = slice(max(self.used - self.keep, 0), self.used)
        entries, positive = self.entries[held], self.positive[held]
        return Tape(
            self.keep, self.features, entries, positive, self.first + held.start, len(entries)
        )

    def thawed(self, like: Tape) -> Tape:
        """Return these entries in memory as large as that of `like`.

        Raises ValueError where they are not entries of such a tape.
        """
        shape, used = self.entries.shape, self.used
        fits = (self.keep, self.features) == (like.keep, like.features)
        fits &= shape == (used, like.entries.shape[1]) and self.positive.shape == (used,)
        if not fits or used > self.keep or self.entries.dtype != like.entries.dtype:
            raise ValueError(f"a tape of {used} entries {shape} is not one of this session")
        entries, positive = np.zeros_like(like.entries), np.zeros_like(like.positive)
        entries[:used], positive[:used] = self.entries, self.positive
        return Tape(self.keep, self.features, entries, positive, self.first, used)

    def append(self, entries: Float32s, positive: npt.NDArray[np.bool_]) -> None:
        """Append entries (m, F + N) and whether their targets were positive (m,)."""
        if len(entries) > len(self.entries) - self.keep:  # more than a block: `keep` stay in all
            drop = max(len(entries) - self.keep, 0)
            entries, positive = entries[drop:], positive[drop:]
            self._leave(self.keep - len(entries))
            self.first += drop
        count = len(entries)
        if self.used + count > len(self.entries):
            self._move()
        end = self.used + count
        self.entries[self.used : end] = entries
        self.positive[self.used : end] = positive
        self.used = end

    def _move(self) -> None:
        self._leave(min(self.used, self.keep))

    def _leave(self, left: int) -> None:
        """Let go of all but the newest `left` entries."""
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
        rows = [n - self.first for n in ns]
        out: Float32s = self.entries[rows, self.features :]
        return out

    def targets(self, n: int, length: int) -> Float32s:
        """Return whether the targets of the elements up to `n` were positive, (length,)."""
        end = n + 1 - self.first
        out: Float32s = self.positive[end - length : end].copy()
        return out

    def newest(self, count: int) -> Float32s:
        """Return the newest entries (count, F + N + 1) with their targets' signs as last column.

        Those that are not there any more are zero.
        """
        held = min(count, self.used)
        out = np.zeros((count, self.entries.shape[1] + 1), np.float32)
        out[count - held :, :-1] = self.entries[self.used - held : self.used]
        out[count - held :, -1] = self.positive[self.used - held : self.used]
        return out

    def holds(self, n: int) -> bool:
        """Return whether element `n` is on the tape."""
        return self.first <= n < self.first + self.used


ROOM = 64
"""Ticks that can wait: more than a stride of the usual length, and no more than one call takes."""


NO_TRACE = np.zeros(0, np.float32)


class Waiting(NamedTuple):
    """A prediction that waits for a label of the series; see `ledger.Pending` for the fields."""

    n: int
    p: float
    base_rate_p: float
    last_label_p: float
    last_label: int
    session: str
    raw_p: float | None = None
    frozen_p: float | None = None
    stateless_p: float | None = None
    experts: np.ndarray | None = None


class Owed(msgspec.Struct):
    """A label that became known since the last publication, to be learned from after the next.

    `loss` and `base_loss` are the log losses of the model and the base rate, in nats. `inputs` and
    `starts` are the tape of a label from outside, None where the series itself brings the label.
    """

    n: int
    label: int
    loss: float
    base_loss: float
    inputs: np.ndarray | None = None
    starts: np.ndarray | None = None


class Side(msgspec.Struct):
    """What is kept of a stream beside the table; see the head of the file.

    `twin` is the carry of the frozen twin and `trace` what learning carries from update to update.
    `waiting` holds what a row of `pending` has no column for: predictions with further forecasts.
    """

    tape: Tape | None = None
    trace: np.ndarray | None = None
    mixture: Mixture | None = None
    twin: np.ndarray | None = None
    recalibration: Recalibration | None = None
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    owed: list[Owed] = []
    waiting: list[Waiting] = []

    def frozen(self) -> Side:
        """Return a copy that stays as it is while this one is worked on."""
        return Side(
            tape=None if self.tape is None else self.tape.frozen(),
            trace=_kept(self.trace),
            mixture=copy.copy(self.mixture),
            twin=None if self.twin is None else self.twin.copy(),
            recalibration=copy.copy(self.recalibration),
            ledger=self.ledger.frozen(),
            owed=list(self.owed),
            waiting=self.waiting,
        )


def _kept(trace: Any) -> np.ndarray | None:
    """Return a copy of a trace, whose memory the next update takes for the new one."""
    if trace is None:
        return None
    return np.array(trace) if trace.size else NO_TRACE


class Stream:
    """One stream at work; `row` is its row in the table.

    `n` is the element count, `due` the element of the next prediction, `k` how many ticks wait and
    `left` how many may before they are stepped. `waiting` are the predictions that wait for a
    label of the series, the oldest first. `values` (lag + ROOM, C) and `times` are the row buffer,
    of which `held` rows before index `lag` are the feature memory. `latest` is the latest time,
    and `last` the values of the tick that had it last, as it was when no tick waited; see
    `old_times`.
    """

    __slots__ = (
        "buffer",
        "carry",
        "due",
        "held",
        "k",
        "labels",
        "lag",
        "last",
        "late",
        "latest",
        "learned",
        "left",
        "n",
        "name",
        "positives",
        "repeats",
        "row",
        "side",
        "source",
        "t",
        "table",
        "times",
        "twin",
        "v",
        "values",
        "view",
        "visible",
        "waiting",
    )

    def __init__(
        self, table: StreamTable, row: int, lag: int, columns: int, side: Side | None
    ) -> None:
        self.table, self.row, self.name, self.lag = table, row, table.names[row], lag
        self.values = np.zeros((lag + ROOM, columns))
        self.times = np.zeros(lag + ROOM, np.int64)
        self.buffer: Any = self.values
        self.v: Any = self.values.data.cast("B").cast("d")
        self.t: Any = self.times.data
        self.side = side
        self.learned: Any = None
        self.twin: SharedArray | None = None
        self.k = 0
        self.latest: int
        self.last: list[float]
        self.late: list[tuple[int, Refusal]] = []  # refused ticks to report before an element
        self.waiting: deque[Waiting] = deque()
        self.bind()
        self.load()

    def bind(self) -> None:
        """Take hold of the table's memory, which is new after the table has grown."""
        self.view = self.table.view
        self.carry = SharedArray(self.table.carry[self.row])

    def load(self) -> None:
        """Read the row."""
        table, row, lag, view = self.table, self.row, self.lag, self.view
        self.n, self.held = view[row, N], view[row, HELD]
        self.labels, self.positives, self.repeats = (
            view[row, LABELS],
            view[row, POSITIVES],
            view[row, REPEATS],
        )
        self.source, self.visible = table.sources[row], bool(view[row, VISIBLE])
        self.latest, self.last = view[row, LATEST], table.last[row].tolist()
        first = lag - self.held
        self.values[first:lag] = table.memory_v[row, : self.held]
        self.times[first:lag] = table.memory_t[row, : self.held]
        self.plan()
        if self.side is not None:
            self.waiting = deque(self.side.waiting)
        else:
            self.waiting = deque(self._pending(n) for n in table.waiting(row))

    def _pending(self, n: int) -> Waiting:
        slot = self.table.slot(n)
        p, base, last_p, last = self.table.pending[self.row, slot].tolist()
        return Waiting(
            n, p, base, last_p, int(last), str(self.table.pending_sources[self.row, slot])
        )

    def plan(self) -> None:
        """Find out when the next prediction is due."""
        self.due = self.table.next_due(self.row)
        self.left = min(self.due - self.n, ROOM)

    def store(self) -> None:
        """Write to the row what a chunk leaves elsewhere; no tick may be waiting."""
        table, row, lag, view = self.table, self.row, self.lag, self.view
        table.sources[row] = self.source
        view[row, VISIBLE], view[row, HELD] = self.visible, self.held
        view[row, LATEST], table.last[row] = self.latest, self.last
        table.memory_v[row, : self.held] = self.values[lag - self.held : lag]
        table.memory_t[row, : self.held] = self.times[lag - self.held : lag]
        if self.side is not None:
            self.side.waiting = list(self.waiting)
            self.side.twin = None if self.twin is None else self.twin.host
            return
        for one in self.waiting:
            slot = table.slot(one.n)
            place = table.pending[row, slot]
            place[P], place[BASE_P], place[LAST_P], place[LAST] = one[1:5]
            table.pending_sources[row, slot] = one.session

    def sent_by(self, session: str, *, numbered: bool) -> None:
        """Note the publisher's run, and whether it numbers its ticks."""
        self.source, self.visible = session, numbered
        self.table.sources[self.row] = session

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter, which stops at MAX_COUNT."""
        place = self.row, AT[name]
        self.view[place] = min(self.view[place] + by, MAX_COUNT)

    def is_old(self, t_ns: int, values: Sequence[float | None]) -> bool:
        """Return whether a tick that is not later than all before it is old."""
        return t_ns < self.latest or all(
            a == b for a, b in zip(values, self.latest_values(), strict=True)
        )

    def latest_values(self) -> list[float]:
        """Return the values of the tick that had the latest time last, be it one that waits."""
        for at in range(self.lag + self.k - 1, self.lag - 1, -1):
            if self.t[at] == self.latest:
                found: list[float] = self.values[at].tolist()
                return found
        return self.last

    def labelled(self, label: int, last: int) -> None:
        """Count a label that became known, for the plain forecasters; last: the one before it."""
        self.labels += 1
        self.positives += label
        self.repeats += label == last

    def moved(self, taken: int, predictions: int) -> None:
        """Write the numbers that others look at, after a chunk of `taken` ticks."""
        view, row = self.view, self.row
        view[row, N] = self.n
        view[row, LABELS], view[row, POSITIVES], view[row, REPEATS] = (
            self.labels,
            self.positives,
            self.repeats,
        )
        if taken:
            view[row, TICKS] += taken
        if predictions:
            view[row, PREDICTIONS] += predictions

    def memory(self) -> Memory:
        """Return a copy of the feature memory."""
        part = slice(self.lag - self.held, self.lag)
        last = np.array(self.last, np.float64)
        return Memory(self.times[part].copy(), self.values[part].copy(), self.latest, last)

    def remember(self, memory: Memory) -> None:
        """Take over a feature memory."""
        self.held = len(memory.t_ns)
        self.latest, self.last = memory.latest, memory.last.tolist()
        part = slice(self.lag - self.held, self.lag)
        self.times[part], self.values[part] = memory.t_ns, memory.values

    # ---- what the policy of labels from outside asks for --------------------------------

    @property
    def ledger(self) -> Ledger:
        """The ledger of labels from outside."""
        assert self.side is not None
        return self.side.ledger

    @property
    def next_due(self) -> int:
        """The element after which the next prediction is due."""
        return self.due

    @property
    def last_label(self) -> int:
        """The last label from outside that counted, -1 before one did."""
        return int(self.view[self.row, LAST_LABEL])

    @last_label.setter
    def last_label(self, label: int) -> None:
        self.view[self.row, LAST_LABEL] = label

    def interrupted(self, window: int) -> None:
        """Flag the predictions of the next `window` elements."""
        self.view[self.row, FLAG_UNTIL] = self.n + window

    def expired(self, first: int) -> None:
        """Count a prediction of the series that expired; the oldest that can wait is `first`."""
        self.view[self.row, EXPIRED] += 1
        self.view[self.row, FIRST] = first

    def restart(self) -> None:
        """Begin a new warm-up after the present element."""
        view, row = self.view, self.row
        view[row, FRESH] = self.n
        view[row, FIRST] = self.table.first_due(self.n)
        self.held = 0
        self.plan()
