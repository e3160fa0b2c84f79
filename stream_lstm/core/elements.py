"""From raw ticks to elements: feature memory, and the gate that nothing bad passes.

A tick whose features are not all finite is refused alone: the memory keeps the last accepted
ticks, so the next tick is compared with those, in a block as well as one by one. Old ticks
(see `old_times`) are refused before that, where they are to be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np

from ..schema import LIMIT, StreamConfig
from ..typing import Bools, Float32s, Float64s, Int64s
from .features import FeatureSet
from .old_times import NEVER, Old, find_old, joined
from .table import HELD, LATEST, StreamTable

Run: TypeAlias = tuple[Int64s, Float32s]
OnRefused: TypeAlias = Callable[[int, str], None]

RUN = 4096
"""Ticks evaluated at once."""

SHORT = 64
"""Ticks evaluated at once, at least, where it is hard to tell which are bad."""

PASSES = 4
"""Evaluations of a run with bad ticks in it, before the ticks behind them are looked at alone."""


class Memory(msgspec.Struct):
    """The last accepted ticks: `t_ns` int64 (m,) and `values` float64 (m, C), m <= lag.

    `latest` is the latest time of the stream and `last` (C,) the values of the tick that had it
    last, () before the first tick; `old` are the old ticks among those that were sifted last.
    """

    t_ns: np.ndarray
    values: np.ndarray
    latest: int = NEVER
    last: np.ndarray = np.zeros(0)
    old: Old | None = None

    @classmethod
    def empty(cls, columns: int) -> Memory:
        """Return a memory of no ticks."""
        return cls(np.zeros(0, np.int64), np.zeros((0, columns), np.float64))


class SiftedTicks(NamedTuple):
    """What was made of some ticks of a stream, and which were refused.

    `before` is what was remembered before them. `t_ns` (m,), `values` (m, C) and `elements`
    (m, F) are of those accepted; `refused` has (accepted before it, index, reason) of the others.
    """

    before: Memory
    t_ns: Int64s
    values: Float64s
    elements: Float32s
    refused: list[tuple[int, int, str]]


class ElementMaker:
    """Makes elements of ticks with the given columns.

    refuse_old: refuse ticks that are old. Raises what `FeatureSet` raises.
    """

    def __init__(
        self, expressions: Sequence[str], columns: Sequence[str], *, refuse_old: bool = False
    ) -> None:
        self.features = FeatureSet(expressions, columns)
        self.refuse_old = refuse_old
        self.columns = tuple(columns)
        self._used = [self.columns.index(name) for name in self.features.columns_used]
        self._no_elements = np.zeros((0, len(self.features)), np.float32)

    def __len__(self) -> int:
        return len(self.features)

    def make(
        self, memory: Memory, t_ns: Int64s, values: Float64s, refused: OnRefused
    ) -> Iterator[Run]:
        """Yield (t_ns (m,), elements (m, F) float32) for runs of accepted ticks.

        `memory` is brought up to date before each run is yielded. `refused(index, reason)` is
        called for each tick that is refused.
        """
        for sifted in self.sift(memory, t_ns, values):
            start, whole = 0, Memory(memory.t_ns, memory.values)
            seen_t = np.concatenate([sifted.before.t_ns, sifted.t_ns])
            seen_v = np.concatenate([sifted.before.values, sifted.values])
            for stop, index, reason in (*sifted.refused, (len(sifted.t_ns), -1, "")):
                if start < stop:
                    seen = len(sifted.before.t_ns) + stop
                    self._hold(memory, seen_t[:seen], seen_v[:seen])
                    yield sifted.t_ns[start:stop], sifted.elements[start:stop]
                    start = stop
                if index >= 0:
                    refused(index, reason)
            memory.t_ns, memory.values = whole.t_ns, whole.values

    def sift(self, memory: Memory, t_ns: Int64s, values: Float64s) -> Iterator[SiftedTicks]:
        """Yield the ticks of each `RUN`, sifted; `memory` is brought up to date before each."""
        if self.refuse_old:
            yield from self._sift_without_old(memory, t_ns, values)
            return
        bad: list[int] = []
        for sifted, _ in self._runs(memory, t_ns, values):
            bad += [index for _, index, _ in sifted.refused]
            if len(sifted.t_ns) or sifted.refused:
                yield sifted
        old, memory.latest, memory.last = _old_but(memory, t_ns, values, bad)
        memory.old = old if old is None else old.but(bad)

    def _sift_without_old(
        self, memory: Memory, t_ns: Int64s, values: Float64s
    ) -> Iterator[SiftedTicks]:
        """Yield what is made of the ticks that are not old.

        Which are old depends on which of those before them are bad, and the other way round. So
        the bad ones are guessed, none at first, and the guess is right where it follows from
        itself. Where no guess is, the ticks are sifted in two halves.
        """
        bad: list[int] = []
        for _ in range(PASSES):
            old, latest, last = _old_but(memory, t_ns, values, bad)
            known = msgspec.structs.replace(memory)
            made = list(self._around(known, t_ns, values, old))
            was, bad = bad, []
            if sum(len(sifted.refused) for sifted in made) > (0 if old is None else len(old.at)):
                gone = set() if old is None else set(old.at.tolist())
                bad = [k for sifted in made for _, k, _ in sifted.refused if k not in gone]
            if bad == was:
                memory.t_ns, memory.values = known.t_ns, known.values
                memory.old, memory.latest, memory.last = old, latest, last
                yield from made
                return
        half, found = len(values) // 2, []
        for part in (slice(half), slice(half, None)):
            for sifted in self._sift_without_old(memory, t_ns[part], values[part]):
                start = part.start or 0
                yield sifted._replace(
                    refused=[(n, start + k, why) for n, k, why in sifted.refused]
                )
            if memory.old is not None:
                found.append(memory.old._replace(at=memory.old.at + (part.start or 0)))
        memory.old = joined(found)

    def _around(
        self, memory: Memory, t_ns: Int64s, values: Float64s, old: Old | None
    ) -> Iterator[SiftedTicks]:
        """Yield what is made of the ticks around old ones, which are among those refused."""
        out = np.zeros(0, np.int64) if old is None else old.at
        kept = np.delete(np.arange(len(values)), out)
        places, reasons = np.searchsorted(kept, out), [] if old is None else old.reasons()
        start = done = 0
        for sifted, stop in self._runs(memory, t_ns[kept], values[kept]):
            end = int(np.searchsorted(places, stop)) if stop < len(kept) else len(places)
            at = places[done:end]
            bad = [index for _, index, _ in sifted.refused]
            before = at - start - np.searchsorted(bad, at) if len(sifted.t_ns) else 0 * at
            refused = list(
                zip(before.tolist(), out[done:end].tolist(), reasons[done:end], strict=True)
            )
            if bad:
                refused += [(n, int(kept[index]), why) for n, index, why in sifted.refused]
                refused.sort(key=lambda one: one[1])
            if len(sifted.t_ns) or refused:
                yield sifted._replace(refused=refused)
            start, done = stop, end
        if done < len(places):
            refused = [(0, k, why) for k, why in zip(out.tolist(), reasons, strict=True)]
            yield SiftedTicks(memory, t_ns[:0], values[:0], self._no_elements, refused)

    def _runs(
        self, memory: Memory, t_ns: Int64s, values: Float64s
    ) -> Iterator[tuple[SiftedTicks, int]]:
        """Yield the ticks of each run, sifted, and where the next run begins."""
        lag, start, size = self.features.lag, 0, RUN
        while start < len(values):
            if len(memory.values) < lag:
                before = Memory(memory.t_ns, memory.values)
                start, refused = self._remember_first(memory, t_ns, values, start)
                yield SiftedTicks(before, t_ns[:0], values[:0], self._no_elements, refused), start
                continue
            part = slice(start, min(start + size, len(values)))
            sifted, settled = self._sift(memory, t_ns[part], values[part], start)
            # What could not be told in a few passes is left for the next, shorter run.
            size = RUN if settled == part.stop - start else max(2 * settled, SHORT)
            start += settled
            yield sifted, start

    def _sift(
        self, memory: Memory, t_ns: Int64s, values: Float64s, start: int
    ) -> tuple[SiftedTicks, int]:
        """Return what was made of the first ticks of a run, and of how many."""
        lag, count = self.features.lag, len(values)
        before = Memory(memory.t_ns, memory.values)
        every: Int64s = np.arange(count)
        kept, made = every, self._evaluate(before, t_ns, values, every)
        good = _all_good(made)
        refused: list[tuple[int, int, str]] = []
        if good is not None and count == 1:
            refused = [(0, start, self.reason(values[0], made[0]))]
            t_ns, values, kept, made = t_ns[:0], values[:0], every[:0], made[:0]
        elif good is not None:
            kept, made, settled, bad, bad_made = self._settle(before, t_ns, values, made, good)
            if settled < count:
                count = settled
                kept, made = _below(settled, kept, made)
                bad, bad_made = _below(settled, bad, bad_made)
            places = np.searchsorted(kept, bad).tolist()
            refused = [
                (place, start + at, self.reason(values[at], row))
                for place, at, row in zip(places, bad.tolist(), bad_made, strict=True)
            ]
            t_ns, values = t_ns[kept], values[kept]
        if lag and len(kept):
            self._hold(
                memory,
                np.concatenate([before.t_ns, t_ns[-lag:]]),
                np.concatenate([before.values, values[-lag:]]),
            )
        return SiftedTicks(before, t_ns, values, made, refused), count

    def _settle(
        self, before: Memory, t_ns: Int64s, values: Float64s, made: Float32s, good: Bools
    ) -> tuple[Int64s, Float32s, int, Int64s, Float32s]:
        """Tell good ticks from bad ones in a few passes over all of them.

        Which ticks are bad is guessed, and the guess is checked: each tick that is kept must make
        a good element behind the last ones kept, and each other one a bad one. Where all do, no
        other choice would: the first tick has no choice, and so on. Up to the first tick that does
        not, the guess is right, and at that tick the opposite is.

        Returns what was kept with its elements, how many ticks are settled, and those that are
        refused with the elements that they would have made.
        """
        keep: Bools = good | ~self._surely(values, good)
        for _ in range(PASSES):
            kept = np.flatnonzero(keep)
            made = self._evaluate(before, t_ns, values, kept)
            good = good_rows(made)
            if good.all():
                break
            keep[kept[self._heads(~good)]] = False
        else:
            kept = np.flatnonzero(keep)
            made = self._evaluate(before, t_ns, values, kept)
            good = good_rows(made)
        out = np.flatnonzero(~keep)
        would = self._would_make(before, t_ns, values, kept, out)
        wrong = [*kept[~good][:1].tolist(), *out[good_rows(would)][:1].tolist()]
        if not wrong:
            return kept, made, len(values), out, would
        first = min(wrong)
        if keep[first]:
            at, low = int(np.searchsorted(kept, first)), int(np.searchsorted(out, first))
            refused = np.append(out[:low], first), np.concatenate([would[:low], made[at : at + 1]])
            return kept[:at], made[:at], first + 1, *refused
        at, low = int(np.searchsorted(kept, first)), int(np.searchsorted(out, first))
        taken = np.concatenate([made[:at], would[low : low + 1]])
        return np.append(kept[:at], first), taken, first + 1, out[:low], would[:low]

    def _evaluate(self, before: Memory, t_ns: Int64s, values: Float64s, at: Int64s) -> Float32s:
        """Return the elements of the ticks `at`, one behind the other."""
        if len(at) < len(values):
            t_ns, values = t_ns[at], values[at]
        if self.features.lag:
            t_ns = np.concatenate([before.t_ns, t_ns])
            values = np.concatenate([before.values, values])
        return self.features.evaluate(t_ns, values)

    def _would_make(
        self, before: Memory, t_ns: Int64s, values: Float64s, kept: Int64s, at: Int64s
    ) -> Float32s:
        """Return the elements of the ticks `at`, each behind the last ones kept before it."""
        lag = self.features.lag
        rows_t = np.concatenate([before.t_ns, t_ns[kept], t_ns[at]])
        rows_v = np.concatenate([before.values, values[kept], values[at]])
        behind = np.searchsorted(kept, at)[:, None] + np.arange(lag)
        own = (lag + len(kept) + np.arange(len(at)))[:, None]
        rows = np.concatenate([behind, own], axis=1).reshape(-1)
        return self.features.evaluate(rows_t[rows], rows_v[rows])[:: lag + 1]

    def _surely(self, values: Float64s, good: Bools) -> Bools:
        """Return which ticks seem to be bad whatever comes before them, (m,); a guess."""
        within: Bools = np.asarray((np.abs(values[:, self._used]) < LIMIT).all(axis=1))
        fields: Bools = ~within
        rest = np.flatnonzero(~good & ~fields)
        alone = ~self._alone(values[rest])[1]
        if not alone.all():
            fields[rest[alone]] = True
        return fields

    def _heads(self, bad: Bools) -> Bools:
        """Return the bad ones that follow only good ones, as far as they look back."""
        so_far = np.concatenate([[0], np.cumsum(bad)])
        at = np.arange(len(bad))
        return np.asarray(bad & (so_far[at] == so_far[np.maximum(at - self.features.lag, 0)]))

    def _alone(self, values: Float64s) -> tuple[Float32s, Bools]:
        """Return what each tick makes of itself repeated every second, and whether it is good."""
        lag = self.features.lag
        seconds = np.tile(np.arange(lag + 1, dtype=np.int64) * 1_000_000_000, len(values))
        made = self.features.evaluate(seconds, np.repeat(values, lag + 1, axis=0))[:: lag + 1]
        return made, good_rows(made)

    def _hold(self, memory: Memory, t_ns: Int64s, values: Float64s) -> None:
        """Remember the last ticks of these."""
        if lag := self.features.lag:
            memory.t_ns, memory.values = t_ns[-lag:], values[-lag:]

    def accepts(self, memory: Memory, t_ns: Int64s, values: Float64s) -> bool:
        """Return whether a tick, t_ns (1,) and values (1, C), would make an element now."""
        known = msgspec.structs.replace(memory)  # what is remembered is replaced, not written
        return any(len(elements) for _, elements in self.make(known, t_ns, values, _nobody))

    def first_good(self, values: Float64s) -> Bools:
        """Return which ticks may be remembered where the memory is not full yet, (m,).

        Such a tick makes no element. It must make one of itself repeated every second: a tick
        that nothing can be compared with, such as a price of 0, would have every later tick
        refused.
        """
        return self._first(values)[1]

    def _first(self, values: Float64s) -> tuple[Float32s, Bools]:
        made, good = self._alone(values)
        fields = (np.abs(values[:, self._used]) < LIMIT).all(axis=1)
        return made, np.asarray(fields & good)

    def _remember_first(
        self, memory: Memory, t_ns: Int64s, values: Float64s, start: int
    ) -> tuple[int, list[tuple[int, int, str]]]:
        """Let ticks from `start` on into a memory that is not full yet.

        Returns where the next tick is, and (0, index, reason) of those that were refused.
        """
        missing = self.features.lag - len(memory.values)
        part = slice(start, start + min(RUN, max(missing, len(values) - start)))
        if part.stop - start > SHORT and self._first(values[start : start + missing])[1].all():
            part = slice(start, start + missing)
        made, good = self._first(values[part])
        full = np.flatnonzero(good)[:missing]
        stop = int(full[-1]) + 1 if len(full) == missing else len(made)
        memory.t_ns = np.append(memory.t_ns, t_ns[start + full])
        memory.values = np.concatenate([memory.values, values[start + full]])
        bad = np.flatnonzero(~good[:stop]).tolist()
        reason = self.reason
        return start + stop, [(0, start + k, reason(values[start + k], made[k])) for k in bad]

    def reason(self, row: Float64s, made: Float32s) -> str:
        """Return why a tick of values `row` (C,) that made element `made` (F,) is refused."""
        fields = row.tolist()
        for k in self._used:
            if not abs(fields[k]) < LIMIT:  # NaN too
                return f"{self.columns[k]} is {fields[k]:g}"
        numbers = made.tolist()
        bad = next((k for k, number in enumerate(numbers) if not abs(number) < LIMIT), 0)
        told = ", ".join(f"{self.columns[k]}={fields[k]:g}" for k in self._used)
        return f"feature {self.features.names[bad]} is {numbers[bad]:g} ({told})"


def maker_of(stream: StreamConfig, columns: Sequence[str]) -> ElementMaker:
    """Return what makes the elements of a stream of a configuration."""
    return ElementMaker(stream.features, columns, refuse_old=stream.on_old_time == "refuse")


def _old_but(
    memory: Memory, t_ns: Int64s, values: Float64s, bad: Sequence[int]
) -> tuple[Old | None, int, Float64s]:
    """Return the old ones among ticks of which some are bad, and what is the latest after them."""
    latest, last = np.array([memory.latest]), np.zeros((1, values.shape[1]))
    last[:, : len(memory.last)] = memory.last
    if not len(values):
        return None, memory.latest, last[0]
    good = None
    if bad:
        good = np.ones(len(values), np.bool_)
        good[bad] = False
    old = find_old(latest, last, np.zeros(1, np.int64), t_ns, values, good)
    return old, int(latest[0]), last[0]


def _nobody(index: int, reason: str) -> None:
    """Take no notice of a refusal."""


def good_rows(made: Float32s) -> Bools:
    """Return which elements (m, F) are within the limit."""
    return np.asarray((np.abs(made) < LIMIT).all(axis=1))


def _all_good(made: Float32s) -> Bools | None:
    """Return None where all elements (m, F) are within the limit, else which are."""
    if len(made) == 1:
        # The live path: Python looks at one row in a fifth of the time of NumPy's calls.
        well = all(-LIMIT < value < LIMIT for value in made[0].tolist())
        return None if well else np.zeros(1, np.bool_)
    good = good_rows(made)  # False for NaN too
    return None if good.all() else good


def _below(settled: int, at: Int64s, rows: Float32s) -> tuple[Int64s, Float32s]:
    """Return those of `at` below `settled`, with their rows."""
    count = int(np.searchsorted(at, settled))
    return at[:count], rows[:count]


class GroupedTicks(NamedTuple):
    """Ticks of a block, grouped by stream.

    `streams` (d,) are its streams in the order of their first ticks, `local` (m,) says which of
    them each tick is of. `order` (m,) puts the ticks stream by stream, each stream's in their
    order, and `counts` (d,) says how many each has.
    """

    streams: Int64s
    local: Int64s
    order: Int64s
    counts: Int64s

    @property
    def repeats(self) -> bool:
        """Whether a stream has more than one tick."""
        return len(self.streams) < len(self.local)

    @property
    def starts(self) -> Int64s:
        """Where each stream's ticks begin in `order`, (d,)."""
        return np.cumsum(self.counts) - self.counts

    def ranks(self, made: Bools) -> Int64s:
        """Return how many elements each tick's stream has had by then, its own with it, (m,)."""
        if not self.repeats:
            return made.astype(np.int64)
        so_far = np.cumsum(made[self.order], dtype=np.int64)
        starts = self.starts
        before = so_far[starts] - made[self.order[starts]]
        ranks: Int64s = np.empty_like(so_far)
        ranks[self.order] = so_far - before.repeat(self.counts)
        return ranks


class MadeElements(NamedTuple):
    """What was made of m ticks.

    `made` (m,) tells which have an element, a row of `elements` (m, F); `refused` holds (tick,
    reason) of those that were refused, in order. `old` are the old ones, stream by stream.
    """

    made: Bools
    elements: Float32s
    refused: list[tuple[int, str]]
    old: Old | None = None


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

    def group(self, streams: Int64s) -> GroupedTicks:
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
            return GroupedTicks(streams, at, at, np.ones(count, np.int64))
        local = (np.cumsum(is_first) - 1)[first]
        # Small numbers are sorted digit by digit, which is faster than by comparison.
        small = local.astype(np.uint16) if count <= 1 << 16 else local
        order = np.argsort(small, kind="stable")
        return GroupedTicks(distinct, local, order, np.bincount(local, minlength=len(distinct)))

    def make(
        self, block: GroupedTicks, rows: Int64s, t_ns: Int64s, values: Float64s
    ) -> MadeElements:
        """Return what the ticks t_ns (m,), values (m, C) make, and remember them.

        `rows` (d, columns) are the streams' rows of the table's `ints`. How many ticks each stream
        remembers, and its latest time, are brought up to date there.
        """
        if not self.lag:
            elements = self.features.evaluate(t_ns, values)
            return self._without_memory(block, rows, t_ns, values, elements)
        held, lag = rows[:, HELD].copy(), self.lag
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
            good[~late] = self.maker.first_good(values[block.order[~late]])
        made, elements = late, made_of
        if block.repeats:
            made, elements = np.empty_like(late), np.empty_like(made_of)
            made[block.order], elements[block.order] = late, made_of
        spoilt = np.zeros(len(block.streams), np.bool_)
        if not good.all():
            spoilt[block.local[block.order[~good]]] = True
        latest, last = rows[:, LATEST].copy(), self.table.last.take(block.streams, 0)
        old = self._find_old(block, ~spoilt[block.local], latest, last, t_ns, values)
        if old is not None and self.maker.refuse_old:
            spoilt[block.local[old.at]], old = True, None
        memories = self._memories(block, spoilt, held, rows)
        refused = self._spoilt(block, memories, held, t_ns, values, made, elements)
        self._remember(block, ~spoilt, lengths, ends, run_t, run_v)
        rows[:, HELD] = np.where(spoilt, held, np.minimum(lengths, lag))
        found = [] if old is None else [old]
        for k, memory in memories.items():
            latest[k], last[k] = memory.latest, memory.last
            if memory.old is not None:
                at = block.order[block.starts[k] : block.starts[k] + block.counts[k]]
                found.append(memory.old._replace(at=at[memory.old.at]))
        rows[:, LATEST], self.table.last[block.streams] = latest, last
        return MadeElements(made, elements, refused, joined(found))

    def _find_old(
        self,
        block: GroupedTicks,
        wanted: Bools,
        latest: Int64s,
        last: Float64s,
        t_ns: Int64s,
        values: Float64s,
    ) -> Old | None:
        """Return the old ones among ticks of streams whose ticks are `wanted` (m,).

        They come stream by stream. `latest` (d,) and `last` (d, C) are brought up to date.
        """
        at, streams, starts = block.order, np.arange(len(block.streams)), block.starts
        if not wanted.all():
            at = at[wanted[at]]
            counts = np.bincount(block.local[at], minlength=len(streams))
            streams = np.flatnonzero(counts)
            starts = np.cumsum(counts[streams]) - counts[streams]
        if not len(at):
            return None
        new, new_last = latest[streams], last[streams]
        old = find_old(new, new_last, starts, t_ns[at], values[at])
        latest[streams], last[streams] = new, new_last
        return None if old is None else old._replace(at=at[old.at])

    def _without_memory(
        self, block: GroupedTicks, rows: Int64s, t_ns: Int64s, values: Float64s, elements: Float32s
    ) -> MadeElements:
        good, why = good_rows(elements), dict[int, str]()
        last, order, old = self.table.last.take(block.streams, 0), block.order, None
        if len(order):
            able = None if good.all() else good[order]
            known = rows[:, LATEST], last, block.starts
            old = find_old(*known, t_ns[order], values[order], able)
        self.table.last[block.streams] = last
        if old is not None:
            old = old._replace(at=order[old.at])
            if self.maker.refuse_old:
                good[old.at] = False
                why = dict(zip(old.at.tolist(), old.reasons(), strict=True))
            else:
                old = old.but(np.flatnonzero(~good))
        reason = self.maker.reason
        refused = [
            (k, why.get(k) or reason(values[k], elements[k]))
            for k in np.flatnonzero(~good).tolist()
        ]
        return MadeElements(good, elements, refused, old)

    def _laid_out(
        self,
        block: GroupedTicks,
        held: Int64s,
        ends: Int64s,
        places: Int64s,
        t_ns: Int64s,
        values: Float64s,
    ) -> tuple[Int64s, Float64s]:
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

    def _memories(
        self, block: GroupedTicks, spoilt: Bools, held: Int64s, rows: Int64s
    ) -> dict[int, Memory]:
        """Return what the streams that are spoilt remembered before the block, by their place."""
        memory_t, memory_v = self.table.memory_t, self.table.memory_v
        found = {}
        for k in np.flatnonzero(spoilt).tolist():
            row, of = block.streams[k], held[k]
            old_t, old_v = memory_t[row, :of].copy(), memory_v[row, :of].copy()
            last = self.table.last[row].copy()
            found[k] = Memory(old_t, old_v, int(rows[k, LATEST]), last)
        return found

    def _spoilt(
        self,
        block: GroupedTicks,
        memories: dict[int, Memory],
        held: Int64s,
        t_ns: Int64s,
        values: Float64s,
        made: Bools,
        elements: Float32s,
    ) -> list[tuple[int, str]]:
        """Make the elements of streams with a refused tick again, each stream by itself."""
        refused: list[tuple[int, str]] = []
        starts = block.starts
        for k, memory in memories.items():
            at = block.order[starts[k] : starts[k] + block.counts[k]]
            row = block.streams[k]
            old_t, old_v = self.table.memory_t[row], self.table.memory_v[row]
            sifted = list(self.maker.sift(memory, t_ns[at], values[at]))
            bad = [index for one in sifted for _, index, _ in one.refused]
            reasons = [why for one in sifted for *_, why in one.refused]
            refused += zip(at[bad].tolist(), reasons, strict=True)
            runs = [one.elements for one in sifted if len(one.elements)]
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
        block: GroupedTicks,
        clean: Bools,
        lengths: Int64s,
        ends: Int64s,
        run_t: Int64s,
        run_v: Float64s,
    ) -> None:
        """Keep the last ticks of the streams that are clean; none of theirs was refused."""
        kept = np.minimum(lengths, self.lag)
        spots = np.minimum((ends - kept)[:, None] + np.arange(self.lag), (ends - 1)[:, None])
        streams = block.streams
        if not clean.all():
            spots, streams = spots[clean], streams[clean]
        self.table.memory_t[streams] = run_t.take(spots)
        self.table.memory_v[streams] = run_v.take(spots, 0)
