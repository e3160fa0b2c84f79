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
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..events import Label, Ticks
from .elements import Memory
from .session import Session

OnPiece: TypeAlias = Callable[[int], object]
Arrival: TypeAlias = tuple[int, int, int, float]
"""When (an element, or nanoseconds), which one of those at that time, n and y."""


class LateLabels:
    """Pushes the ticks of one stream and gives each label in its time.

    session: of `labels = "external"`. delay: in elements. delay_ns: in nanoseconds, instead of
    elements where it is not None. rng: draws each delay in elements from 0 to `delay`, so that
    labels come in another order; None delays all alike. on_piece: told the position in the
    block of each piece that is pushed.

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
    ) -> None:
        stream = session.config.stream
        self.missing = 0
        self._session, self._on_piece = session, on_piece
        self._delay, self._delay_ns, self._rng = delay, delay_ns, rng
        self._horizon, self._stride = stream.horizon, stream.stride
        self._next = stream.window  # the prediction whose label is read next
        self._arrivals: list[Arrival] = []
        self._drawn = 0

    @property
    def undelivered(self) -> int:
        """Labels that have been read and not given yet."""
        return len(self._arrivals)

    def push(self, ticks: Ticks, labels: npt.NDArray[np.float64]) -> None:
        """Push ticks (m) with the labels (m,) that stand in their rows."""
        start, count = 0, len(ticks.values)
        while start < count:
            n = self._elements(ticks.stream)
            t_ns = int(ticks.t_ns[start])
            if self._horizon and self._is_labelled(ticks, start, n):
                self._read(float(labels[start]), n + 1, t_ns)
            self._give(ticks.stream, n, t_ns)
            stop = start + self._uncut(n, ticks.t_ns[start:])
            self._on_piece(start)
            self._session.push(_piece(ticks, start, stop))
            start, n, t_ns = stop, self._elements(ticks.stream), int(ticks.t_ns[stop - 1])
            if not self._horizon and n == self._next:
                self._read(float(labels[stop - 1]), n, t_ns)
            self._give(ticks.stream, n, t_ns)

    def _is_labelled(self, ticks: Ticks, start: int, n: int) -> bool:
        """Return whether the row at `start` is the one with the label that is read next."""
        if n + 1 != self._next + self._horizon:
            return False
        stream, row = self._session.streams.get(ticks.stream), slice(start, start + 1)
        memory = Memory.empty(ticks.values.shape[1]) if stream is None else stream.memory
        return self._session.maker.accepts(memory, ticks.t_ns[row], ticks.values[row])

    def _elements(self, stream: str) -> int:
        state = self._session.streams.get(stream)
        return 0 if state is None else state.n

    def _uncut(self, n: int, t_ns: npt.NDArray[np.int64]) -> int:
        """Return how many of the next rows can be pushed at once, after element n."""
        size = self._next + self._horizon - n - (self._horizon > 0)
        # Where a label is to be read and the next row makes no element, that row goes alone.
        size = min(len(t_ns), max(size, 1))
        if not self._arrivals:
            return size
        first = self._arrivals[0][0]
        if self._delay_ns is None:
            return min(size, first - 1 - n)
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
        """Give what comes with the row that makes element n + 1, or has come by time `t_ns`."""
        now = n + 1 if self._delay_ns is None else t_ns
        while self._arrivals and self._arrivals[0][0] <= now:
            comes, _, of, y = heapq.heappop(self._arrivals)
            self._session.label(Label(stream, of, y, t_ns if self._delay_ns is None else comes))


def _piece(ticks: Ticks, start: int, stop: int) -> Ticks:
    part = slice(start, stop)
    seq = None if ticks.seq is None else ticks.seq + start
    return Ticks(
        ticks.stream, ticks.t_ns[part], ticks.values[part], ticks.session, seq, ticks.where
    )
