"""From raw ticks to elements for features with memory; see `machine`.

Ticks are stepped in blocks. A block with a refused tick is undone and repeated: the good ticks
before it as a block, then some ticks one by one, then the rest. What is accepted and refused does
not depend on the blocks.

The first ticks of a stream only fill memory, as many as the longest lag. Before the first tick of
a stream that the features refer to, ticks do not even do that. Neither makes an element. Such a
tick must make one if it repeats, for the reason that `ElementMaker.first_good` gives. Features
that no tick makes finite if it repeats, such as `x / std(x, 20)`, are exempt, and ticks make
no element until all of those are finite.

Memory that changes only with accepted ticks could refuse all others for good: `x / lag(x)` after a
0, or `log(5 + diff(x))` after a change of level. So of ticks in a row that are refused though they
would make an element if they repeated, those from the third one on are remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..schema import LIMIT, StreamConfig
from ..typing import Float32s, Float64s, Int64s
from .elements import RUN, SHORT, ElementMaker, Memory, OnRefused, Run, SiftedTicks, good_rows
from .feature_sets import compile_features, hidden_columns
from .machine import Machine, StatefulFeatures, without_tiny
from .missing import optional_columns
from .old_ticks import OldTicks, find_old, joined, known, moment, reason
from .pauses import Pauses

BLOCK_FROM = 32
"""Ticks from which a block is faster than steps."""

STEPS = 16
"""Ticks that are stepped one by one from a refused one on: bad ticks often come together."""

PATIENCE = 3
"""Good ticks in a row that memory may refuse; from this one on it takes them."""


class StatefulMaker(ElementMaker):
    """Makes elements of features with memory; see `ElementMaker`."""

    features: StatefulFeatures  # type: ignore[assignment]

    def empty(self, stream: str = "") -> Memory:
        """Return the memory of a stream before its first tick."""
        memory = Memory.empty(len(self.columns))
        memory.machine = self.features.machine(stream)
        return memory

    def make(
        self, memory: Memory, t_ns: Int64s, values: Float64s, refused: OnRefused
    ) -> Iterator[Run]:
        """Yield runs of accepted ticks; see `ElementMaker.make`."""
        for sifted in self.sift(memory, t_ns, values):
            start = 0
            for stop, index, why in (*sifted.refused, (len(sifted.t_ns), -1, "")):
                if start < stop:
                    yield sifted.t_ns[start:stop], sifted.elements[start:stop]
                    start = stop
                if index >= 0:
                    refused(index, why)

    def sift(self, memory: Memory, t_ns: Int64s, values: Float64s) -> Iterator[SiftedTicks]:
        """Yield the ticks, sifted; see `ElementMaker.sift`."""
        found: list[OldTicks] = []
        start, size = 0, RUN
        while start < len(values):
            stop = min(start + size, len(values))
            stop = start + self._until_pause(memory.latest, t_ns[start:stop])
            made = None
            if stop == start:
                stop += 1
                made, paused = self._after_pause(memory, t_ns[start:stop], values[start:stop])
                if paused:
                    yield SiftedTicks(memory, t_ns[:0], values[:0], self._no_elements, [], True)
            elif stop - start >= BLOCK_FROM and memory.machine.look():
                made = self._by_block(memory, t_ns[start:stop], values[start:stop])
            if made is None:
                stop = min(start + STEPS, stop)
                made, size = self._by_steps(memory, t_ns[start:stop], values[start:stop]), SHORT
            else:
                size = min(2 * size, RUN)
            sifted, old, count = made
            if old is not None:
                found.append(old._replace(at=old.at + start))
            refused = [(n, start + k, why) for n, k, why in sifted.refused]
            start += count
            if len(sifted.t_ns) or refused:
                memory.old = joined(found)
                yield sifted._replace(refused=refused)
        memory.old = joined(found)

    def _until_pause(self, latest: int, t_ns: Int64s) -> int:
        """Return how many ticks come before the next pause, if all are accepted."""
        if not self.pauses.ns:
            return len(t_ns)
        reached = np.maximum.accumulate(np.append(latest, t_ns))[:-1]
        apart = np.flatnonzero(self.pauses.separate(reached, t_ns))
        return int(apart[0]) if len(apart) else len(t_ns)

    def _after_pause(
        self, memory: Memory, t_ns: Int64s, values: Float64s
    ) -> tuple[tuple[SiftedTicks, OldTicks | None, int], bool]:
        """Take a tick after a pause, and return whether it is accepted."""
        machine, before = memory.machine, memory.latest
        state = machine.state()
        if self.pauses.forgets:
            machine.clear()
        made = self._by_steps(memory, t_ns, values)
        taken = memory.latest != before
        if self.pauses.forgets and not taken:
            machine.restore(state)
        return made, taken

    def _by_block(
        self, memory: Memory, t_ns: Int64s, values: Float64s
    ) -> tuple[SiftedTicks, OldTicks | None, int] | None:
        """Take the ticks up to the first one to refuse, and return how many; None if it is next.

        The old ones among them are returned too.
        """
        machine = memory.machine
        latest, last = np.array([memory.latest]), np.zeros((1, len(self.columns)))
        last[:, : len(memory.last)] = memory.last
        old = find_old(latest, last, np.zeros(1, np.int64), t_ns, values)
        count = len(t_ns) if old is None or not self.refuse_old else int(old.at[0])
        if count == len(t_ns):
            before = machine.state()
            made = machine.block(t_ns, values)
            good = self.good(made, values)
            if good.all():
                machine.accept_block(t_ns, values)
                memory.latest, memory.last = int(latest[0]), last[0]
                return SiftedTicks(memory, t_ns, values, made, []), old, count
            machine.restore(before)
            count = int(good.argmin())
        return self._by_block(memory, t_ns[:count], values[:count]) if count else None

    def _by_steps(
        self, memory: Memory, t_ns: Int64s, values: Float64s
    ) -> tuple[SiftedTicks, OldTicks | None, int]:
        """Take ticks one by one; return them, the old ones among them, and how many they are."""
        kept: list[int] = []
        rows: list[Float32s] = []
        refused: list[tuple[int, int, str]] = []
        old: list[tuple[int, int, int]] = []
        for k, (t, row) in enumerate(zip(t_ns.tolist(), values.tolist(), strict=True)):
            if k and self._until_pause(memory.latest, t_ns[k : k + 1]) == 0:
                t_ns, values = t_ns[:k], values[:k]
                break
            is_old = bool(t) and t <= memory.latest and self._is_old(memory, t, row)
            if is_old and self.refuse_old:
                old.append((k, t, memory.latest))
                refused.append((len(kept), k, reason(moment(t), moment(memory.latest))))
                continue
            made, why, remembered = self._take(memory.machine, t, row)
            if why:
                refused.append((len(kept), k, why))
                if not remembered:
                    continue
            if is_old:
                old.append((k, t, memory.latest))
            if t >= memory.latest:
                memory.latest, memory.last = t, values[k]
            if made is not None:
                kept.append(k)
                rows.append(made)
        elements = np.array(rows, np.float32) if rows else self._no_elements
        sifted = SiftedTicks(memory, t_ns[kept], values[kept], elements, refused)
        columns = [np.array(column, np.int64) for column in zip(*old, strict=True)]
        return sifted, OldTicks(*columns) if old else None, len(t_ns)

    def _is_old(self, memory: Memory, t_ns: int, row: list[float]) -> bool:
        return t_ns < memory.latest or known(row) == known(memory.last.tolist())

    def _take(
        self, machine: Machine, t_ns: int, row: list[float]
    ) -> tuple[Float32s | None, str, bool]:
        """Take a tick.

        Returns its element if it makes one, why it is refused or "", and whether it is remembered.
        """
        ready = machine.look()
        made = as_element(machine.step(t_ns, row) if ready else self._alone(t_ns, row))
        good = bool(good_rows(made[None]).all()) and self.seems_good(row)
        if not good:
            problem = (machine if ready else self.features.probe).problem()
            fits = not problem and self._fits(t_ns, row)
            if not fits or (ready and not machine.is_young):
                why = self.reason(np.array(row), made) + (f"; {problem}" if problem else "")
                return None, why, ready and self._refused(machine, t_ns, row, fits)
        if not ready and machine.is_known:
            machine.step(t_ns, row)
        whole = good and ready
        machine.accept(t_ns, row, fills=ready or machine.is_known, whole=whole)
        return without_tiny(made) if whole else None, "", True

    def _refused(self, machine: Machine, t_ns: int, row: list[float], fits: bool) -> bool:
        """Take back a refused tick, or remember it if memory is at fault; return which."""
        machine.missed = max(machine.missed, 0) + fits
        if not fits or machine.missed < PATIENCE:
            machine.undo()
            return False
        machine.accept(t_ns, row, whole=False)
        return True

    def _fits(self, t_ns: int, row: list[float]) -> bool:
        """Return whether nothing in a tick itself is a reason to refuse it."""
        made = as_element(self._alone(t_ns, row))
        good = (np.abs(made) < LIMIT) | ~self.features.judged
        return bool(good.all() and self._has_fields(np.array([row]))[0])

    def _alone(self, t_ns: int, row: list[float]) -> Float64s:
        return self.features.repeated(t_ns, row)

    def board_state(self) -> list[np.ndarray]:
        """Return what streams show to each other, for a snapshot."""
        return self.features.board.state()

    def restored(self, memories: Mapping[str, Any], board: Sequence[np.ndarray]) -> dict[str, Any]:
        """Return the machines of a snapshot by stream, and restore what streams show.

        Raises ValueError where they do not fit.
        """
        self.features.board.restore(board)  # first: whether a machine is ready depends on it
        machines = {name: self.features.machine(name) for name in memories}
        for name, memory in memories.items():
            machines[name].restore(memory)
        return machines

    def restore_board(self, board: Sequence[np.ndarray]) -> None:
        """Restore what streams show to each other, as `board_state` returned it."""
        self.features.board.restore(board)

    def trial(self, memory: Memory) -> Memory:
        """Return a copy of a memory that shows nothing to other streams, to try a tick."""
        last = memory.latest, memory.last
        return Memory(memory.t_ns, memory.values, *last, None, memory.machine.copy())


def as_element(made: Sequence[float] | Float64s) -> Float32s:
    """Return features as float32 (F,)."""
    with np.errstate(over="ignore"):
        return np.array(made, np.float64).astype(np.float32)


def maker_of(stream: StreamConfig, columns: Sequence[str]) -> ElementMaker:
    """Return the element maker of a configuration."""
    compiled = compile_features(stream.features, columns, stream)
    options: Any = {
        "refuse_old": stream.on_old_time == "refuse",
        "optional": optional_columns(stream, columns),
        "hidden": hidden_columns(stream.features, columns),
        "pauses": Pauses(stream.pause_ns, stream.on_pause != "continue"),
    }
    if isinstance(compiled, StatefulFeatures):
        return StatefulMaker(compiled, columns, **options)
    return ElementMaker(compiled, columns, **options)
