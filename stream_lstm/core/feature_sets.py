"""Features compiled as they need: over the last raw ticks, or with a memory of their own.

Nothing here imports JAX, so a command finds a wrong feature in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..schema import StreamConfig
from .features import FeatureSet, read_features
from .functions import NS_PER_S, expand, is_pure, pure_lag, resolve, series_in
from .machine import StatefulFeatures
from .missing import Policy, missing_policies, optional_columns
from .trees import Call, Column, Expression, Number, Span, Text, columns_in

STANDARD = StreamConfig()

PARTIAL = frozenset(("/", "exp", "log", "log1p", "log_return", "spread_bps", "sqrt"))
"""Functions without memory that are not finite for all finite arguments."""

SHOWING = PARTIAL - {"exp", "spread_bps"} | frozenset(
    ("+", "-", "*", "neg", "abs", "mid", "spread", "imbalance", "diff")
)
"""Functions that are not finite if an argument is not; of a quotient, the first argument."""

OLDEST = frozenset(
    ("mid", "spread", "imbalance", "diff", "lag", "log_return", "log1p", "elapsed", "min")
)
"""The first functions, and what limits `elapsed`."""


def compile_features(
    expressions: Sequence[str], columns: Sequence[str], stream: StreamConfig = STANDARD
) -> FeatureSet | StatefulFeatures:
    """Return the features of expressions over ticks with the given columns.

    stream: further settings. Raises what `FeatureSet` raises, and ConfigurationError for a wrong
    setting.
    """
    trees = read_features(expressions, columns)
    policies = missing_policies(stream, columns)

    def prepare(tree: Expression) -> Expression:
        return _set(expand(tree), stream, policies)

    prepared = [prepare(tree) for tree in trees]
    for tree in prepared:
        _check_clocks(tree)
    # A missing value among raw ticks would be compared with all later ones.
    may_miss = optional_columns(stream, columns) and any(map(pure_lag, prepared))
    if is_pure(prepared) and not may_miss and not any(map(can_stick, prepared)):
        return FeatureSet(expressions, columns, prepare)
    return StatefulFeatures(list(map(str, trees)), prepared, columns)


def can_stick(tree: Expression) -> bool:
    """Return whether an expanded tree without other memory may refuse ticks for their past alone.

    This needs a function that is not finite everywhere, above or below one of lag. Sets of
    `OLDEST` functions keep the memory that they always had.
    """
    calls = list(_calls(tree))
    if {call.function for call in calls} <= OLDEST:
        return False
    partial = [call for call in calls if call.function in PARTIAL]
    lagged = [call for call in calls if resolve(call)[0].lag]
    return any(pure_lag(call) for call in partial) or any(
        part.function in PARTIAL
        for call in lagged
        for one in series_in(call)
        for part in _calls(one)
    )


def hidden_columns(features: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that features use, and whose bad values may not show in their tick.

    Sets of `OLDEST` functions, with lags of one tick, accept what they always accepted.
    """
    trees = [expand(tree) for tree in read_features(features, columns)]
    calls = [call for tree in trees for call in _calls(tree)]
    literals = any(isinstance(part, Number | Span) for call in calls for part in call.arguments)
    if {call.function for call in calls} <= OLDEST and not literals:
        return ()
    shown = {name for tree in trees for name in _shown(tree)}
    return tuple(name for name in columns_in(trees) if name not in shown)


def _shown(tree: Expression) -> Iterator[str]:
    """Yield the columns whose infinite and missing values make a tree not finite."""
    if isinstance(tree, Column):
        yield tree.name
    elif isinstance(tree, Call) and tree.function in SHOWING:
        for part in series_in(tree)[: 1 if tree.function == "/" else None]:
            yield from _shown(part)


def _calls(tree: Expression) -> Iterator[Call]:
    if isinstance(tree, Call):
        yield tree
        for part in tree.arguments:
            yield from _calls(part)


def _set(tree: Expression, stream: StreamConfig, policies: Mapping[str, Policy]) -> Expression:
    """Return a tree as settings change it.

    Columns are filled as their policies say, except in `missing(...)`, sessions stay closed on
    holidays, and `elapsed()` is at most a pause.
    """
    if isinstance(tree, Column):
        policy = policies[tree.name]
        if policy.kind == "refuse":
            return tree
        age = (Span(policy.age_ns),) if policy.age_ns else ()
        return Call(policy.kind, (tree, *age))
    if not isinstance(tree, Call) or (
        tree.function == "missing" and isinstance(tree.arguments[0], Column)
    ):
        return tree
    call = Call(tree.function, tuple(_set(part, stream, policies) for part in tree.arguments))
    if call.function == "elapsed" and stream.pause_ns:
        return Call("min", (call, Number(stream.pause_ns / NS_PER_S)))
    if call.function in ("session", "since_open") and stream.holidays:
        hours, zone, days = resolve(call)[1]
        assert isinstance(days, Text)
        return Call(call.function, (hours, zone, Text(" ".join((days.value, *stream.holidays)))))
    return call


def _check_clocks(tree: Expression) -> None:
    """Raise ConfigurationError for a wrong time zone or session."""
    if isinstance(tree, Call):
        function, arguments = resolve(tree)
        if function.time and function.block and not function.lag:
            texts = [part.value for part in arguments if isinstance(part, Text)]
            function.block(np.zeros(0, np.int64), *texts)
        for part in tree.arguments:
            _check_clocks(part)
