"""From raw ticks to elements: feature memory, and the gate that nothing bad passes.

A tick whose features are not all finite is refused alone: the memory keeps the last accepted
ticks, so the next tick is compared with those, in a block as well as one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from ..tables import LIMIT
from .features import FeatureSet
from .table import StreamTable

Times: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[np.float64]
Elements: TypeAlias = npt.NDArray[np.float32]
Run: TypeAlias = tuple[Times, Elements]
Positions: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]
OnRefused: TypeAlias = Callable[[int, str], None]

RUN = 4096
"""Ticks evaluated at once: a refusal evaluates the rest of its run again."""


class Memory(msgspec.Struct):
    """The last accepted ticks: `t_ns` int64 (m,) and `values` float64 (m, C), m <= lag."""

    t_ns: np.ndarray
    values: np.ndarray

    @classmethod
    def empty(cls, columns: int) -> Memory:
        """Return a memory of no ticks."""
        return cls(np.zeros(0, np.int64), np.zeros((0, columns), np.float64))


class ElementMaker:
    """Makes elements of ticks with the given columns.

    Raises what `FeatureSet` raises.
    """

    def __init__(self, expressions: Sequence[str], columns: Sequence[str]) -> None:
        self.features = FeatureSet(expressions, columns)
        self.columns = tuple(columns)
        self._used = [self.columns.index(name) for name in self.features.columns_used]

    def __len__(self) -> int:
        return len(self.features)

    def make(
        self, memory: Memory, t_ns: Times, values: Values, refused: OnRefused
    ) -> Iterator[Run]:
        """Yield (t_ns (m,), elements (m, F) float32) for runs of accepted ticks.

        `memory` is brought up to date before each run is yielded. `refused(index, reason)` is
        called for each tick that is not let in.
        """
        lag, start = self.features.lag, 0
        while start < len(values):
            if len(memory.values) < lag:
                self._remember_first(memory, t_ns, values, start, refused)
                start += 1
                continue
            stop = min(start + RUN, len(values))
            run_t, run_v = t_ns[start:stop], values[start:stop]
            if lag:
                run_t = np.concatenate([memory.t_ns, run_t])
                run_v = np.concatenate([memory.values, run_v])
            made = self.features.evaluate(run_t, run_v)
            count = _good(made)
            if count:
                if lag:
                    memory.t_ns = run_t[count : count + lag]
                    memory.values = run_v[count : count + lag]
                yield run_t[lag : lag + count], made[:count]
            start += count
            if count < len(made):
                refused(start, self.reason(values[start], made[count]))
                start += 1

    def accepts(self, memory: Memory, t_ns: Times, values: Values) -> bool:
        """Return whether a tick, t_ns (1,) and values (1, C), would make an element now."""
        known = Memory(memory.t_ns, memory.values)  # what is remembered is replaced, not written
        return any(len(elements) for _, elements in self.make(known, t_ns, values, _nobody))

    def _remember_first(
        self, memory: Memory, t_ns: Times, values: Values, k: int, refused: OnRefused
    ) -> None:
        """Let tick `k` into a memory that is not full yet; it makes no element.

        It must make one of itself repeated every second: a tick that nothing can be compared
        with, such as a price of 0, would have every later tick refused.
        """
        seconds = np.arange(self.features.lag + 1, dtype=np.int64) * 1_000_000_000
        alone = np.repeat(values[k : k + 1], len(seconds), axis=0)
        made = self.features.evaluate(seconds, alone)
        if self._bad_field(values[k]) or not _good(made):
            refused(k, self.reason(values[k], made[0]))
            return
        memory.t_ns = np.append(memory.t_ns, t_ns[k])
        memory.values = np.concatenate([memory.values, values[k : k + 1]])

    def reason(self, row: Values, made: Elements) -> str:
        """Return why a tick of values `row` (C,) that made element `made` (F,) is not let in."""
        bad = int(np.argmin(np.abs(made) < LIMIT))
        fields = ", ".join(f"{self.columns[k]}={row[k]:g}" for k in self._used)
        feature = f"feature {self.features.names[bad]} is {made[bad]:g} ({fields})"
        return self._bad_field(row) or feature

    def _bad_field(self, row: Values) -> str:
        bad = [k for k in self._used if not abs(row[k]) < LIMIT]  # NaN too
        return f"{self.columns[bad[0]]} is {row[bad[0]]:g}" if bad else ""


def _nobody(index: int, reason: str) -> None:
    """Take no notice of a refusal."""


def good_rows(made: Elements) -> Bools:
    """Return which elements (m, F) are within the limit."""
    return np.asarray((np.abs(made) < LIMIT).all(axis=1))


def _good(made: Elements) -> int:
    """Return how many elements (m, F) come before the first that is not within the limit."""
    if len(made) == 1:
        # The live path: Python looks at one row in a fifth of the time of NumPy's calls.
        return int(all(-LIMIT < value < LIMIT for value in made[0].tolist()))
    good = good_rows(made)  # False for NaN too
    return len(made) if good.all() else int(np.argmin(good))


class Block(NamedTuple):
    """Ticks of a block, grouped by stream.

    `streams` (d,) are its streams in the order of their first ticks, `local` (m,) says which of
    them each tick is of. `order` (m,) puts the ticks stream by stream, each stream's in their
    order, and `counts` (d,) says how many each has.
    """

    streams: Positions
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


class TableMaker:
    """Makes elements of the ticks of many streams; `maker` makes those of one.

    A table's `memory_v` (L, C) and `memory_t` (L,) hold a stream's last L = lag accepted ticks,
    the oldest first, and its column `held` how many there are.

    The ticks of a block are put stream by stream, each stream's behind the ticks that it
    remembers, and evaluated together; what was made across the seams is dropped. Features work
    element by element, so the bits are those of each stream alone. A stream with a tick that is
    refused goes through `ElementMaker` by itself, since what follows is compared with what came
    before it.
    """

    def __init__(self, maker: ElementMaker, table: StreamTable) -> None:
        self.maker, self.features, self.table = maker, maker.features, table
        self.lag = maker.features.lag
        self._scratch = np.zeros(0, np.int64)
        self._used = [maker.columns.index(name) for name in maker.features.columns_used]

    def group(self, streams: Positions) -> Block:
        """Group ticks by stream, in linear time."""
        if len(self._scratch) < self.table.capacity:
            self._scratch = np.zeros(self.table.capacity, np.int64)
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

    def make(self, block: Block, remembered: Positions, t_ns: Times, values: Values) -> Made:
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
        good = good_rows(made_of)
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
        good = good_rows(elements)
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
        times = self.table.memory_t.take(block.streams, 0).reshape(-1)
        rows = self.table.memory_v.take(block.streams, 0).reshape(known, values.shape[1])
        run_t = np.concatenate([times, t_ns]).take(source)
        return run_t, np.concatenate([rows, values]).take(source, 0)

    def _first_good(self, values: Values) -> Bools:
        """Tell which first ticks may be remembered; see `ElementMaker`."""
        lag = self.lag
        seconds = np.tile(np.arange(lag + 1, dtype=np.int64) * 1_000_000_000, len(values))
        alone = self.features.evaluate(seconds, np.repeat(values, lag + 1, axis=0))[:: lag + 1]
        fields = (np.abs(values[:, self._used]) < LIMIT).all(axis=1)
        return np.asarray(fields & good_rows(alone))

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
            row = block.streams[k]
            old_t, old_v = self.table.memory_t[row], self.table.memory_v[row]
            memory = Memory(old_t[: held[k]].copy(), old_v[: held[k]].copy())
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
        self.table.memory_t[streams] = run_t.take(spots)
        self.table.memory_v[streams] = run_v.take(spots, 0)
