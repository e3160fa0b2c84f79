"""From raw ticks to elements: feature memory, and the gate that nothing bad passes.

A tick whose features are not all finite is refused alone: the memory keeps the last accepted
ticks, so the next tick is compared with those, in a block as well as one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from ..model.scaling import LIMIT
from .features import FeatureSet

Times: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[np.float64]
Elements: TypeAlias = npt.NDArray[np.float32]
Run: TypeAlias = tuple[Times, Elements]
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


def _good(made: Elements) -> int:
    """Return how many elements (m, F) come before the first that is not within the limit."""
    if len(made) == 1:
        # The live path: Python looks at one row in a fifth of the time of NumPy's calls.
        return int(all(-LIMIT < value < LIMIT for value in made[0].tolist()))
    good = (np.abs(made) < LIMIT).all(axis=1)  # False for NaN too
    return len(made) if good.all() else int(np.argmin(good))
