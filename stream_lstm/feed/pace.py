"""When each tick of a file is due, and waiting until then.

Every time is relative to the first tick, never to the last one, so the cost of sending does not
add up: a late tick does not delay the later ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from ..errors import UsageError
from ..events import NO_TIME

NS_PER_S = 1e9

MAX_NAP_S = 0.1
"""Longest sleep, after which `idle` can send a heartbeat or ask to stop."""

FORMS = "max, recorded, a multiple of recorded such as 10x, or ticks a second such as 5000/s"

Kind: TypeAlias = Literal["max", "recorded", "rate"]

_FACTOR = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(x|/s)")


class Speed(NamedTuple):
    """How fast ticks are sent; `factor` multiplies recorded time, or is ticks a second."""

    kind: Kind
    factor: float = 1.0

    def due_s(self, k: int, elapsed_ns: int) -> float:
        """Return when tick `k` (from 0) is due, in seconds after tick 0.

        elapsed_ns: time of tick `k` minus that of tick 0.
        """
        if self.kind == "max":
            return 0.0
        return k / self.factor if self.kind == "rate" else elapsed_ns / NS_PER_S / self.factor


def parse_speed(text: str) -> Speed:
    """Return the speed that `text` names; UsageError lists the forms."""
    if text in ("max", "recorded"):
        return Speed("max" if text == "max" else "recorded")
    match = _FACTOR.fullmatch(text)
    if match is None or not float(match[1]) > 0:
        raise UsageError(f"unknown speed {text!r}; write {FORMS}")
    return Speed("recorded" if match[2] == "x" else "rate", float(match[1]))


class Pacer:
    """Waits for each tick's time.

    clock: seconds, monotonic. nap: sleeps for some seconds. idle: called after each nap; True
    stops waiting.
    """

    def __init__(
        self,
        speed: Speed,
        *,
        clock: Callable[[], float],
        nap: Callable[[float], None],
        idle: Callable[[], bool],
    ) -> None:
        self.speed = speed
        self._clock = clock
        self._nap = nap
        self._idle = idle
        self._start_s: float | None = None
        self._start_ns = NO_TIME

    def wait(self, k: int, t_ns: int) -> bool:
        """Wait until tick `k` (from 0), of time `t_ns`, is due; False means stop.

        The first call starts the schedule and does not wait.
        """
        if self._start_s is None:
            self._start_s = self._clock() - self.speed.due_s(k, 0)
            self._start_ns = t_ns
            return True
        if self.speed.kind == "max":
            return True
        due_s = self._start_s + self.speed.due_s(k, t_ns - self._start_ns)
        while (left_s := due_s - self._clock()) > 0:
            self._nap(min(left_s, MAX_NAP_S))
            if self._idle():
                return False
        return True
