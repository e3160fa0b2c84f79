"""Missing values: which columns may have them, and what features see instead.

A missing value is NaN in the row of a tick, whatever the input calls it: null, nil, None, NaN, an
empty cell or an absent key. Infinity is never missing. Inputs ask `optional_columns` which values
may be missing. The session and the journal keep the NaN. A feature of a column with a policy is
compiled as a function of that column: `zero(x)` or `last(x, age)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from ..config import nearest
from ..errors import ConfigurationError
from ..schema import UNITS_NS, StreamConfig, parse_duration
from .expressions import Column, parse

EVERY = "*"
"""Stands for all columns that are not named."""

ACCEPTING = ("missing", "last", "zero")
"""Functions that make a value of a missing one: their columns may be missing."""

_ENTRY = re.compile(r"\s*(.+?)\s*=\s*(refuse|zero|last)(?::(.+?))?\s*")


class Policy(NamedTuple):
    """What features see instead of a missing value; `age_ns` limits the age of `last` unless 0."""

    kind: Literal["refuse", "zero", "last"] = "refuse"
    age_ns: int = 0


def missing_policies(stream: StreamConfig, columns: Sequence[str]) -> dict[str, Policy]:
    """Return the policy of each of the `columns`.

    Raises ConfigurationError for an entry of `on_missing` that is not COLUMN=POLICY, for an
    unknown column, and for a column that is named twice.
    """
    found: dict[str, Policy] = {}
    for entry in stream.on_missing:
        match, why = _ENTRY.fullmatch(entry), ""
        name, kind, age = match.groups() if match else ("", "", None)
        age_ns = _age_ns(age)
        if not match or (age and (kind != "last" or not age_ns)):
            units = ", ".join(UNITS_NS)
            why = f"write COLUMN=POLICY, with refuse, zero, last or last:5s (units: {units})"
        elif name in found:
            why = f"the column {name!r} has a policy already"
        elif name != EVERY and name not in columns:
            known = ", ".join(columns) or "none"
            why = f"unknown column {name!r}{nearest(name, columns)} (there are {known})"
        if why:
            raise ConfigurationError(f"on_missing = {entry!r}: {why}", key="on_missing")
        found[name] = Policy(kind, age_ns)  # type: ignore[arg-type]
    return {name: found.get(name, found.get(EVERY, Policy())) for name in columns}


def _age_ns(text: str | None) -> int:
    """Return an age in nanoseconds, 0 for none and for a text that is not one."""
    try:
        return parse_duration(text) if text else 0
    except ValueError:
        return 0


def optional_columns(stream: StreamConfig, columns: Sequence[str]) -> tuple[str, ...]:
    """Return which of the `columns` may be missing in a tick, in their order.

    These are the columns with a policy other than `refuse`, and the arguments of `missing`, `last`
    and `zero`. Raises what `missing_policies` and `expressions.parse` raise.
    """
    policies = missing_policies(stream, columns)
    asked = {name for text in stream.features for name in _asked(parse(text))}
    return tuple(name for name in columns if policies[name].kind != "refuse" or name in asked)


def _asked(tree: Any) -> Iterator[str]:
    """Yield the columns that are arguments of `missing`, `last` and `zero` in a tree."""
    for argument in getattr(tree, "arguments", ()):
        if tree.function in ACCEPTING and isinstance(argument, Column):
            yield argument.name
        yield from _asked(argument)
