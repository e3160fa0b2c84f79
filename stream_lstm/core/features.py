"""Feature expressions compiled for evaluation, tick by tick or in blocks, to the same bits.

An expression of lag k needs the k ticks before its own: over m ticks it has m - k values. The
trees are flattened once into steps that read and write numbered slots; slot 0 holds the values
and slot 1 the times, and an expression that occurs twice has one slot. Where a function takes
arguments of different lag, the longer one loses its first values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..config import nearest
from ..errors import ConfigurationError
from .check import checker
from .expressions import Column, Expression, columns_in, parse
from .functions import FUNCTIONS

Float64: TypeAlias = npt.NDArray[np.float64]
Slots: TypeAlias = list[Any]
Step: TypeAlias = Callable[[Slots], None]

TINY = float(np.finfo(np.float32).smallest_normal)
"""What is nearer to zero is made zero: compiled code takes it for zero, and NumPy does not, so
that they would disagree about its sign."""

_VALUES, _TIMES = 0, 1


class FeatureSet:
    """The features of an element, over ticks with the given columns.

    expressions: one text for each feature; the first is the target.
    columns: names of the values of a tick, in order.

    Attributes: `names`, the expressions with their spaces put in order; `columns_used`, the
    columns that any of them reads; `lag`, the earlier ticks that an element needs; `uses_time`,
    whether times are read; `good`, the check of a single tick (see `check`).

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
        self.good = checker(trees, columns, self.lag)
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
        elements[np.abs(elements) < TINY] = 0.0
        return elements


def check_columns(wanted: Sequence[str], columns: Sequence[str]) -> None:
    """Raise ConfigurationError for the first wanted column that is not among `columns`."""
    for name in wanted:
        if name not in columns:
            known = ", ".join(str(Column(column)) for column in columns) or "none"
            hint = nearest(name, columns)
            if not hint and name in FUNCTIONS:
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
        function = FUNCTIONS[call.function]
        if not function.arity:
            self.uses_time = True
            return self._add(function.block, (_TIMES,), function.lag)
        arguments = [self.compile(argument) for argument in call.arguments]
        lag = max(self.lags[slot] for slot in arguments)
        aligned = tuple(self.cut(slot, lag) for slot in arguments)
        return self._add(function.block, aligned, lag + function.lag)

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
