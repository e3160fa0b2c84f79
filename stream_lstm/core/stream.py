"""A row of the table while its stream is worked on tick by tick, or chunk by chunk.

NumPy is dear for single numbers, so the numbers that every tick needs are Python's own here, and
are written to the table after each chunk. A stream also has the row buffer of ticks that wait: the
last accepted ticks (the feature memory), and behind them those that were checked and not yet
stepped.

What only some configurations need is in `side`: the tape, the trace, a bank's mixture, a twin, a
recalibration, the ledger of labels from outside, and the labels that are still to be learned from.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from ..events import MAX_COUNT, Refusal
from ..model.buffers import Shared
from .elements import Memory
from .ledger import Ledger
from .mixture import Mixture
from .recalibration import Recalibration
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
from .tape import Tape

Floats: TypeAlias = npt.NDArray[np.float32]

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
        self.twin: Shared | None = None
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
        self.carry = Shared(self.table.carry[self.row])

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
