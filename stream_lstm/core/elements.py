"""From raw ticks to elements: the feature memory, and the check that no bad tick passes.

A tick whose features are not all finite is refused by itself: the memory contains the last
accepted ticks, so the next tick is compared with those, in a block as well as one at a time. Old
ticks (see `old_ticks`) are refused before that, if they are to be refused.

Whether a tick is bad can depend on the ticks before it, so a block with bad ticks cannot be
checked in one pass. The bad ticks are guessed instead, and the guess is checked: each kept tick
must make a good element behind the kept ones before it, and each other tick a bad one. If all do,
no other choice is possible, since the first tick has no choice, and so on. Otherwise the guess is
right up to the first tick that does not, and wrong at that tick. So a block full of bad ticks
costs a few evaluations, not one per tick.

With pauses (see `pauses`) ticks are sifted in parts that begin at a pause. If the memory forgets,
the first tick of such a part is judged by an empty memory; where it is refused, nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from ..schema import LIMIT
from ..typing import Bools, Float32s, Float64s, Int64s
from .features import FeatureSet
from .old_ticks import NEVER, OldTicks, find_old, joined
from .pauses import NO_PAUSES, Pauses
from .table import LATEST, MEMORY_SIZE, StreamTable

Run: TypeAlias = tuple[Int64s, Float32s]
OnRefused: TypeAlias = Callable[[int, str], None]

RUN = 4096
"""Ticks that are evaluated together."""

SHORT = 64
"""The same at least, where bad ticks are hard to tell."""

PASSES = 4
"""Evaluations of a run with bad ticks, before the ticks behind them get a run of their own."""


class Memory(msgspec.Struct):
    """The last accepted ticks: `t_ns` int64 (m,) and `values` float64 (m, C), m <= lag.

    `latest` is the latest time of the stream, and `last` (C,) the values of the tick that had it
    last, () before the first tick; `old` are the old ticks among those that were sifted last.
    `machine` has the memory of features that need more than the last ticks.
    """

    t_ns: np.ndarray
    values: np.ndarray
    latest: int = NEVER
    last: np.ndarray = np.zeros(0)
    old: OldTicks | None = None
    machine: Any = None

    @classmethod
    def empty(cls, columns: int) -> Memory:
        """Return a memory without ticks."""
        return cls(np.zeros(0, np.int64), np.zeros((0, columns), np.float64))


class SiftedTicks(NamedTuple):
    """Ticks of a stream, of which some are refused.

    `before` is the memory before them. `t_ns` (m,), `values` (m, C) and `elements` (m, F) are of
    the accepted ticks; `refused` has (accepted ticks before it, index, reason) of the others.
    `paused` says that the next tick comes after a pause; it is yielded without ticks.
    """

    before: Memory
    t_ns: Int64s
    values: Float64s
    elements: Float32s
    refused: list[tuple[int, int, str]]
    paused: bool = False


def good_rows(made: Float32s) -> Bools:
    """Return which elements (m, F) are finite and within the limit."""
    return np.asarray((np.abs(made) < LIMIT).all(axis=1))  # False for NaN too


class ElementMaker:
    """Makes elements of ticks with the given columns.

    features: as texts, or compiled for these columns. refuse_old: refuse old ticks. optional:
    columns that may be missing. pauses: what separates ticks. hidden: columns whose bad values
    features may not show. Raises what `FeatureSet` raises.
    """

    def __init__(
        self,
        features: Any,
        columns: Sequence[str],
        *,
        refuse_old: bool = False,
        optional: Sequence[str] = (),
        pauses: Pauses = NO_PAUSES,
        hidden: Sequence[str] = (),
    ) -> None:
        if isinstance(features, Sequence):
            features = FeatureSet(features, columns)
        self.features: FeatureSet = features
        self.refuse_old, self.pauses = refuse_old, pauses
        self.columns = tuple(columns)
        self._used = [self.columns.index(name) for name in self.features.columns_used]
        self._optional = {self.columns.index(name) for name in optional}
        self._may_miss = np.array([k in self._optional for k in self._used], np.bool_)
        self.hidden = [self.columns.index(name) for name in hidden]
        self._no_elements = np.zeros((0, len(self.features)), np.float32)

    def __len__(self) -> int:
        return len(self.features)

    def empty(self, stream: str = "") -> Memory:  # noqa: ARG002 - as in `StatefulMaker`
        """Return the memory of a stream before its first tick."""
        return Memory.empty(len(self.columns))

    def make(
        self, memory: Memory, t_ns: Int64s, values: Float64s, refused: OnRefused
    ) -> Iterator[Run]:
        """Yield (t_ns (m,), elements (m, F) float32) for runs of accepted ticks.

        `memory` is updated before each run is yielded. `refused(index, reason)` is called for each
        refused tick.
        """
        for sifted in self.sift(memory, t_ns, values):
            start, after = 0, (memory.t_ns, memory.values)
            seen_t = np.concatenate([sifted.before.t_ns, sifted.t_ns])
            seen_v = np.concatenate([sifted.before.values, sifted.values])
            for stop, index, reason in (*sifted.refused, (len(sifted.t_ns), -1, "")):
                if start < stop:
                    seen = len(sifted.before.t_ns) + stop
                    self._remember(memory, seen_t[:seen], seen_v[:seen])
                    yield sifted.t_ns[start:stop], sifted.elements[start:stop]
                    start = stop
                if index >= 0:
                    refused(index, reason)
            memory.t_ns, memory.values = after

    def sift(self, memory: Memory, t_ns: Int64s, values: Float64s) -> Iterator[SiftedTicks]:
        """Yield the ticks of each `RUN`, sifted; `memory` is updated before each."""
        if not self.pauses.ns:
            yield from self._sift_part(memory, t_ns, values)
            return
        start, old = 0, list[OldTicks]()
        seem_good = self._has_fields(values)
        while start < len(t_ns):
            run = slice(start, start + RUN)
            ticks = t_ns[run], values[run], seem_good[run]
            part = self.pauses.part(self._sift_part, memory, *ticks)
            memory.t_ns, memory.values = part.memory.t_ns, part.memory.values
            memory.latest, memory.last = part.memory.latest, part.memory.last
            if part.memory.old is not None:
                old.append(part.memory.old._replace(at=part.memory.old.at + start))
            if part.paused:
                none = t_ns[:0], values[:0], self._no_elements
                yield SiftedTicks(memory, *none, [], paused=True)
            for sifted in part.sifted:
                refused = [(n, start + k, why) for n, k, why in sifted.refused]
                yield sifted._replace(refused=refused)
            start += part.size
        memory.old = joined(old)

    def _sift_part(self, memory: Memory, t_ns: Int64s, values: Float64s) -> Iterator[SiftedTicks]:
        """Yield the ticks of each `RUN`, sifted, whatever their times."""
        if self.refuse_old:
            yield from self._sift_without_old(memory, t_ns, values)
            return
        bad: list[int] = []
        for sifted, _ in self._runs(memory, t_ns, values):
            bad += [index for _, index, _ in sifted.refused]
            if len(sifted.t_ns) or sifted.refused:
                yield sifted
        old, memory.latest, memory.last = _old_except(memory, t_ns, values, bad)
        memory.old = old if old is None else old.but(bad)

    def _sift_without_old(
        self, memory: Memory, t_ns: Int64s, values: Float64s
    ) -> Iterator[SiftedTicks]:
        """Yield the ticks that are not old, sifted.

        Which ticks are old depends on which ones before them are bad, and the reverse. So the bad
        ones are guessed, none at first, until the guess follows from itself. If it does not in a
        few passes, the ticks are sifted in two halves.
        """
        bad: list[int] = []
        for _ in range(PASSES):
            old, latest, last = _old_except(memory, t_ns, values, bad)
            trial = msgspec.structs.replace(memory)
            made = list(self._around(trial, t_ns, values, old))
            guess, gone = bad, set() if old is None else set(old.at.tolist())
            bad = [k for sifted in made for _, k, _ in sifted.refused if k not in gone]
            if bad == guess:
                memory.t_ns, memory.values = trial.t_ns, trial.values
                memory.old, memory.latest, memory.last = old, latest, last
                yield from made
                return
        half, found = len(values) // 2, []
        for start, part in ((0, slice(half)), (half, slice(half, None))):
            for sifted in self._sift_without_old(memory, t_ns[part], values[part]):
                yield sifted._replace(
                    refused=[(n, start + k, why) for n, k, why in sifted.refused]
                )
            if memory.old is not None:
                found.append(memory.old._replace(at=memory.old.at + start))
        memory.old = joined(found)

    def _around(
        self, memory: Memory, t_ns: Int64s, values: Float64s, old: OldTicks | None
    ) -> Iterator[SiftedTicks]:
        """Yield the ticks around old ones, sifted; the old ones are among the refused."""
        out = np.zeros(0, np.int64) if old is None else old.at
        rest = np.delete(np.arange(len(values)), out)
        places, reasons = np.searchsorted(rest, out), [] if old is None else old.reasons()
        start = done = 0
        for sifted, stop in self._runs(memory, t_ns[rest], values[rest]):
            end = int(np.searchsorted(places, stop)) if stop < len(rest) else len(places)
            at = places[done:end]
            bad = [index for _, index, _ in sifted.refused]
            before = at - start - np.searchsorted(bad, at) if len(sifted.t_ns) else 0 * at
            refused = list(
                zip(before.tolist(), out[done:end].tolist(), reasons[done:end], strict=True)
            )
            if bad:
                refused += [(n, int(rest[index]), why) for n, index, why in sifted.refused]
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
        start, size = 0, RUN
        while start < len(values):
            if len(memory.values) < self.features.lag:
                before = Memory(memory.t_ns, memory.values)
                start, refused = self._fill(memory, t_ns, values, start)
                yield SiftedTicks(before, t_ns[:0], values[:0], self._no_elements, refused), start
                continue
            part = slice(start, min(start + size, len(values)))
            sifted, settled = self._sift(memory, t_ns[part], values[part], start)
            # What a few passes did not settle is left for the next, shorter run.
            size = RUN if settled == part.stop - start else max(2 * settled, SHORT)
            start += settled
            yield sifted, start

    def _sift(
        self, memory: Memory, t_ns: Int64s, values: Float64s, start: int
    ) -> tuple[SiftedTicks, int]:
        """Return the first ticks of a run, sifted, and how many they are."""
        lag, count = self.features.lag, len(values)
        before = Memory(memory.t_ns, memory.values)
        made = self._evaluate(before, t_ns, values)
        good = self.good(made, values)
        refused: list[tuple[int, int, str]] = []
        if not good.all():
            kept, made, bad, bad_made, count = self._settle(before, t_ns, values, good)
            refused = [
                (place, start + at, self.reason(values[at], row))
                for place, at, row in zip(
                    np.searchsorted(kept, bad).tolist(), bad.tolist(), bad_made, strict=True
                )
            ]
            t_ns, values = t_ns[kept], values[kept]
        if lag and len(t_ns):
            self._remember(
                memory,
                np.concatenate([before.t_ns, t_ns[-lag:]]),
                np.concatenate([before.values, values[-lag:]]),
            )
        return SiftedTicks(before, t_ns, values, made, refused), count

    def _settle(
        self, before: Memory, t_ns: Int64s, values: Float64s, good: Bools
    ) -> tuple[Int64s, Float32s, Int64s, Float32s, int]:
        """Tell good ticks from bad ones by a guess, see the module.

        good: which ticks are good if all are kept. Returns the kept ticks with their elements, the
        others with the elements that they would have made, and how many ticks are settled.
        """
        keep: Bools = good | ~self._seem_bad(values, good)
        for left in reversed(range(PASSES + 1)):
            kept = np.flatnonzero(keep)
            made = self._evaluate(before, t_ns[kept], values[kept])
            good = self.good(made, values[kept])
            if good.all() or not left:
                break
            # Those of the bad ones that follow only good ones, as far back as a feature looks.
            bad, behind = ~good, np.arange(len(good)) - self.features.lag
            so_far = np.concatenate([[0], np.cumsum(bad)])
            heads = bad & (so_far[:-1] == so_far[np.maximum(behind, 0)])
            keep[kept[heads]] = False
        out = np.flatnonzero(~keep)
        would = self._would_make(before, t_ns, values, kept, out)
        wrong = [*kept[~good][:1].tolist(), *out[self.good(would, values[out])][:1].tolist()]
        if not wrong:
            return kept, made, out, would, len(values)
        first = min(wrong)
        at, low = int(np.searchsorted(kept, first)), int(np.searchsorted(out, first))
        if keep[first]:
            would = np.concatenate([would[:low], made[at : at + 1]])
            return kept[:at], made[:at], np.append(out[:low], first), would, first + 1
        made = np.concatenate([made[:at], would[low : low + 1]])
        return np.append(kept[:at], first), made, out[:low], would[:low], first + 1

    def _evaluate(self, before: Memory, t_ns: Int64s, values: Float64s) -> Float32s:
        """Return the elements of ticks behind a memory."""
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

    def _seem_bad(self, values: Float64s, good: Bools) -> Bools:
        """Return which ticks seem to be bad whatever comes before them, (m,); a guess."""
        bad = ~self._has_fields(values)
        rest = np.flatnonzero(~good & ~bad)
        bad[rest] = ~good_rows(self._repeated(values[rest]))
        return bad

    def _repeated(self, values: Float64s) -> Float32s:
        """Return the element that each tick makes if it repeats every second."""
        lag = self.features.lag
        seconds = np.tile(np.arange(lag + 1, dtype=np.int64) * 1_000_000_000, len(values))
        return self.features.evaluate(seconds, np.repeat(values, lag + 1, axis=0))[:: lag + 1]

    def _remember(self, memory: Memory, t_ns: Int64s, values: Float64s) -> None:
        if lag := self.features.lag:
            memory.t_ns, memory.values = t_ns[-lag:], values[-lag:]

    def accepts(self, memory: Memory, t_ns: Int64s, values: Float64s) -> bool:
        """Return whether a tick, t_ns (1,) and values (1, C), would make an element now."""
        trial = self.trial(memory)
        return any(len(made) for _, made in self.make(trial, t_ns, values, lambda *_: None))

    def board_state(self) -> list[np.ndarray]:
        """Return what streams show to each other, for a snapshot."""
        return []

    def restore_board(self, board: Sequence[np.ndarray]) -> None:
        """Restore what streams show to each other, as `board_state` returned it."""

    def restored(self, memories: Mapping[str, Any], board: Sequence[np.ndarray]) -> dict[str, Any]:
        """Return the machines of a snapshot by stream; raises ValueError where they do not fit."""
        if memories or board:
            raise ValueError("only one of the two has features with memory")
        return {}

    def trial(self, memory: Memory) -> Memory:
        """Return a copy of a memory, to try a tick."""
        return msgspec.structs.replace(memory)  # its arrays are replaced, never written to

    def good(self, made: Float32s, values: Float64s) -> Bools:
        """Return which ticks values (m, C) that made elements (m, F) are good."""
        good = good_rows(made)
        return good & self._has_fields(values) if self.hidden else good

    def good_tick(self) -> Callable[..., bool]:
        """Return the check of a single tick, see `features.checker`."""
        good, width = self.features.good, len(self.columns)
        if not self.hidden:
            return good
        return lambda values, t_ns, i: (
            good(values, t_ns, i) and self.seems_good(values[i * width : (i + 1) * width])
        )

    def seems_good(self, row: Sequence[float]) -> bool:
        """Return whether no value of a tick (C,) that features may hide is bad."""
        return all(
            abs(x := row[k]) < LIMIT or (x != x and k in self._optional) for k in self.hidden
        )

    def first_good(self, values: Float64s) -> tuple[Float32s, Bools]:
        """Return which ticks may be remembered while the memory is not full, and why.

        Such a tick makes no element itself, but must make one if it repeats every second: behind a
        tick that nothing compares with, such as a price of 0, every later tick would be refused.
        Returns those elements (m, F), and which ticks are good (m,).
        """
        made = self._repeated(values)
        return made, self._has_fields(values) & good_rows(made)

    def _has_fields(self, values: Float64s) -> Bools:
        """Return which ticks have all fields that features use and that must not be missing."""
        used = values[:, self._used]
        there = np.abs(used) < LIMIT
        if self._optional:
            there |= np.isnan(used) & self._may_miss
        return np.asarray(there.all(axis=1))

    def _fill(
        self, memory: Memory, t_ns: Int64s, values: Float64s, start: int
    ) -> tuple[int, list[tuple[int, int, str]]]:
        """Fill a memory with ticks from `start` on.

        Returns where the next tick is, and (0, index, reason) of the refused ones.
        """
        missing = self.features.lag - len(memory.values)
        for size in (missing, max(missing, RUN)):
            made, good = self.first_good(values[start : start + size])
            full = np.flatnonzero(good)[:missing]
            if len(full) == missing:
                break
        stop = int(full[-1]) + 1 if len(full) == missing else len(made)
        memory.t_ns = np.append(memory.t_ns, t_ns[start + full])
        memory.values = np.concatenate([memory.values, values[start + full]])
        bad = np.flatnonzero(~good[:stop]).tolist()
        return start + stop, [(0, start + k, self.reason(values[start + k], made[k])) for k in bad]

    def reason(self, row: Float64s, made: Float32s) -> str:
        """Return why a tick with values `row` (C,) that made element `made` (F,) is refused."""
        fields = row.tolist()
        for k in self._used:
            missing = k in self._optional and fields[k] != fields[k]
            if not missing and not abs(fields[k]) < LIMIT:  # NaN too
                return f"{self.columns[k]} is {fields[k]:g}"
        numbers = made.tolist()
        bad = next((k for k, number in enumerate(numbers) if not abs(number) < LIMIT), 0)
        used = ", ".join(f"{self.columns[k]}={fields[k]:g}" for k in self._used)
        return f"feature {self.features.names[bad]} is {numbers[bad]:g} ({used})"


def _old_except(
    memory: Memory, t_ns: Int64s, values: Float64s, bad: Sequence[int]
) -> tuple[OldTicks | None, int, Float64s]:
    """Return the old ones among ticks, given the bad ones, and latest time and values after."""
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


class GroupedTicks(NamedTuple):
    """Ticks of a block, grouped by stream.

    `streams` (d,) are its streams in the order of their first ticks, and `local` (m,) the index of
    each tick's stream among them. `order` (m,) sorts the ticks by stream, each stream's in their
    order, and `counts` (d,) is how many each has.
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
        """Where the ticks of each stream begin in `order`, (d,)."""
        return np.cumsum(self.counts) - self.counts

    def of(self, k: int) -> Int64s:
        """Return the ticks of stream `k` of the block, in order."""
        end = int(self.counts[: k + 1].sum())
        return self.order[end - int(self.counts[k]) : end]


class MadeElements(NamedTuple):
    """The elements of m ticks.

    `accepted` (m,) says which ticks made an element, a row of `elements` (m, F). `refused`
    contains (tick, reason) of those refused, in order, and `old` the old ones, stream by stream.
    """

    accepted: Bools
    elements: Float32s
    refused: list[tuple[int, str]]
    old: OldTicks | None = None


class TableMaker:
    """Makes elements of the ticks of many streams; `maker` makes those of one.

    `memory_v` (L, C) and `memory_t` (L,) of a table contain a stream's last L = lag accepted
    ticks, the oldest first, and its column `memory_size` says how many there are.

    The ticks of a block are laid out stream by stream, each stream's behind its remembered ticks,
    and evaluated together; what was made across the seams is dropped. Features work element by
    element, so the bits are those of each stream alone. A stream with a refused tick is made again
    by `ElementMaker`, since what follows is compared with what came before that tick.
    """

    def __init__(self, maker: ElementMaker, table: StreamTable) -> None:
        self.maker, self.features, self.table = maker, maker.features, table
        self.lag = maker.features.lag
        self._scratch = np.zeros(0, np.int64)

    def group(self, streams: Int64s) -> GroupedTicks:
        """Group ticks by stream, in linear time."""
        if len(self._scratch) < self.table.capacity:
            self._scratch = np.zeros(self.table.capacity, np.int64)
        count, scratch = len(streams), self._scratch
        at = np.arange(count)
        scratch[streams[::-1]] = at[::-1]  # the last assignment counts: the first tick
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
        """Return the elements of the ticks t_ns (m,), values (m, C), and remember the ticks.

        `rows` (d, columns) are the streams' rows of the table's `ints`, whose memory size and
        latest time are updated.
        """
        sizes, lag = rows[:, MEMORY_SIZE].copy(), self.lag
        lengths = sizes + block.counts
        ends = np.cumsum(lengths)
        # The place of each tick, stream by stream, among the remembered ones.
        places = np.arange(len(values)) + (ends - lengths + sizes - block.starts).repeat(
            block.counts
        )
        run_t, run_v = self._laid_out(block, sizes, ends, places, t_ns, values)
        every = self.features.evaluate(run_t, run_v)
        late: Bools = np.ones(len(values), np.bool_)
        if not (sizes == lag).all():
            rank = np.arange(len(values)) - (block.starts - sizes).repeat(block.counts)
            late = rank >= lag
        made_of = np.zeros((len(values), len(self.features)), np.float32)
        if len(every):
            every.take(np.maximum(places - lag, 0), 0, made_of, mode="clip")
        good = self.maker.good(made_of, values[block.order] if self.maker.hidden else values)
        if not late.all():
            good[~late] = self.maker.first_good(values[block.order[~late]])[1]
        accepted, elements = late, made_of
        if block.repeats:
            accepted, elements = np.empty_like(late), np.empty_like(made_of)
            accepted[block.order], elements[block.order] = late, made_of
        again = np.zeros(len(block.streams), np.bool_)
        if not good.all():
            again[block.local[block.order[~good]]] = True
        latest, last = rows[:, LATEST].copy(), self.table.last.take(block.streams, 0)
        old = self._find_old(block, ~again[block.local], latest, last, t_ns, values)
        if old is not None and self.maker.refuse_old:
            again[block.local[old.at]], old = True, None
        found, refused = [] if old is None else [old], list[tuple[int, str]]()
        for k in np.flatnonzero(again).tolist():
            memory = self._memory(int(block.streams[k]), int(sizes[k]), int(rows[k, LATEST]))
            refused += self._make_again(block.of(k), memory, t_ns, values, accepted, elements)
            row, size = block.streams[k], len(memory.values)
            self.table.memory_t[row, :size], self.table.memory_v[row, :size] = (
                memory.t_ns,
                memory.values,
            )
            sizes[k], latest[k], last[k] = size, memory.latest, memory.last
            if memory.old is not None:
                found.append(memory.old._replace(at=block.of(k)[memory.old.at]))
        self._remember(block, ~again, lengths, ends, run_t, run_v)
        rows[:, MEMORY_SIZE] = np.where(again, sizes, np.minimum(lengths, lag))
        rows[:, LATEST], self.table.last[block.streams] = latest, last
        refused.sort()
        return MadeElements(accepted, elements, refused, joined(found))

    def _find_old(
        self,
        block: GroupedTicks,
        wanted: Bools,
        latest: Int64s,
        last: Float64s,
        t_ns: Int64s,
        values: Float64s,
    ) -> OldTicks | None:
        """Return the old ones among the ticks `wanted` (m,), which are all of their streams.

        They come stream by stream. `latest` (d,) and `last` (d, C) are updated.
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

    def _laid_out(
        self,
        block: GroupedTicks,
        sizes: Int64s,
        ends: Int64s,
        places: Int64s,
        t_ns: Int64s,
        values: Float64s,
    ) -> tuple[Int64s, Float64s]:
        """Return times and values, each stream's ticks behind its remembered ones."""
        lag, known = self.lag, len(block.streams) * self.lag
        # The source of each row: a remembered tick, or a new one.
        source = np.empty(len(places) + int(sizes.sum()), np.int64)
        source[places] = known + block.order
        begins = ((ends - sizes - block.counts)[:, None] + np.arange(lag)).reshape(-1)
        there = (np.arange(lag) < sizes[:, None]).reshape(-1)
        source[begins[there]] = np.arange(known)[there]
        times = self.table.memory_t.take(block.streams, 0).reshape(-1)
        rows = self.table.memory_v.take(block.streams, 0).reshape(known, values.shape[1])
        run_t = np.concatenate([times, t_ns]).take(source)
        return run_t, np.concatenate([rows, values]).take(source, 0)

    def _memory(self, row: int, size: int, latest: int) -> Memory:
        """Return a copy of a stream's memory."""
        table = self.table
        times, values = table.memory_t[row, :size].copy(), table.memory_v[row, :size].copy()
        return Memory(times, values, latest, table.last[row].copy())

    def _make_again(
        self,
        at: Int64s,
        memory: Memory,
        t_ns: Int64s,
        values: Float64s,
        accepted: Bools,
        elements: Float32s,
    ) -> list[tuple[int, str]]:
        """Make the elements of a stream with a refused tick; return (tick, reason) of those."""
        sifted = list(self.maker.sift(memory, t_ns[at], values[at]))
        refused = [(index, why) for one in sifted for _, index, why in one.refused]
        made = [one.elements for one in sifted if len(one.elements)]
        accepted[at] = False
        if made:
            new = np.concatenate(made)
            rest = np.delete(at, [index for index, _ in refused])
            taken = rest[len(rest) - len(new) :]  # those before filled the memory
            accepted[taken], elements[taken] = True, new
        return [(int(at[index]), why) for index, why in refused]

    def _remember(
        self,
        block: GroupedTicks,
        clean: Bools,
        lengths: Int64s,
        ends: Int64s,
        run_t: Int64s,
        run_v: Float64s,
    ) -> None:
        """Remember the last ticks of the streams that are `clean`: none of theirs was refused."""
        sizes = np.minimum(lengths, self.lag)
        spots = np.minimum((ends - sizes)[:, None] + np.arange(self.lag), (ends - 1)[:, None])
        streams = block.streams
        if not clean.all():
            spots, streams = spots[clean], streams[clean]
        self.table.memory_t[streams] = run_t.take(spots)
        self.table.memory_v[streams] = run_v.take(spots, 0)
