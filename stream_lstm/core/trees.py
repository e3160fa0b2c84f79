"""The trees of feature expressions: plain frozen values, and their text.

`str(tree)` is the normal form, with as few parentheses as possible, and parses back to an equal
tree. Equal trees are equal work, which `features` computes once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from ..schema import UNITS_NS

COMPARISON, SUM, PRODUCT, SIGN, ATOM = range(5)

OPERATORS = dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), COMPARISON) | {
    "+": SUM,
    "-": SUM,
    "*": PRODUCT,
    "/": PRODUCT,
}
"""Binary operators, which are functions of two arguments, and how tightly they bind."""


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """The value of a column at this tick."""

    name: str

    def __str__(self) -> str:
        return self.name if self.name.isidentifier() else _quoted(self.name)


@dataclasses.dataclass(frozen=True, slots=True)
class Number:
    """A finite constant; `whole` if it is written without a point or an exponent."""

    value: float
    whole: bool = False

    def __str__(self) -> str:
        return str(int(self.value)) if self.whole else repr(self.value)


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """A duration in nanoseconds, at least 1."""

    ns: int

    def __str__(self) -> str:
        unit = next(unit for unit in reversed(UNITS_NS) if self.ns % UNITS_NS[unit] == 0)
        return f"{self.ns // UNITS_NS[unit]}{unit}"


@dataclasses.dataclass(frozen=True, slots=True)
class Text:
    """A text, such as the name of a stream."""

    value: str

    def __str__(self) -> str:
        return _quoted(self.value)


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A function of `FUNCTIONS` applied to its arguments; operators are functions too."""

    function: str
    arguments: tuple[Expression, ...]

    def __str__(self) -> str:
        level, parts = _level(self), self.arguments
        if self.function == "neg":
            # A minus sign before a number belongs to the number.
            bare = isinstance(parts[0], Number) and parts[0].value >= 0
            return "-" + _inside(parts[0], ATOM + 1 if bare else SIGN)
        if self.function in OPERATORS:
            left = _inside(parts[0], level + (level == COMPARISON))
            return f"{left} {self.function} {_inside(parts[1], level + 1)}"
        return f"{self.function}({', '.join(map(str, parts))})"


Expression: TypeAlias = Column | Number | Span | Text | Call


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _level(tree: Expression) -> int:
    if isinstance(tree, Number):
        return SIGN if tree.value < 0 else ATOM
    if not isinstance(tree, Call):
        return ATOM
    return SIGN if tree.function == "neg" else OPERATORS.get(tree.function, ATOM)


def _inside(tree: Expression, level: int) -> str:
    """Return the text of an operand, in parentheses if it binds less tightly than `level`."""
    return str(tree) if _level(tree) >= level else f"({tree})"


def columns_in(trees: Iterable[Expression]) -> tuple[str, ...]:
    """Return the columns of the trees, in order of first use."""
    return tuple(dict.fromkeys(name for tree in trees for name in _columns(tree)))


def _columns(tree: Expression) -> Iterator[str]:
    if isinstance(tree, Column):
        yield tree.name
    elif isinstance(tree, Call):
        for argument in tree.arguments:
            yield from _columns(argument)
