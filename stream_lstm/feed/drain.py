"""The events of what was waiting in a socket, in order of arrival.

Ticks of one stream that continue each other become one block, so that a backlog is worked off in
blocks. Within a stream nothing is moved past anything else: the session sees what a slower sender
would have sent. What continues a block may have had other streams between; it then stands where
the block begins, ahead of them. That is allowed where streams do not act on each other (`apart`),
and not where they learn with weights that they share. A message that could not be read belongs to
no stream, and keeps its place among all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from ..events import Input, Refusal, Ticks
from .records import MAX_BLOCK_ROWS

Received: TypeAlias = Input | Refusal


class _Run:
    """Ticks of one stream that follow each other; `due` is the number that would be next.

    Single ticks are kept as Python numbers until they are many: one array for all of them takes
    a tenth of the time of one array each.
    """

    __slots__ = ("_flat", "_parts", "_times", "due", "rows", "seq", "session", "stream", "where")

    def __init__(self, stream: str, session: str, seq: int | None, where: str) -> None:
        self.stream, self.session, self.seq, self.where = stream, session, seq, where
        self.due = seq
        self.rows = 0
        self._parts: list[Ticks] = []
        self._times: list[int] = []
        self._flat: list[float | None] = []

    def add_one(self, t_ns: int, values: Sequence[float | None]) -> None:
        self._times.append(t_ns)
        self._flat.extend(values)
        self.rows += 1
        if self.due is not None:
            self.due += 1

    def add(self, ticks: Ticks) -> None:
        self._gather()
        self._parts.append(ticks)
        self.rows += len(ticks.t_ns)
        if self.due is not None:
            self.due += len(ticks.t_ns)

    def _gather(self) -> None:
        """Make one block of the single ticks that came last."""
        if self._times:
            t_ns = np.array(self._times, np.int64)
            values = np.array(self._flat, np.float64).reshape(len(t_ns), -1)
            self._parts.append(self._ticks(t_ns, values))
            self._times, self._flat = [], []

    def block(self) -> Ticks:
        """Return all of them as one block."""
        self._gather()
        parts = self._parts
        if len(parts) == 1:
            return parts[0]
        t_ns = np.concatenate([ticks.t_ns for ticks in parts])
        return self._ticks(t_ns, np.concatenate([ticks.values for ticks in parts]))

    def _ticks(self, t_ns: np.ndarray, values: np.ndarray) -> Ticks:
        return Ticks(self.stream, t_ns, values, self.session, self.seq, self.where)


class Drain:
    """The events of one `receive`, in order; ticks that continue each other become one block.

    apart: streams do not act on each other, so that only the order within each one counts.
    `size` is for the caller: the bytes that came.
    """

    def __init__(self, *, apart: bool = False) -> None:
        self.size = 0
        self._apart = apart
        self._events: list[Received | _Run] = []
        self._open: dict[str, _Run] = {}

    @property
    def empty(self) -> bool:
        """Whether there is no event yet."""
        return not self._events

    def add_ticks(self, ticks: Ticks) -> None:
        """Append ticks, to the block that they continue if there is one."""
        run = self._run(ticks.stream, ticks.session, ticks.seq, ticks.where, len(ticks.t_ns))
        run.add(ticks)

    def add_one(
        self,
        stream: str,
        session: str,
        seq: int | None,
        where: str,
        t_ns: int,
        values: Sequence[float | None],
    ) -> None:
        """Append one tick that is not an array yet; None among `values` is NaN."""
        self._run(stream, session, seq, where, 1).add_one(t_ns, values)

    def _run(self, stream: str, session: str, seq: int | None, where: str, rows: int) -> _Run:
        """Return the run that `rows` ticks continue, begun if there is none."""
        run = self._open.get(stream)
        if (
            run is None
            or seq != run.due
            or session != run.session
            or run.rows + rows > MAX_BLOCK_ROWS
        ):
            run = _Run(stream, session, seq, where)
            self._close(stream)
            self._open[stream] = run
            self._events.append(run)
        return run

    def add(self, event: Received) -> None:
        """Append an event that is not ticks."""
        self._close(event.stream)
        self._events.append(event)

    def _close(self, stream: str) -> None:
        """Let nothing pass what comes now: of this stream, or of any where that counts."""
        if self._apart and stream:
            self._open.pop(stream, None)
        else:
            self._open.clear()

    def finish(self) -> list[Received]:
        """Return the events."""
        return [event.block() if isinstance(event, _Run) else event for event in self._events]
