"""A historical file's own labels, each given to the session when its time has come.

The label of the prediction made after element n stands in the row of element n + horizon, and
comes `delay` elements after it, or once the series has reached `delay_ns` nanoseconds more than
that row's time. Which row makes which element only the session knows, so the rows are pushed in
pieces that end with an element whose label is to be read, or at which one comes; the session does
not mind where blocks end. A label that is missing (NaN) never comes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..events import Label, Ticks
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
            self._give_by_time(ticks, start)
            stop = start + self._uncut(ticks.stream, ticks.t_ns[start:])
            self._on_piece(start)
            self._session.push(_piece(ticks, start, stop))
            start = stop
            n = self._elements(ticks.stream)
            if n == self._next + self._horizon:
                self._read(float(labels[stop - 1]), n, int(ticks.t_ns[stop - 1]))
            if self._delay_ns is None:
                self._give(ticks.stream, n, int(ticks.t_ns[stop - 1]))

    def _elements(self, stream: str) -> int:
        state = self._session.streams.get(stream)
        return 0 if state is None else state.n

    def _uncut(self, stream: str, t_ns: npt.NDArray[np.int64]) -> int:
        """Return how many of the next rows can be pushed at once."""
        n = self._elements(stream)
        size = min(len(t_ns), self._next + self._horizon - n)
        if not self._arrivals:
            return size
        first = self._arrivals[0][0]
        if self._delay_ns is None:
            return min(size, first - n)
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

    def _give_by_time(self, ticks: Ticks, start: int) -> None:
        if self._delay_ns is not None:
            self._give(ticks.stream, int(ticks.t_ns[start]), None)

    def _give(self, stream: str, now: int, t_ns: int | None) -> None:
        """Give what has come by `now`; its time is `t_ns`, or when it came."""
        while self._arrivals and self._arrivals[0][0] <= now:
            comes, _, n, y = heapq.heappop(self._arrivals)
            self._session.label(Label(stream, n, y, comes if t_ns is None else t_ns))


def _piece(ticks: Ticks, start: int, stop: int) -> Ticks:
    part = slice(start, stop)
    seq = None if ticks.seq is None else ticks.seq + start
    return Ticks(
        ticks.stream, ticks.t_ns[part], ticks.values[part], ticks.session, seq, ticks.where
    )
