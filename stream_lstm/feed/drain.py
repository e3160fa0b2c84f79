"""The events of what was waiting in a socket, in order of arrival.

Ticks of one stream that continue each other become one block, so that a backlog is worked off in
blocks. Nothing is moved past anything else: the session sees what a slower sender would have sent.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from ..events import Input, Refusal, Ticks
from .records import MAX_BLOCK_ROWS

Received: TypeAlias = Input | Refusal


class Drain:
    """The events of one `receive`, in order; ticks that continue each other become one block."""

    def __init__(self) -> None:
        self.events: list[Received] = []
        self.size = 0
        self._run: list[Ticks] = []
        self._rows = 0

    def add_ticks(self, ticks: Ticks) -> None:
        """Append ticks, to the block before them if they continue it."""
        count = len(ticks.t_ns)
        if self._run and not self._continues(ticks, count):
            self._flush()
        self._run.append(ticks)
        self._rows += count

    def _continues(self, ticks: Ticks, count: int) -> bool:
        first = self._run[0]
        due = None if first.seq is None else first.seq + self._rows
        return (
            ticks.stream == first.stream
            and ticks.session == first.session
            and ticks.seq == due
            and self._rows + count <= MAX_BLOCK_ROWS
        )

    def add(self, event: Received) -> None:
        """Append an event that is not ticks."""
        self._flush()
        self.events.append(event)

    def finish(self) -> list[Received]:
        """Return the events."""
        self._flush()
        return self.events

    def _flush(self) -> None:
        run = self._run
        if len(run) == 1:
            self.events.append(run[0])
        elif run:
            t_ns = np.concatenate([ticks.t_ns for ticks in run])
            values = np.concatenate([ticks.values for ticks in run])
            first = run[0]
            self.events.append(
                Ticks(first.stream, t_ns, values, first.session, first.seq, first.where)
            )
        self._run = []
        self._rows = 0
