"""The functions of feature expressions: one entry each, and everything about a function in it.

A function of lag k needs the k ticks before its own. `block` computes it over m ticks of float64
arrays, of which the first k have no value; `one` computes one value in plain Python, given its
arguments at this tick and, for lag 1, at the tick before. The block is what a network sees; the
single value only tells a tick that is surely good (see `check`), and may differ in the last bits.

Block invariance rests on two facts: every block works element by element, and the only functions
that IEEE 754 does not pin down to the last bit (log, log1p) always see contiguous float64 arrays,
so that NumPy takes the same code path for one element as for a thousand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Float64s: TypeAlias = npt.NDArray[np.float64]

NS_PER_S = 1e9
_HALF = np.array(0.5)  # an array, since NumPy takes longer to convert a Python number


class Function(NamedTuple):
    """A function: number of arguments, lag added to theirs, and both ways to compute it."""

    arity: int
    lag: int
    block: Callable[..., Float64s]
    one: Callable[..., float]


def _mid(a: Float64s, b: Float64s) -> Float64s:
    total = a + b
    total *= _HALF
    return total


def _imbalance(a: Float64s, b: Float64s) -> Float64s:
    total = a + b
    return np.divide(a - b, total, np.zeros_like(total), where=total != 0)


def _imbalance_one(a: float, b: float) -> float:
    total = a + b
    return (a - b) / total if total != 0.0 else 0.0


def _log_return(x: Float64s) -> Float64s:
    now = x[1:]
    ratio = now / x[:-1]
    # Two negative values have a positive ratio, and no logarithm of their own.
    np.copysign(ratio, now, ratio)
    return np.log(ratio, ratio)


def _log1p(x: Float64s) -> Float64s:
    return np.log1p(x if x.flags.c_contiguous else x.copy())


FUNCTIONS: Mapping[str, Function] = {
    "diff": Function(1, 1, lambda x: x[1:] - x[:-1], lambda now, before: now - before),
    # The differences of a block wrap around, and no time comes near the limit for it.
    "elapsed": Function(
        0,
        1,
        lambda t_ns: (t_ns[1:] - t_ns[:-1]) / NS_PER_S,
        lambda now, before: (now - before) / NS_PER_S,
    ),
    "imbalance": Function(2, 0, _imbalance, _imbalance_one),
    "lag": Function(1, 1, lambda x: x[:-1], lambda _, before: before),
    "log1p": Function(1, 0, _log1p, math.log1p),
    "log_return": Function(
        1, 1, _log_return, lambda now, before: math.log(math.copysign(now / before, now))
    ),
    "mid": Function(2, 0, _mid, lambda a, b: (a + b) * 0.5),
    "spread": Function(2, 0, lambda a, b: b - a, lambda a, b: b - a),
}
"""By name. `elapsed` takes the times of ticks, in nanoseconds, in place of arguments."""
