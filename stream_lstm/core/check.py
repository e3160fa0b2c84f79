"""Features of a single tick in plain Python, to see at once whether it can be accepted.

A tick that publishes nothing is checked when it comes and computed later, together with others.
The check evaluates each feature over the rows of a buffer and compares it with a limit just below
the real one. It answers "surely good" or "look closely": in the second case the vectorised
features decide. So it may err on one side only, and needs no exact arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ..tables import LIMIT
from .expressions import Column, Expression
from .functions import FUNCTIONS

Value: TypeAlias = Callable[[Any, Any, int], float]
"""A feature of row i, given the values of all rows one after another, and their times."""

SAFE = LIMIT * (1.0 - 1e-6)
"""What is below this in float64 is below `LIMIT` in float32."""

MOST_LAGS = 4
"""Deeper memories are left to the vectorised features: each lag evaluates its argument twice."""


def checker(trees: Sequence[Expression], columns: Sequence[str], lag: int) -> Callable[..., bool]:
    """Return `good(values, t_ns, i)`: whether row i is surely good.

    values: a flat memoryview of float64 rows. t_ns: one of int64. It raises ArithmeticError and
    ValueError where a feature cannot be computed, which is to be taken as False.
    """
    if lag > MOST_LAGS:
        return _unknown
    width = len(columns)
    features = [_value(tree, list(columns), width) for tree in trees]
    if len(features) == 1:
        only = features[0]

        def good_one(values: Any, t_ns: Any, i: int) -> bool:
            return -SAFE < only(values, t_ns, i) < SAFE

        return good_one

    def good(values: Any, t_ns: Any, i: int) -> bool:
        return all(-SAFE < feature(values, t_ns, i) < SAFE for feature in features)

    return good


def _value(tree: Expression, columns: list[str], width: int) -> Value:
    if isinstance(tree, Column):
        at = columns.index(tree.name)
        return lambda v, _, i: v[i * width + at]
    function = FUNCTIONS[tree.function]
    one = function.one
    if not function.arity:
        return lambda _, t, i: one(t[i], t[i - 1])
    named = [columns.index(part.name) for part in tree.arguments if isinstance(part, Column)]
    if not function.lag and len(named) == function.arity == 2:
        # The commonest features are of two columns: a call for each would cost as much again.
        first, second = named
        return lambda v, _, i: one(v[i * width + first], v[i * width + second])
    inner = [_value(part, columns, width) for part in tree.arguments]
    of = inner[0]
    if function.lag:
        return lambda v, t, i: one(of(v, t, i), of(v, t, i - 1))
    if function.arity == 1:
        return lambda v, t, i: one(of(v, t, i))
    return lambda v, t, i: one(*[part(v, t, i) for part in inner])


def _unknown(values: Any, t_ns: Any, i: int) -> bool:
    """Leave a tick to the vectorised features."""
    del values, t_ns, i
    return False
