"""A historical file's own labels, each given to the session when its time has come.

The label of the prediction made after element n stands in the row of element n + horizon, and
comes with the row that is `delay` elements after that one, or with the first that is `delay_ns`
nanoseconds later. What comes with a row is known to the prediction made after it, so it is given
before the row is stepped; but for the label of an element of its own (horizon 0), which comes
after the prediction that it is of.

Which rows make elements only the session knows, so they are pushed in pieces that end where a
label is to be read or given; the session does not mind where blocks end. A label that is missing
(NaN) never comes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..events import Label, Ticks
from .elements import Memory
from .session import Session

OnPiece: TypeAlias = Callable[[int], object]
OnInput: TypeAlias = Callable[[Ticks | Label], object]
Arrival: TypeAlias = tuple[int, int, int, float]
"""When (an element, or nanoseconds), which one of those at that time, n and y."""


class LateLabels:
    """Pushes the ticks of one stream and gives each label in its time.

    session: of `labels = "external"`. delay: in elements. delay_ns: in nanoseconds, instead of
    elements where it is not None. rng: draws each delay in elements from 0 to `delay`, so that
    labels come in another order; None delays all alike. on_piece: told the position in the
    block of each piece that is pushed. on_input: told of what the session has been given.

    Attributes: `missing` counts the labels that are not in the file; `undelivered` those whose
    time has not come.
    """

    def __init__(
        self,
        session: Session,
        *,
        delay: int = 0,
        delay_ns: int | None = None,
        rng: np.random.Generator | None = None,
        on_piece: OnPiece = lambda _: None,
        on_input: OnInput = lambda _: None,
    ) -> None:
        stream = session.config.stream
        self.missing = 0
        self._session: Session | _Rehearsal = session
        self._on_piece, self._on_input = on_piece, on_input
        self._delay, self._delay_ns, self._rng = delay, delay_ns, rng
        self._horizon, self._stride = stream.horizon, stream.stride
        self._next = stream.window  # the prediction whose label is read next
        self._arrivals: list[Arrival] = []
        self._drawn = self._ahead = 0

    @property
    def undelivered(self) -> int:
        """Labels that have been read and not given yet."""
        return len(self._arrivals)

    def push(self, ticks: Ticks, labels: npt.NDArray[np.float64]) -> None:
        """Push ticks (m) with the labels (m,) that stand in their rows."""
        start, count = 0, len(ticks.values)
        while start < count:
            n, t_ns = self._elements(ticks.stream), int(ticks.t_ns[start])
            if self._comes_next(n) and self._makes_element(ticks, start):
                if self._horizon and n + 1 == self._next + self._horizon:
                    self._read(float(labels[start]), n + 1, t_ns)
                self._give(ticks.stream, n + 1, t_ns)
            elif self._delay_ns is not None:
                self._give(ticks.stream, n, t_ns)
            stop = start + self._uncut(n, ticks.t_ns[start:])
            self._on_piece(start)
            self._push(_piece(ticks, start, stop))
            start, n, t_ns = stop, self._elements(ticks.stream), int(ticks.t_ns[stop - 1])
            if not self._horizon and n == self._next:
                self._read(float(labels[stop - 1]), n, t_ns)
                self._give(ticks.stream, n, t_ns)  # its own, where it is not late

    def _comes_next(self, n: int) -> bool:
        """Return whether element n + 1 brings a label, its own or one that is late."""
        late = self._arrivals and self._delay_ns is None and self._arrivals[0][0] == n + 1
        return bool(late) or (self._horizon > 0 and n + 1 == self._next + self._horizon)

    def _makes_element(self, ticks: Ticks, start: int) -> bool:
        stream, row = self._session.streams.get(ticks.stream), slice(start, start + 1)
        memory = Memory.empty(ticks.values.shape[1]) if stream is None else stream.memory
        return self._session.maker.accepts(memory, ticks.t_ns[row], ticks.values[row])

    def _elements(self, stream: str) -> int:
        state = self._session.streams.get(stream)
        return 0 if state is None else state.n

    def _uncut(self, n: int, t_ns: npt.NDArray[np.int64]) -> int:
        """Return how many of the next rows can be pushed at once, after element n."""
        size = self._next + self._horizon - n - (self._horizon > 0)
        # Where the next row was to bring a label and makes no element, it goes alone.
        size = min(len(t_ns), max(size, 1))
        if not self._arrivals:
            return size
        first = self._arrivals[0][0]
        if self._delay_ns is None:
            return min(size, max(first - 1 - n, 1))
        over = t_ns[:size] >= first
        return int(over.argmax()) if over.any() else size

    def _read(self, y: float, n: int, t_ns: int) -> None:
        """Take the label that stands in the row of element n, at `t_ns`."""
        of, self._next = self._next, self._next + self._stride
        if np.isnan(y):
            self.missing += 1
            return
        delay = self._delay if self._rng is None else int(self._rng.integers(self._delay + 1))
        comes = n + delay if self._delay_ns is None else t_ns + self._delay_ns
        heapq.heappush(self._arrivals, (comes, self._drawn, of, y))
        self._drawn += 1

    def _give(self, stream: str, n: int, t_ns: int) -> None:
        """Give what comes with the row of element n, or has come by time `t_ns`."""
        now = n if self._delay_ns is None else t_ns
        while self._arrivals and self._arrivals[0][0] <= now:
            comes, _, of, y = heapq.heappop(self._arrivals)
            if self._ahead:
                self._ahead -= 1  # it came before an earlier run stopped, and its row did not
                continue
            self._label(Label(stream, of, y, t_ns if self._delay_ns is None else comes))

    def _push(self, ticks: Ticks) -> None:
        self._session.push(ticks)
        self._on_input(ticks)

    def _label(self, label: Label) -> None:
        self._session.label(label)
        self._on_input(label)

    # ---- going on where an earlier run stopped -------------------------------------------

    def rehearse(
        self, pieces: Iterable[tuple[Ticks, npt.NDArray[np.float64] | None]], given: int
    ) -> None:
        """Pass over ticks and labels that the session has had, `given` of the labels.

        A label that was due after the last of these ticks and is not among those is given now.
        """
        session, on_piece, on_input = self._session, self._on_piece, self._on_input
        assert isinstance(session, Session)
        self._session = rehearsal = _Rehearsal(session)
        self._on_piece, self._on_input = _unmoved, _unmoved
        try:
            for ticks, labels in pieces:
                assert labels is not None
                self.push(ticks, labels)
        finally:
            self._session, self._on_piece, self._on_input = session, on_piece, on_input
        surplus = rehearsal.labels - given
        for label in rehearsal.last[len(rehearsal.last) - surplus :] if surplus > 0 else ():
            self._label(label)
        self._ahead = max(-surplus, 0)


class _Rehearsal:
    """Stands in for a session: it counts elements and labels, and does nothing else.

    `last` holds the labels since the last ticks.
    """

    def __init__(self, session: Session) -> None:
        self.maker, self.columns = session.maker, session.columns
        self.streams: dict[str, _Counted] = {}
        self.labels = 0
        self.last: list[Label] = []

    def push(self, ticks: Ticks) -> None:
        stream = self.streams.setdefault(ticks.stream, _Counted(len(self.columns)))
        for t_ns, _ in self.maker.make(stream.memory, ticks.t_ns, ticks.values, _unheard):
            stream.n += len(t_ns)
        self.last.clear()

    def label(self, label: Label) -> None:
        self.labels += 1
        self.last.append(label)


class _Counted:
    def __init__(self, columns: int) -> None:
        self.memory = Memory.empty(columns)
        self.n = 0


def _unmoved(what: object) -> None:
    """Take no notice of a piece or an input."""


def _unheard(index: int, reason: str) -> None:
    """Take no notice of a refusal."""


def _piece(ticks: Ticks, start: int, stop: int) -> Ticks:
    part = slice(start, stop)
    seq = None if ticks.seq is None else ticks.seq + start
    return Ticks(
        ticks.stream, ticks.t_ns[part], ticks.values[part], ticks.session, seq, ticks.where
    )
