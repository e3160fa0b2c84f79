"""Feature expressions compiled for evaluation, tick by tick or in blocks, to the same bits.

An expression of lag k needs the k ticks before its own: over m ticks it has m - k values. The
trees are flattened into steps that read and write numbered slots. Slot 0 contains the values and
slot 1 the times, and an expression that occurs twice has one slot. If the arguments of a function
have different lags, the longer one loses its first values.

**Checking single ticks.** A tick that publishes nothing is checked when it comes and computed
later, together with others. The check evaluates each feature in plain Python over the rows of a
buffer and compares it with a limit just below the real one. It answers "certainly good" or "not
certain"; then the vectorised features decide. So it needs no exact arithmetic.

**Clipped features.** The scaler divides by a standard deviation and subtracts no mean, so a level
far from zero, such as 1000 +- 1, is hundreds of standard deviations away and is always cut to the
same number. A constant is scaled to 0. `FeatureMonitor` finds both from the state of the scalers,
without looking at a tick.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..config import Config, nearest
from ..errors import ConfigurationError
from ..schema import LIMIT
from ..typing import Float64s
from .expressions import parse
from .functions import (
    FUNCTIONS,
    MAX_PURE_LAG,
    Function,
    constant,
    exactly,
    expand,
    is_constant,
    is_pure,
    lag_of,
    resolve,
    uses_time,
)
from .trees import Call, Column, Expression, Number, Span, Text, columns_in

if TYPE_CHECKING:
    from .session import Session
    from .table import StreamTable

Value: TypeAlias = Callable[[Any, Any, int], float]
"""A feature of row i, from the values of all rows one after another, and their times."""

SAFE = LIMIT * (1.0 - 1e-6)
"""A float64 value below this is below `LIMIT` in float32."""

MAX_CHECKED_LAG = 4
"""Deeper nested lags are left to the vectorised features: each evaluates its argument twice."""

_BOUNDED = frozenset({"+", "-", "neg", "abs", "lag", "diff", "mid", "spread", "imbalance"})
"""Functions that the last bits of a small argument do not carry to the limit."""


def checker(trees: Sequence[Expression], columns: Sequence[str]) -> Callable[..., bool]:
    """Return `good(values, t_ns, i)`: whether row i is certainly good.

    values: a flat memoryview of float64 rows. t_ns: one of int64. `good` is False if a feature
    cannot be computed.
    """
    if any(_nested(tree) > MAX_CHECKED_LAG for tree in trees):
        return lambda *_: False
    features = [_value(tree, list(columns)) for tree in trees]
    if len(features) == 1:
        only = features[0]
        return lambda values, t_ns, i: -SAFE < only(values, t_ns, i) < SAFE
    return lambda values, t_ns, i: all(-SAFE < one(values, t_ns, i) < SAFE for one in features)


def _nested(tree: Expression) -> int:
    """Return how many functions with a lag are inside each other at most."""
    if not isinstance(tree, Call):
        return 0
    return FUNCTIONS[tree.function].lag + max(map(_nested, tree.arguments), default=0)


def _value(tree: Expression, columns: list[str], exact: bool = False) -> Value:
    """Return what computes a tree at a row; `exact` for the bits of the vectorised features.

    A function such as a comparison or a quotient can turn the last bits of its argument into
    anything, so inexact functions inside it are computed exactly. The last bits of exp can be
    beyond the limit themselves.
    """
    width = len(columns)
    if isinstance(tree, Column):
        at = columns.index(tree.name)
        return lambda v, _, i: v[i * width + at]
    if is_constant(tree):
        value = constant(tree)
        return lambda *_: value
    assert isinstance(tree, Call)
    function, arguments = resolve(tree)
    one = exactly(function) if exact or function.name == "exp" else function.one
    assert one
    exact = exact or tree.function not in _BOUNDED
    named = [columns.index(part.name) for part in arguments if isinstance(part, Column)]
    if not function.lag and len(named) == len(arguments) == 2:
        # The commonest features are of two columns: a call for each would cost as much again.
        first, second = named
        return lambda v, _, i: one(v[i * width + first], v[i * width + second])
    inner = [_value(part, columns, exact) for part in _series(function, arguments)]
    if function.time:
        inner.insert(0, lambda _, t, i: t[i])
    of = inner[0]
    if k := lag_of(function, arguments):
        return lambda v, t, i: one(of(v, t, i), of(v, t, i - k))
    rest = _settings(function, arguments)
    if rest:
        return lambda v, t, i: one(*[part(v, t, i) for part in inner], *rest)
    if len(inner) == 1:
        return lambda v, t, i: one(of(v, t, i))
    return lambda v, t, i: one(*[part(v, t, i) for part in inner])


def _series(function: Function, arguments: Sequence[Expression]) -> list[Expression]:
    pairs = zip(function.parameters, arguments, strict=True)
    return [argument for parameter, argument in pairs if parameter.kind == "series"]


def _settings(function: Function, arguments: Sequence[Expression]) -> list[float | int | str]:
    """Return the values of the arguments that are not series, without the lag."""
    if function.lag:
        return []
    return [
        part.ns if isinstance(part, Span) else part.value
        for parameter, part in zip(function.parameters, arguments, strict=True)
        if parameter.kind != "series" and isinstance(part, Number | Span | Text)
    ]


Slots: TypeAlias = list[Any]
Step: TypeAlias = Callable[[Slots], None]

TINY = float(np.finfo(np.float32).smallest_normal)
"""Smaller magnitudes become zero: compiled code treats them as zero and NumPy does not, so they
would disagree about the sign."""

_VALUES, _TIMES = 0, 1


class FeatureSet:
    """The features of an element, over ticks with the given columns.

    expressions: one text for each feature; the first is the target. columns: names of the values
    of a tick, in order. prepare: returns what is computed for an expression.

    Attributes: `names`, the expressions in normal form; `columns_used`, the columns that they
    read; `lag`, the earlier ticks that an element needs, and `fill`, the same; `uses_time`,
    whether times are read; `good`, the check of a single tick.

    Raises ExpressionError for a wrong expression, and ConfigurationError for an unknown column or
    without expressions.
    """

    def __init__(
        self,
        expressions: Sequence[str],
        columns: Sequence[str],
        prepare: Callable[[Expression], Expression] = expand,
    ) -> None:
        trees = read_features(expressions, columns)
        self.names = tuple(str(tree) for tree in trees)
        self.columns_used = columns_in(trees)
        trees = [prepare(tree) for tree in trees]
        self.uses_time = any(map(uses_time, trees))
        if not is_pure(trees):
            message = f"features may look back {MAX_PURE_LAG} elements at most, without spans"
            raise ConfigurationError(message, key="features")
        plan = _Plan(columns)
        compiled = [plan.compile(tree) for tree in trees]
        self.lag = self.fill = max(plan.lags[slot] for slot in compiled)
        self.good = checker(trees, columns)
        self._outputs = tuple(enumerate(plan.cut(slot, self.lag) for slot in compiled))
        self._steps = tuple(plan.steps)
        self._spare = [plan.constants.get(slot) for slot in range(2, len(plan.lags))]

    others: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @np.errstate(all="ignore")
    def evaluate(self, t_ns: npt.NDArray[np.int64], values: Float64s) -> npt.NDArray[np.float32]:
        """Return the elements of a run of ticks, of which the first `lag` are memory.

        t_ns: int64 (m,); values: float64 (m, C). Returns C-contiguous float32 (m - lag, F): row
        j is the element of tick j + lag. Values that are not finite are returned as they are.
        """
        slots: Slots = [values, t_ns, *self._spare]
        for step in self._steps:
            step(slots)
        elements = np.empty((max(len(values) - self.lag, 0), len(self.names)), np.float32)
        for index, slot in self._outputs:
            elements[:, index] = slots[slot]
        elements[np.abs(elements) < TINY] = 0.0
        return elements


def read_features(expressions: Sequence[str], columns: Sequence[str]) -> list[Expression]:
    """Return the trees of features; raises what `FeatureSet` raises."""
    if not expressions:
        message = 'no features: set one or more, such as "log_return(mid(bid, ask))"'
        raise ConfigurationError(message, key="features")
    trees = [parse(text) for text in expressions]
    check_columns(columns_in(trees), columns)
    return trees


def check_columns(wanted: Sequence[str], columns: Sequence[str]) -> None:
    """Raise ConfigurationError for the first wanted column that is not in `columns`."""
    for name in wanted:
        if name not in columns:
            known = ", ".join(str(Column(column)) for column in columns) or "none"
            hint = nearest(name, columns)
            if not hint and name in FUNCTIONS:
                hint = f"; the function is written with parentheses: {name}(...)"
            message = f"unknown column {name!r}{hint} (there are {known})"
            raise ConfigurationError(message, key="features")


class _Plan:
    """Steps that fill slots, each slot with its lag; equal work is planned once."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = list(columns)
        self.lags = [0, 0]  # of the values and of the times
        self.constants: dict[int, float | int | str] = {}
        self.steps: list[Step] = []
        self._known: dict[object, int] = {}

    def compile(self, tree: Expression) -> int:
        """Plan the steps of `tree` and return the slot of its result."""
        if tree not in self._known:
            if isinstance(tree, Column):
                self._known[tree] = self._column(tree)
            elif is_constant(tree):
                self._known[tree] = self._constant(constant(tree))
            else:
                self._known[tree] = self._call(tree)
        return self._known[tree]

    def cut(self, slot: int, lag: int) -> int:
        """Return a slot with the values of `slot` from the tick `lag` on."""
        drop = lag - self.lags[slot]
        if not drop or slot in self.constants:
            return slot
        if (slot, lag) not in self._known:
            self._known[slot, lag] = self._add(lambda x: x[drop:], (slot,), lag)
        return self._known[slot, lag]

    def _column(self, column: Column) -> int:
        index = self.columns.index(column.name)
        return self._add(lambda values: values[:, index], (_VALUES,), 0)

    def _constant(self, value: float | int | str) -> int:
        self.lags.append(0)
        self.constants[len(self.lags) - 1] = value
        return len(self.lags) - 1

    def _call(self, call: Any) -> int:
        function, arguments = resolve(call)
        slots = [self.compile(part) for part in _series(function, arguments)]
        if function.time:
            slots.insert(0, _TIMES)
        lag = max(self.lags[slot] for slot in slots)
        if k := lag_of(function, arguments):
            return self._add(_lagged(function.block, k), (slots[0],), lag + k)
        slots += [self._constant(value) for value in _settings(function, arguments)]
        return self._add(function.block, tuple(self.cut(slot, lag) for slot in slots), lag)

    def _add(self, compute: Any, sources: tuple[int, ...], lag: int) -> int:
        target = len(self.lags)
        self.lags.append(lag)
        self.steps.append(_step(compute, sources, target))
        return target


def _lagged(block: Any, k: int) -> Callable[[Any], Any]:
    """Return `block` of an array from k on, and of the same k before."""
    return lambda x: block(x[k:], x[:-k])


def _step(compute: Callable[..., Any], sources: tuple[int, ...], target: int) -> Step:
    """Return what applies `compute` to the slots `sources` and puts the result in `target`."""
    first, last = sources[0], sources[-1]

    def unary(slots: Slots) -> None:
        slots[target] = compute(slots[first])

    def binary(slots: Slots) -> None:
        slots[target] = compute(slots[first], slots[last])

    def general(slots: Slots) -> None:
        slots[target] = compute(*[slots[source] for source in sources])

    return unary if len(sources) == 1 else binary if len(sources) == 2 else general


CHECK_EVERY = 1000
"""Elements between two checks, and before the first: the default memory of the scaler."""

BEYOND = 2.0
"""Standard deviations between a mean and the cut: then 98 % of normal values are cut."""


class FeatureMonitor:
    """Reports features that are clipped or constant in some stream, and missing streams, once."""

    def __init__(self, config: Config) -> None:
        self._names, self._scaling = config.stream.features, config.scaling
        self._others_reported = False
        self._reported = np.full(len(self._names), self._scaling.scaling == "none")

    def check(self, session: Session) -> list[str]:
        """Return a line for each finding since the last check; O(streams * features)."""
        table = session.table
        lines = [] if self._others_reported else self._check_others(session)
        return lines if self._reported.all() else lines + self._check_scalers(table)

    def _check_others(self, session: Session) -> list[str]:
        missing = session.waits_for()
        if not missing or (session.table.column("ticks") < CHECK_EVERY).all():
            self._others_reported = not missing
            return []
        self._others_reported = True
        return [f"no element can be made: {waiting_for(missing, session.table.names)}"]

    def _check_scalers(self, table: StreamTable) -> list[str]:
        features, rows = len(self._names), len(table)
        state = table.carry[:rows, : 1 + 2 * features].astype(np.float64)
        enough = table.column("n") >= CHECK_EVERY
        enough &= state[:, 0] >= min(CHECK_EVERY, self._scaling.memory)
        mean, sd = state[:, 1 : 1 + features], state[:, 1 + features :]
        found = sd == 0
        if self._scaling.scaling == "sd":
            found |= np.abs(mean) > (self._scaling.clip + BEYOND) * sd
        found &= enough[:, None]
        lines = []
        for k in np.flatnonzero(found.any(0) & ~self._reported):
            self._reported[k] = True
            row = int(found[:, k].argmax())
            lines.append(self._line(self._names[k], table.names[row], mean[row, k], sd[row, k]))
        return lines

    def _line(self, name: str, stream: str, mean: float, sd: float) -> str:
        if not sd:
            return (
                f"feature {name} of the stream {stream} has been constant, {mean:g}: the network "
                "sees 0 instead; leave it out, or check where its values come from"
            )
        return (
            f"feature {name} of the stream {stream} is about {mean:g} with a standard deviation "
            f"of {sd:.3g} (mostly {mean - 2 * sd:.6g} to {mean + 2 * sd:.6g}): nearly all of its "
            f"values are cut to the same number, at {self._scaling.clip:g} standard deviations "
            f"from zero; use diff({name}) or log_return({name}), subtract a typical level first, "
            'or set scaling = "zscore"'
        )


def check_streams(others: Sequence[str], names: Sequence[str]) -> None:
    """Raise ConfigurationError for streams that features refer to and that will never come.

    others: the streams that the features refer to. names: all streams that there will be.
    """
    missing = [name for name in others if name not in names]
    if missing:
        word = f"unknown stream{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
        message = f"the features refer to the {word}{_beside(missing, names)}"
        raise ConfigurationError(message, key="features")


def _beside(missing: Sequence[str], names: Sequence[str]) -> str:
    """Return the names that are most like the missing ones, and the names that there are."""
    known = ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
    hint = "".join(nearest(name, names) for name in missing)
    return f"{hint} (there are {known})" if known else f"{hint} (there are none)"


def waiting_for(missing: Sequence[str], names: Sequence[str]) -> str:
    """Return which streams features refer to that have no ticks; names: the streams that have."""
    word = "streams" if len(missing) > 1 else "stream"
    return (
        f"the features refer to the {word} {', '.join(missing)}, without any tick so far"
        f"{_beside(missing, names)}"
    )


MAX_NAMED = 10
"""Streams that a message lists."""
