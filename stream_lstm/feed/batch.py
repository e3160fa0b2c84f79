"""The events of one `receive`, in order, with ticks that continue each other joined.

`EventBatch` joins ticks of one stream that continue each other into one `Ticks`, so a backlog is
processed in blocks; up to SHORT_RUN single ticks become a `Run`, which needs no array. Within a
stream nothing overtakes anything else. If streams are independent (`independent`), a block may
continue across events of other streams, and then precedes them; streams that learn with shared
weights keep their common order. A refused message without a stream keeps its place among all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from ..events import Input, Refusal, Run, Takeover, Ticks
from .protocol import MAX_BLOCK_ROWS

Received: TypeAlias = Input | Refusal | Takeover

SHORT_RUN = 64
"""Ticks of a run at most: more of them are faster as arrays."""


class _OpenRun(Run):
    """A run that may grow, by blocks too; `next_seq` is the number that would continue it.

    Single ticks stay Python numbers until there are many: one array for all of them takes a tenth
    of the time of one array each.
    """

    __slots__ = ("count", "next_seq", "parts")

    def __init__(self, stream: str, run_id: str, seq: int | None, where: str) -> None:
        super().__init__(stream, run_id, seq, where)
        self.next_seq, self.count = seq, 0
        self.parts: list[Ticks] = []

    def add(self, ticks: Ticks) -> None:
        self._gather()
        self.parts.append(ticks)
        self.count += len(ticks.t_ns)
        if self.next_seq is not None:
            self.next_seq += len(ticks.t_ns)

    def _gather(self) -> None:
        """Make one block of the single ticks at the end."""
        if self.times:
            self.parts.append(self.block())
            self.times, self.rows = [], []

    def finish(self) -> Ticks | Run:
        if not self.parts and self.count <= SHORT_RUN:
            return self
        self._gather()
        if len(self.parts) == 1:
            return self.parts[0]
        t_ns = np.concatenate([ticks.t_ns for ticks in self.parts])
        values = np.concatenate([ticks.values for ticks in self.parts])
        return Ticks(self.stream, t_ns, values, self.session, self.seq, self.where)


class EventBatch:
    """The events of one `receive`, in order; see the module.

    independent: only the order within each stream counts. `size` is the number of payload bytes,
    for the caller.
    """

    def __init__(self, *, independent: bool = False) -> None:
        self.size = 0
        self._independent = independent
        self._events: list[Received] = []
        self._open: dict[str, _OpenRun] = {}

    @property
    def empty(self) -> bool:
        """Whether there is no event yet."""
        return not self._events

    def add_ticks(self, ticks: Ticks) -> None:
        """Append ticks, to the block that they continue if there is one."""
        run = self._open.get(ticks.stream)
        if (
            run is None
            or ticks.seq != run.next_seq
            or ticks.session != run.session
            or run.count + len(ticks.t_ns) > MAX_BLOCK_ROWS
        ):
            run = self._begin(ticks.stream, ticks.session, ticks.seq, ticks.where)
        run.add(ticks)

    def add_one(
        self,
        stream: str,
        run_id: str,
        seq: int | None,
        where: str,
        t_ns: int,
        values: Sequence[float | None],
    ) -> None:
        """Append one tick that is not an array yet; None among `values` is NaN."""
        run = self._open.get(stream)
        if (
            run is None
            or seq != run.next_seq
            or run_id != run.session
            or run.count >= MAX_BLOCK_ROWS
        ):
            run = self._begin(stream, run_id, seq, where)
        run.times.append(t_ns)
        run.rows.append(values)
        run.count += 1
        if seq is not None:
            run.next_seq = seq + 1

    def _begin(self, stream: str, run_id: str, seq: int | None, where: str) -> _OpenRun:
        run = _OpenRun(stream, run_id, seq, where)
        self._close(stream)
        self._open[stream] = run
        self._events.append(run)
        return run

    def add(self, event: Received) -> None:
        """Append an event that is not ticks."""
        self._close(event.stream)
        self._events.append(event)

    def _close(self, stream: str) -> None:
        """End the open block of a stream, or all blocks if their order counts."""
        if self._independent and stream:
            self._open.pop(stream, None)
        else:
            self._open.clear()

    def finish(self) -> list[Received]:
        """Return the events."""
        return [event.finish() if isinstance(event, _OpenRun) else event for event in self._events]
