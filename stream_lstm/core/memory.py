"""What a function with memory keeps between ticks: the protocol, and the two simplest kinds.

A memory takes ticks singly (`step`) or many together (`block`). The bits of its values do not
depend on how the ticks are cut. Arguments that are not finite are missing: a window moves on and
skips them. Time is the running maximum of `t_ns`, so a tick that comes late or twice counts as of
the newest time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from ..typing import Float64s, Int64s

MAX_WINDOW = 100_000
"""Most ticks in a window, a bound on memory; a day of one tick a second fits."""

FEW = 16
"""A block of fewer ticks is taken singly: NumPy would be slower."""

NAN = float("nan")
NEVER = -(2**62)
"""A time before all times (ns), from which every other one can be subtracted in 64 bits."""


class Memory(Protocol):
    """Carry one function of a stream from tick to tick."""

    @property
    def step(self) -> Callable[..., float]:
        """Take one tick, `(t_ns, *xs)`: time (ns), one float per argument; return the value."""

    def undo(self) -> None:
        """Take back the last `step`, once."""

    def block(self, t_ns: Int64s, *xs: Float64s) -> Float64s:
        """Take m ticks, each array (m,); return the values (m,), the bits of m steps."""

    def state(self) -> list[np.ndarray[Any, Any]]:
        """Return copies of all that is kept, as float64 and int64 arrays."""

    def restore(self, arrays: list[np.ndarray[Any, Any]]) -> None:
        """Continue from what `state` returned; `ValueError` if the arrays do not fit."""

    def clear(self) -> None:
        """Forget all ticks."""


class Recurrence:
    """Keep a few numbers in one tuple, which each step replaces; subclasses define `step`."""

    start: ClassVar[tuple[float, ...]]
    """The numbers of a new memory; an int stays an int (a time or a count)."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all ticks."""
        self._live: Any = self.start
        self._before: Any = self.start

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Take one tick, `(t_ns, *xs)`; return the value after it."""
        raise NotImplementedError

    def undo(self) -> None:
        """Take back the last `step`, once."""
        self._live = self._before

    def block(self, t_ns: Int64s, *xs: Float64s) -> Float64s:
        """Take m ticks; return the values (m,)."""
        return stepped(self, t_ns, xs)

    def state(self) -> list[np.ndarray[Any, Any]]:
        """Return the numbers: floats, then integers."""
        live = self._live
        whole = [value for value in live if isinstance(value, int)]
        rest = [value for value in live if not isinstance(value, int)]
        return [np.array(rest, np.float64), np.array(whole, np.int64)]

    def restore(self, arrays: list[np.ndarray[Any, Any]]) -> None:
        """Continue from what `state` returned."""
        whole = sum(isinstance(value, int) for value in self.start)
        fit(arrays, (np.float64, (len(self.start) - whole,)), (np.int64, (whole,)))
        rest, integers = (iter(array.tolist()) for array in arrays)
        live = tuple(next(integers if isinstance(v, int) else rest) for v in self.start)
        self._live = self._before = live


def stepped(memory: Memory, t_ns: Int64s, xs: Sequence[Float64s]) -> Float64s:
    """Take m ticks singly; return the values (m,)."""
    step = memory.step
    rows = zip(t_ns.tolist(), *(x.tolist() for x in xs), strict=True)
    return np.array([step(*row) for row in rows], np.float64)


def fit(arrays: list[np.ndarray[Any, Any]], *kinds: tuple[type, tuple[int | None, ...]]) -> None:
    """Raise `ValueError` unless the arrays have these dtypes and shapes; None is any length."""
    found = [(a.dtype.type, a.shape) for a in map(np.asarray, arrays)]
    fits = len(found) == len(kinds) and all(
        dtype is kind and len(shape) == len(wanted) and all(map(_same, shape, wanted))
        for (dtype, shape), (kind, wanted) in zip(found, kinds, strict=True)
    )
    if not fits:
        have = [(kind.__name__, shape) for kind, shape in found]
        need = [(kind.__name__, shape) for kind, shape in kinds]
        raise ValueError(f"memory of a feature: arrays {have} do not fit, expected {need}")


def _same(size: int, wanted: int | None) -> bool:
    return wanted is None or size == wanted


def extent(elements: int, span_ns: int) -> tuple[int, int]:
    """Return the most ticks of a window and its span (ns), 0 for a window of elements.

    Raises:
        ValueError: Unless exactly one of both is given, or the window has too many elements.
    """
    if (elements > 0) == (span_ns > 0) or min(elements, span_ns) < 0:
        raise ValueError("a window has either a number of elements or a span, above 0")
    if elements > MAX_WINDOW:
        raise ValueError(f"a window has at most {MAX_WINDOW} elements, not {elements}")
    return elements or MAX_WINDOW, span_ns
