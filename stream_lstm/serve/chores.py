"""What a loop does now and then, between its real work: each chore with its own period."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class _Chore(msgspec.Struct):
    due: float
    period_s: float
    work: Callable[[], object]


class Chores:
    """Chores by time; `due` is when the next one is, in seconds of the loop's clock."""

    def __init__(self) -> None:
        self._chores: list[_Chore] = []
        self.due = float("inf")

    def add(self, now: float, period_s: float, work: Callable[[], object]) -> None:
        """Do `work` every `period_s` seconds, for the first time a period from `now`."""
        self._chores.append(_Chore(now + period_s, period_s, work))
        self.due = min(self.due, now + period_s)

    def run(self, now: float) -> None:
        """Do what is due; what was missed meanwhile is not made up for."""
        for chore in self._chores:
            if chore.due <= now:
                chore.due = now + chore.period_s
                chore.work()
        self.due = min((chore.due for chore in self._chores), default=self.due)
