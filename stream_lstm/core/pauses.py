"""Pauses: breaks in the times of a stream, such as nights, and where ticks are cut at them.

A tick comes after a pause if it is accepted and its time is more than `ns` after the latest time
of its stream. Both times must be known: a tick without a time (`NO_TIME`) neither ends nor begins
a pause. As the latest time is that of accepted ticks, a bad tick ends no pause.

Ticks are sifted (see `elements`) in parts that begin at a pause and have none inside. If the
memory forgets, the tick after a pause is judged by an empty memory, which stays as it was where
that tick is refused. Bad ticks can hide a pause, and which are bad is known only after they are
sifted. So a part is sifted up to the next pause of the ticks that seem good, and again where it
proves to be shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec
import numpy as np

from ..events import NO_TIME
from ..typing import Bools, Float64s, Int64s
from .old_ticks import NEVER

if TYPE_CHECKING:
    from .elements import Memory, SiftedTicks

    Sift: TypeAlias = Callable[[Memory, Int64s, Float64s], Iterator[SiftedTicks]]

MAX_TRIED = 4096
"""Ticks that are tried together."""


class Part(NamedTuple):
    """The first `size` ticks of a block, sifted, and the memory after them.

    `paused` says that they come after a pause; there is none inside.
    """

    size: int
    paused: bool
    sifted: list[SiftedTicks]
    memory: Memory


class Pauses(NamedTuple):
    """The rule: pauses are longer than `ns`, 0 for none, and the feature memory `forgets` then."""

    ns: int = 0
    forgets: bool = False

    def separate(self, latest: Int64s, t_ns: Int64s) -> Bools:
        """Return where a pause is between the latest time and a tick's, both (m,)."""
        # Differences of int64 are exact as uint64 where they are positive.
        apart = t_ns.view(np.uint64) - latest.view(np.uint64) > np.uint64(self.ns)
        known = (latest != NEVER) & (latest != NO_TIME) & (t_ns != NO_TIME)
        out: Bools = apart & known & (t_ns > latest)
        return out

    def part(
        self, sift: Sift, memory: Memory, t_ns: Int64s, values: Float64s, seem_good: Bools
    ) -> Part:
        """Return the next part of ticks t_ns (m,), values (m, C); `memory` is not changed.

        seem_good (m,): False for ticks with values that are bad where a feature reads them, which
        an empty memory never accepts.
        """
        start = msgspec.structs.replace(memory, old=None)
        apart = self.separate(np.full(len(t_ns), memory.latest), t_ns)
        paused = bool(apart[0])
        if paused:
            if self.forgets:
                start.t_ns, start.values = start.t_ns[:0], start.values[:0]
            count = len(t_ns) if apart.all() else int(np.argmin(apart))
            if bad := _refused_first(sift, start, t_ns[:count], values[:count]):
                sifted = list(sift(start, t_ns[:bad], values[:bad]))
                return Part(bad, False, sifted, msgspec.structs.replace(memory, old=None))
        good, size = seem_good, 0
        for _ in range(2):
            before, size = size, self._until(memory.latest, t_ns, good, seem_good)
            if size == before:
                break
            t_ns, seem_good = t_ns[:size], seem_good[:size]
            after, good = msgspec.structs.replace(start), np.ones(size, np.bool_)
            sifted = list(sift(after, t_ns, values[:size]))
            good[[k for one in sifted for _, k, _ in one.refused]] = False
        return Part(size, paused, sifted, after)

    def _until(self, latest: int, t_ns: Int64s, good: Bools, seem_good: Bools) -> int:
        """Return how many of the ticks (m,), one at least, come before the next pause.

        If of these the `good` ones are accepted; one that is not, and seems good, may be accepted
        by an empty memory.
        """
        reached = np.maximum.accumulate(np.append(latest, np.where(good, t_ns, NEVER)))[:-1]
        ends = np.flatnonzero((self.separate(reached, t_ns) & (good | seem_good))[1:])
        return int(ends[0]) + 1 if len(ends) else len(t_ns)

    def possible(self, latest: Int64s, starts: Int64s, t_ns: Int64s) -> Bools:
        """Return which streams (d,) may have a pause among their ticks, whichever are accepted.

        latest (d,): of each stream. starts (d,): the first tick of each among t_ns (m,), which are
        grouped by stream.
        """
        timed, limits = t_ns != NO_TIME, np.iinfo(np.int64)
        last = np.maximum.reduceat(np.where(timed, t_ns, limits.min), starts)
        earliest = np.minimum.reduceat(np.where(timed, t_ns, limits.max), starts)
        unknown = (latest == NEVER) | (latest == NO_TIME)
        return self.separate(np.where(unknown, earliest, latest), last)


NO_PAUSES = Pauses()


def _refused_first(sift: Sift, memory: Memory, t_ns: Int64s, values: Float64s) -> int:
    """Return how many ticks are refused before the first that is accepted."""
    start, size = 0, 1
    while start < len(t_ns):
        stop = min(start + size, len(t_ns))
        trial = msgspec.structs.replace(memory)
        sifted = sift(trial, t_ns[start:stop], values[start:stop])
        refused = {k for one in sifted for _, k, _ in one.refused}
        if len(refused) < stop - start:
            return start + next(k for k in range(stop) if k not in refused)
        start, size = stop, min(2 * size, MAX_TRIED)
    return start
