"""Whether anything that comes after element n changes a byte of what was there at n.

A session runs along a series in blocks. Before a block that holds a place to try, everything that
the session holds is written down. After it, another session goes on from there once for each
future: with the ticks of the block that come before the place and then nothing (the reference),
or the ones that came, or others, in ONE block together with those before, since what looks ahead
can do so only within a block. The books that a `Witness` kept are compared: those of the
reference must be the beginnings of all others, and of those of the session that runs on.

So a trial costs a few blocks, not a replay, however long the series is. Where books differ, the
leak is in the stage whose book differs at the earliest element, and of those that do at the same
one in the first in the order of `STAGES`: what comes later takes from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from ..events import Ticks
from .futures import FUTURES
from .session import Session
from .snapshot import restore, take
from .witness import BOOKS, STAGES, Books, Entry, Witness

AS_IT_WAS = "as it was"
"""The run over the whole series, whose block goes on behind the place."""


class Leak(msgspec.Struct, frozen=True):
    """The first byte of a stage that another future changed.

    tick: how many ticks of the series come before the change. element: the n of the last element
    before it. n: the element whose entry differs. future: what came instead.
    """

    stage: str
    tick: int
    element: int
    n: int
    future: str


class CausalCheck:
    """The check of one series.

    main: the session that runs over the whole series; it may deliver to a listener. other: an
    equal one, which goes through the trials, best with the same engine. seed: of the futures.
    """

    def __init__(self, main: Session, other: Session, *, seed: int = 0) -> None:
        self.main = Witness(main)
        self.leak: Leak | None = None
        self.trials = self.comparisons = 0
        self.compared = dict.fromkeys(STAGES, 0)
        self.differing = dict.fromkeys(STAGES, 0)
        self.predictions = 0
        self._other = Witness(other)
        self._seed = seed
        self._ticks = 0

    def push(self, ticks: Ticks, places: Sequence[int] = ()) -> None:
        """Take a block of the series; `places` in it, from 1 to its length - 1, are tried.

        Place k stands for what comes after k ticks of the block.
        """
        session = self.main.session
        held = take(session) if places else b""
        stream = session.streams.get(ticks.stream)
        n = stream.n if stream is not None else 0
        self.main.open(n, writing=bool(places))
        session.push(ticks)
        for place in places:
            self._try(ticks, place, held, n)
        self._ticks += len(ticks.values)

    def _try(self, ticks: Ticks, place: int, held: bytes, n: int) -> None:
        past = ticks.t_ns[:place], ticks.values[:place]
        known = self._run(msgspec.structs.replace(ticks, t_ns=past[0], values=past[1]), held, n)
        at, state = self._other.elements, self._other.state_at(self._other.elements)
        self.trials += 1
        self.predictions += len(known["calibration"])
        self._compare(known, state, self.main, AS_IT_WAS, at, place)
        for kind, future in FUTURES.items():
            random = np.random.default_rng([self._seed, self._ticks + place])
            came = future(random, ticks.t_ns[place:], ticks.values[place:])
            t_ns, values = (np.concatenate(parts) for parts in zip(past, came, strict=True))
            self._run(msgspec.structs.replace(ticks, t_ns=t_ns, values=values), held, n)
            self._compare(known, state, self._other, kind, at, place)

    def _run(self, ticks: Ticks, held: bytes, n: int) -> Books:
        restore(self._other.session, held)
        self._other.open(n)
        self._other.session.push(ticks)
        return self._other.books

    def _compare(
        self,
        known: Books,
        state: tuple[bytes, bytes],
        witness: Witness,
        future: str,
        at: int,
        place: int,
    ) -> None:
        """Compare the books of the reference with those of a run that went on."""
        self.comparisons += 1
        scaler, network = witness.state_at(at) if state[0] else (b"", b"")
        last = {"scaler": (state[0], scaler), "predictions": (state[1], network)}
        found: list[tuple[int, int]] = []
        for index, stage in enumerate(STAGES):
            one, other = last.get(stage, (b"", b""))
            places = [] if one == other else [at]
            self.compared[stage] += len(one)
            for name in BOOKS[stage]:
                self.compared[stage] += sum(len(entry.data) for entry in known[name])
                n = _first_difference(known[name], witness.books[name])
                places += [] if n is None else [n]
            if places:
                self.differing[stage] += 1
                found.append((min(places), index))
        if found and self.leak is None:
            n, index = min(found)
            self.leak = Leak(STAGES[index], self._ticks + place, at, n, future)

    def record(self) -> dict[str, Any]:
        """Return what was found so far; `leak` is None where nothing looks ahead."""
        return {
            "trials": self.trials,
            "futures": [AS_IT_WAS, *FUTURES],
            "comparisons": self.comparisons,
            "predictions_compared": self.predictions,
            "bytes_compared": sum(self.compared.values()),
            "stages": {
                stage: {"bytes": self.compared[stage], "differing": self.differing[stage]}
                for stage in STAGES
            },
            "leak": msgspec.structs.asdict(self.leak) if self.leak else None,
        }


def _first_difference(wanted: list[Entry], found: list[Entry]) -> int | None:
    """Return the element where `found` does not begin as `wanted`; None where it does."""
    for k, entry in enumerate(wanted):
        if k >= len(found) or found[k].data != entry.data:
            return entry.n
    return None
