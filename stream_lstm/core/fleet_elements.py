"""From raw ticks of many streams to elements, in whole blocks: `elements` for a fleet.

The ticks of a block are put stream by stream, each stream's behind the ticks that it remembers,
and evaluated at once; what was made across the seams is dropped. Features work element by
element, so the bits are those of each stream alone. A stream with a tick that is not let in goes
through `ElementMaker` by itself, since what follows is compared with what came before it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..model.scaling import LIMIT
from .elements import ElementMaker, Elements, Memory, Times, Values
from .fleet_tables import Rows, Streams, Table

Positions = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Block(NamedTuple):
    """Ticks of a block, grouped by stream.

    `streams` (d,) are its streams in the order of their first ticks, `local` (m,) says which of
    them each tick is of. `order` (m,) puts the ticks stream by stream, each stream's in their
    order, and `counts` (d,) says how many each has.
    """

    streams: Streams
    local: Positions
    order: Positions
    counts: Positions

    @property
    def repeats(self) -> bool:
        """Whether a stream has more than one tick."""
        return len(self.streams) < len(self.local)

    @property
    def starts(self) -> Positions:
        """Where each stream's ticks begin in `order`, (d,)."""
        return np.cumsum(self.counts) - self.counts

    def ranks(self, made: Bools) -> Positions:
        """Return how many elements each tick's stream has had by then, its own with it, (m,)."""
        if not self.repeats:
            return made.astype(np.int64)
        so_far = np.cumsum(made[self.order], dtype=np.int64)
        starts = self.starts
        before = so_far[starts] - made[self.order[starts]]
        ranks: Positions = np.empty_like(so_far)
        ranks[self.order] = so_far - before.repeat(self.counts)
        return ranks


class Made(NamedTuple):
    """What was made of m ticks.

    `made` (m,) tells which have an element, a row of `elements` (m, F); `refused` holds (tick,
    reason) of those that were not let in, in order.
    """

    made: Bools
    elements: Elements
    refused: list[tuple[int, str]]


class FleetMaker:
    """Makes elements of the ticks of many streams; `maker` makes those of one.

    `values` float64 (L, C) and `times` int64 (L,) a stream hold its last L = lag accepted ticks,
    the oldest first; how many there are is for the caller to keep.
    """

    def __init__(self, maker: ElementMaker, capacity: int) -> None:
        self.maker, self.features = maker, maker.features
        self.lag = maker.features.lag
        self._scratch = np.zeros(capacity, np.int64)
        self._used = [maker.columns.index(name) for name in maker.features.columns_used]
        self.values = Table(capacity, np.dtype("f8"), (self.lag, len(maker.columns)))
        self.times = Table(capacity, np.dtype("i8"), (self.lag,))

    def group(self, streams: Streams) -> Block:
        """Group ticks by stream, in linear time."""
        count, scratch = len(streams), self._scratch
        at = np.arange(count)
        scratch[streams[::-1]] = at[::-1]  # of what is written twice the last counts: the first
        first = scratch[streams]
        is_first = first == at
        distinct = streams[is_first]
        if len(distinct) == count:
            return Block(streams, at, at, np.ones(count, np.int64))
        local = (np.cumsum(is_first) - 1)[first]
        # Small numbers are sorted digit by digit, which is faster than by comparison.
        small = local.astype(np.uint16) if count <= 1 << 16 else local
        order = np.argsort(small, kind="stable")
        return Block(distinct, local, order, np.bincount(local, minlength=len(distinct)))

    def make(self, block: Block, remembered: Rows, t_ns: Times, values: Values) -> Made:
        """Return what the ticks t_ns (m,), values (m, C) make, and remember them.

        `remembered` (d,) is how many ticks each stream remembers, and is brought up to date.
        """
        if not self.lag:
            elements = self.features.evaluate(t_ns, values)
            return self._without_memory(values, elements)
        held, lag = remembered.astype(np.int64), self.lag
        lengths = held + block.counts
        ends = np.cumsum(lengths)
        # Where each tick, stream by stream, comes to stand among the remembered ones.
        shift = ends - lengths + held - block.starts
        places = np.arange(len(values)) + shift.repeat(block.counts)
        run_t, run_v = self._laid_out(block, held, ends, places, t_ns, values)
        every = self.features.evaluate(run_t, run_v)
        late: Bools = np.ones(len(values), np.bool_)
        if not (held == lag).all():
            rank = np.arange(len(values)) - (block.starts - held).repeat(block.counts)
            late = rank >= lag
        made_of = np.zeros((len(values), len(self.features)), np.float32)
        if len(every):
            every.take(np.maximum(places - lag, 0), 0, made_of, mode="clip")
        good = _good(made_of)
        if not late.all():
            good[~late] = self._first_good(values[block.order[~late]])
        made, elements = late, made_of
        if block.repeats:
            made, elements = np.empty_like(late), np.empty_like(made_of)
            made[block.order], elements[block.order] = late, made_of
        spoilt = np.zeros(len(block.streams), np.bool_)
        if not good.all():
            spoilt[block.local[block.order[~good]]] = True
        refused = self._spoilt(block, spoilt, held, t_ns, values, made, elements)
        self._remember(block, ~spoilt, lengths, ends, run_t, run_v)
        remembered[:] = np.where(spoilt, held, np.minimum(lengths, lag))
        return Made(made, elements, refused)

    def _without_memory(self, values: Values, elements: Elements) -> Made:
        good = _good(elements)
        bad = np.flatnonzero(~good)
        reason = self.maker.reason
        return Made(good, elements, [(int(k), reason(values[k], elements[k])) for k in bad])

    def _laid_out(
        self,
        block: Block,
        held: Positions,
        ends: Positions,
        places: Positions,
        t_ns: Times,
        values: Values,
    ) -> tuple[Times, Values]:
        """Return times and values, each stream's ticks behind those that it remembers."""
        lag, known = self.lag, len(block.streams) * self.lag
        # Of each row: a remembered tick, or a new one.
        source = np.empty(len(places) + int(held.sum()), np.int64)
        source[places] = known + block.order
        begins = (ends - held - block.counts)[:, None] + np.arange(lag)
        old = np.arange(known)
        if (held == lag).all():
            source[begins.reshape(-1)] = old
        else:
            there = (np.arange(lag) < held[:, None]).reshape(-1)
            source[begins.reshape(-1)[there]] = old[there]
        times = self.times.gather(block.streams).reshape(-1)
        rows = self.values.gather(block.streams).reshape(known, values.shape[1])
        run_t = np.concatenate([times, t_ns]).take(source)
        return run_t, np.concatenate([rows, values]).take(source, 0)

    def _first_good(self, values: Values) -> Bools:
        """Tell which first ticks may be remembered; see `ElementMaker`."""
        lag = self.lag
        seconds = np.tile(np.arange(lag + 1, dtype=np.int64) * 1_000_000_000, len(values))
        alone = self.features.evaluate(seconds, np.repeat(values, lag + 1, axis=0))[:: lag + 1]
        fields = (np.abs(values[:, self._used]) < LIMIT).all(axis=1)
        return np.asarray(fields & _good(alone))

    def _spoilt(
        self,
        block: Block,
        spoilt: Bools,
        held: Positions,
        t_ns: Times,
        values: Values,
        made: Bools,
        elements: Elements,
    ) -> list[tuple[int, str]]:
        """Make the elements of streams with a bad tick again, each stream by itself."""
        refused: list[tuple[int, str]] = []
        starts = block.starts
        for k in np.flatnonzero(spoilt):
            at = block.order[starts[k] : starts[k] + block.counts[k]]
            one = block.streams[k : k + 1]
            old_t, old_v = self.times.gather(one)[0], self.values.gather(one)[0]
            memory = Memory(old_t[: held[k]], old_v[: held[k]])
            bad: list[int] = []

            def not_let_in(
                index: int, reason: str, at: Positions = at, bad: list[int] = bad
            ) -> None:
                bad.append(index)
                refused.append((int(at[index]), reason))

            runs = [run for _, run in self.maker.make(memory, t_ns[at], values[at], not_let_in)]
            let_in = np.delete(at, bad)
            made[at] = False
            if runs:
                new = np.concatenate(runs)
                taken = let_in[len(let_in) - len(new) :]
                made[taken], elements[taken] = True, new
            held[k] = len(memory.values)
            old_t[: held[k]], old_v[: held[k]] = memory.t_ns, memory.values
            self.times.put(one, old_t[None])
            self.values.put(one, old_v[None])
        refused.sort()
        return refused

    def _remember(
        self,
        block: Block,
        clean: Bools,
        lengths: Positions,
        ends: Positions,
        run_t: Times,
        run_v: Values,
    ) -> None:
        """Keep the last ticks of the streams that are clean; all theirs were let in."""
        kept = np.minimum(lengths, self.lag)
        spots = np.minimum((ends - kept)[:, None] + np.arange(self.lag), (ends - 1)[:, None])
        streams = block.streams
        if not clean.all():
            spots, streams = spots[clean], streams[clean]
        spots = spots.reshape(-1)
        self.times.put(streams, run_t.take(spots))
        self.values.put(streams, run_v.take(spots, 0))


def _good(made: Elements) -> Bools:
    """Tell which elements (m, F) are within the limit."""
    return np.asarray((np.abs(made) < LIMIT).all(axis=1))
