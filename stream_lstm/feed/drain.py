"""The events of what was waiting in a socket, in order of arrival.

Ticks of one stream that continue each other become one `Ticks`, so that a backlog is worked off in
blocks; up to `SHORT` single ones become a `Run`, which needs no array. Within a stream nothing is
moved past anything else: the session sees what a slower sender would have sent. What continues a
block may have had other streams between; it is then placed where the block begins, ahead of them.
That is allowed where streams do not act on each other (`apart`), and not where they learn with
weights that they share. A message that could not be read belongs to no stream, and keeps its place
among all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from ..events import Input, Refusal, Run, Takeover, Ticks
from .records import MAX_BLOCK_ROWS

Received: TypeAlias = Input | Refusal | Takeover

SHORT = 64
"""Ticks of a run at most: more of them are faster as arrays."""


class _Open(Run):
    """A run that may grow, by blocks too; `due` is the number that would be next.

    Single ticks are kept as Python numbers until they are many: one array for all of them takes
    a tenth of the time of one array each.
    """

    __slots__ = ("count", "due", "parts")

    def __init__(self, stream: str, session: str, seq: int | None, where: str) -> None:
        super().__init__(stream, session, seq, where)
        self.due, self.count = seq, 0
        self.parts: list[Ticks] = []

    def add(self, ticks: Ticks) -> None:
        self._gather()
        self.parts.append(ticks)
        self.count += len(ticks.t_ns)
        if self.due is not None:
            self.due += len(ticks.t_ns)

    def _gather(self) -> None:
        """Make one block of the single ticks that came last."""
        if self.times:
            self.parts.append(self.block())
            self.times, self.rows = [], []

    def whole(self) -> Ticks | Run:
        """Return all of them."""
        if not self.parts and self.count <= SHORT:
            return self
        self._gather()
        if len(self.parts) == 1:
            return self.parts[0]
        t_ns = np.concatenate([ticks.t_ns for ticks in self.parts])
        values = np.concatenate([ticks.values for ticks in self.parts])
        return Ticks(self.stream, t_ns, values, self.session, self.seq, self.where)


class Drain:
    """The events of one `receive`, in order; ticks that continue each other become one.

    apart: streams do not act on each other, so that only the order within each one counts.
    `size` is for the caller: the bytes that came.
    """

    def __init__(self, *, apart: bool = False) -> None:
        self.size = 0
        self._apart = apart
        self._events: list[Received] = []
        self._open: dict[str, _Open] = {}

    @property
    def empty(self) -> bool:
        """Whether there is no event yet."""
        return not self._events

    def add_ticks(self, ticks: Ticks) -> None:
        """Append ticks, to the block that they continue if there is one."""
        run = self._open.get(ticks.stream)
        if (
            run is None
            or ticks.seq != run.due
            or ticks.session != run.session
            or run.count + len(ticks.t_ns) > MAX_BLOCK_ROWS
        ):
            run = self._begin(ticks.stream, ticks.session, ticks.seq, ticks.where)
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
        run = self._open.get(stream)
        if run is None or seq != run.due or session != run.session or run.count >= MAX_BLOCK_ROWS:
            run = self._begin(stream, session, seq, where)
        run.times.append(t_ns)
        run.rows.append(values)
        run.count += 1
        if seq is not None:
            run.due = seq + 1

    def _begin(self, stream: str, session: str, seq: int | None, where: str) -> _Open:
        """Return a new run, which ends the one before it."""
        run = _Open(stream, session, seq, where)
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
        return [event.whole() if isinstance(event, _Open) else event for event in self._events]
