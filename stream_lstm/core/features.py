"""Feature expressions compiled for evaluation, tick by tick or in blocks, to the same bits.

An expression of lag k needs the k ticks before its own: over m ticks it has m - k values. The
trees are flattened once into steps that read and write numbered slots; slot 0 holds the values
and slot 1 the times, and an expression that occurs twice has one slot. Where a function takes
arguments of different lag, the longer one loses its first values.

Block invariance rests on two facts: every step works element by element, and the only functions
that IEEE 754 does not pin down to the last bit (log, log1p) always see contiguous float64
arrays, so that NumPy takes the same code path for one element as for a thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..config import nearest
from ..errors import ConfigurationError
from .expressions import ARITIES, Column, Expression, columns_in, parse

Float64: TypeAlias = npt.NDArray[np.float64]
Slots: TypeAlias = list[Any]
Step: TypeAlias = Callable[[Slots], None]

NS_PER_S = 1e9
_HALF = np.array(0.5)  # an array, since NumPy takes longer to convert a Python number
_VALUES, _TIMES = 0, 1


def _mid(a: Float64, b: Float64) -> Float64:
    total = a + b
    total *= _HALF
    return total


def _spread(a: Float64, b: Float64) -> Float64:
    return b - a


def _imbalance(a: Float64, b: Float64) -> Float64:
    total = a + b
    return np.divide(a - b, total, np.zeros_like(total), where=total != 0)


def _diff(x: Float64) -> Float64:
    return x[1:] - x[:-1]


def _lag(x: Float64) -> Float64:
    return x[:-1]


def _log_return(x: Float64) -> Float64:
    now = x[1:]
    ratio = now / x[:-1]
    # Two negative values have a positive ratio, and no logarithm of their own.
    np.copysign(ratio, now, ratio)
    return np.log(ratio, ratio)


def _log1p(x: Float64) -> Float64:
    return np.log1p(x if x.flags.c_contiguous else x.copy())


def _elapsed(t_ns: npt.NDArray[np.int64]) -> Float64:
    return (t_ns[1:] - t_ns[:-1]) / NS_PER_S


class _Kernel(NamedTuple):
    compute: Callable[..., Float64]
    lag: int  # ticks that it adds above its arguments


KERNELS: Mapping[str, _Kernel] = {
    "diff": _Kernel(_diff, 1),
    "elapsed": _Kernel(_elapsed, 1),
    "imbalance": _Kernel(_imbalance, 0),
    "lag": _Kernel(_lag, 1),
    "log1p": _Kernel(_log1p, 0),
    "log_return": _Kernel(_log_return, 1),
    "mid": _Kernel(_mid, 0),
    "spread": _Kernel(_spread, 0),
}


class FeatureSet:
    """The features of an element, over ticks with the given columns.

    expressions: one text for each feature; the first is the target.
    columns: names of the values of a tick, in order.

    Attributes: `names`, the expressions with their spaces put in order; `columns_used`, the
    columns that any of them reads; `lag`, the earlier ticks that an element needs; `uses_time`,
    whether times are read.

    Raises ExpressionError for an expression that is wrong, and ConfigurationError for a column
    that is not there or where there are no expressions.
    """

    def __init__(self, expressions: Sequence[str], columns: Sequence[str]) -> None:
        if not expressions:
            message = 'no features: name one or more, such as "log_return(mid(bid, ask))"'
            raise ConfigurationError(message, key="features")
        trees = [parse(text) for text in expressions]
        self.names = tuple(str(tree) for tree in trees)
        self.columns_used = columns_in(trees)
        check_columns(self.columns_used, columns)
        plan = _Plan(columns)
        compiled = [plan.compile(tree) for tree in trees]
        self.lag = max(plan.lags[slot] for slot in compiled)
        self.uses_time = plan.uses_time
        self._outputs = tuple(enumerate(plan.cut(slot, self.lag) for slot in compiled))
        self._steps = tuple(plan.steps)
        self._spare = [None] * (len(plan.lags) - 2)

    def __len__(self) -> int:
        return len(self.names)

    @np.errstate(all="ignore")
    def evaluate(self, t_ns: npt.NDArray[np.int64], values: Float64) -> npt.NDArray[np.float32]:
        """Return the elements of a run of ticks, its first `lag` ticks being memory.

        t_ns: int64 (m,); values: float64 (m, C). Returns C-contiguous float32 (m - lag, F): row
        j is the element of tick j + lag. What is not finite is returned as it is.
        """
        slots: Slots = [values, t_ns, *self._spare]
        for step in self._steps:
            step(slots)
        elements = np.empty((max(len(values) - self.lag, 0), len(self.names)), np.float32)
        for index, slot in self._outputs:
            elements[:, index] = slots[slot]
        return elements


def check_columns(wanted: Sequence[str], columns: Sequence[str]) -> None:
    """Raise ConfigurationError for the first wanted column that is not among `columns`."""
    for name in wanted:
        if name not in columns:
            known = ", ".join(str(Column(column)) for column in columns) or "none"
            hint = nearest(name, columns)
            if not hint and name in ARITIES:
                hint = f"; the function is written with parentheses: {name}(...)"
            message = f"unknown column {name!r}{hint} (there are {known})"
            raise ConfigurationError(message, key="features")


class _Plan:
    """Steps that fill slots, each slot with its lag; the same work is planned once."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = list(columns)
        self.lags = [0, 0]  # of the values and of the times
        self.steps: list[Step] = []
        self.uses_time = False
        self._known: dict[object, int] = {}

    def compile(self, tree: Expression) -> int:
        """Plan the steps of `tree` and return the slot of its result."""
        if tree not in self._known:
            self._known[tree] = (
                self._column(tree) if isinstance(tree, Column) else self._call(tree)
            )
        return self._known[tree]

    def cut(self, slot: int, lag: int) -> int:
        """Return a slot with the values of `slot` from the tick `lag` on."""
        drop = lag - self.lags[slot]
        if not drop:
            return slot
        if (slot, lag) not in self._known:
            self._known[slot, lag] = self._add(lambda x: x[drop:], (slot,), lag)
        return self._known[slot, lag]

    def _column(self, column: Column) -> int:
        index = self.columns.index(column.name)
        return self._add(lambda values: values[:, index], (_VALUES,), 0)

    def _call(self, call: Any) -> int:
        kernel = KERNELS[call.function]
        if call.function == "elapsed":
            self.uses_time = True
            return self._add(kernel.compute, (_TIMES,), kernel.lag)
        arguments = [self.compile(argument) for argument in call.arguments]
        lag = max(self.lags[slot] for slot in arguments)
        aligned = tuple(self.cut(slot, lag) for slot in arguments)
        return self._add(kernel.compute, aligned, lag + kernel.lag)

    def _add(self, compute: Callable[..., Any], sources: tuple[int, ...], lag: int) -> int:
        target = len(self.lags)
        self.lags.append(lag)
        self.steps.append(_step(compute, sources, target))
        return target


def _step(compute: Callable[..., Any], sources: tuple[int, ...], target: int) -> Step:
    """Return what applies `compute` to the slots `sources` and puts the result in `target`."""
    first, last = sources[0], sources[-1]

    def unary(slots: Slots) -> None:
        slots[target] = compute(slots[first])

    def binary(slots: Slots) -> None:
        slots[target] = compute(slots[first], slots[last])

    return unary if len(sources) == 1 else binary
