"""Feature expressions: their functions, and text parsed into trees.

```
expression = NAME                                  a column
           | "QUOTED NAME"                         a column; `""` inside is one quote
           | FUNCTION ( [expression {, expression}] )
```

A name followed by `(` is a function and any other name a column, so a column may be called
`spread`. The text comes from a command line or a foreign file, and only a bounded tokenizer and
recursive descent parser reads it. The trees are plain frozen values; equal trees are equal work,
which `features` computes once.

A function of lag k needs the k ticks before its own. `block` computes it over m ticks of float64
arrays, of which the first k have no value; `one` computes one value in plain Python, from its
arguments at this tick and, for lag 1, at the tick before. The network sees the block. The single
value only finds ticks that are certainly good, and may differ in the last bits.

The bits do not depend on the blocks for two reasons: every block works element by element, and
the only functions that IEEE 754 does not define to the last bit (log, log1p) always get contiguous
float64 arrays, for which NumPy takes the same code path for one element as for a thousand.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from ..config import nearest
from ..errors import ExpressionError
from ..typing import Float64s

NS_PER_S = 1e9
_HALF = np.array(0.5)  # NumPy takes longer to convert a Python number


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
    # Two negative values have a positive ratio, but no log return.
    np.copysign(ratio, now, ratio)
    return np.log(ratio, ratio)


def _log1p(x: Float64s) -> Float64s:
    return np.log1p(x if x.flags.c_contiguous else x.copy())


FUNCTIONS: Mapping[str, Function] = {
    "diff": Function(1, 1, lambda x: x[1:] - x[:-1], lambda now, before: now - before),
    # int64 differences could wrap around, but no real time is near the limit.
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
"""By name. `elapsed` takes the times of ticks, in nanoseconds, instead of arguments."""


MAX_LENGTH = 1000
"""Characters of one expression; the longest sensible ones are under 200."""

MAX_DEPTH = 16
"""Nested functions: bounds the recursion and the memory of earlier ticks."""

QUOTE = "; a column with an odd name goes in double quotes"


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """The value of a column at this tick."""

    name: str

    def __str__(self) -> str:
        if self.name.isidentifier():
            return self.name
        return '"' + self.name.replace('"', '""') + '"'


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A function of `FUNCTIONS` applied to its arguments."""

    function: str
    arguments: tuple[Expression, ...]

    def __str__(self) -> str:
        return f"{self.function}({', '.join(map(str, self.arguments))})"


Expression: TypeAlias = Column | Call


def parse(text: str) -> Expression:
    """Parse one feature expression.

    Raises ExpressionError with the position of the wrong character. The caller checks that the
    columns exist.
    """
    if len(text) > MAX_LENGTH:
        message = f"the expression has {len(text)} characters, more than {MAX_LENGTH}"
        raise ExpressionError(message, expression=f"{text[:40]} ...", position=41)
    parser = _Parser(text)
    tree = parser.expression(depth=1)
    parser.end()
    return tree


def columns_of(expressions: Iterable[str]) -> tuple[str, ...]:
    """Return the columns that the expressions use, in order of first use.

    Raises ExpressionError as `parse` does.
    """
    return columns_in(parse(text) for text in expressions)


def columns_in(trees: Iterable[Expression]) -> tuple[str, ...]:
    """Return the columns of the trees, in order of first use."""
    return tuple(dict.fromkeys(name for tree in trees for name in _columns(tree)))


def _columns(tree: Expression) -> Iterator[str]:
    if isinstance(tree, Column):
        yield tree.name
    else:
        for argument in tree.arguments:
            yield from _columns(argument)


class _Token(NamedTuple):
    kind: str  # "name", "quoted", "end", or the character itself: ( ) ,
    text: str
    position: int


def _tokens(text: str) -> Iterator[_Token]:
    """Yield the tokens of `text`, and one `end`."""
    at = 0
    while at < len(text):
        char, start = text[at], at
        at += 1
        if char.isspace():
            continue
        if char in "(),":
            yield _Token(char, char, start)
        elif char == '"':
            name, at = _quoted(text, start)
            yield _Token("quoted", name, start)
        elif char.isidentifier():
            while text[start : at + 1].isidentifier() and at < len(text):
                at += 1
            yield _Token("name", text[start:at], start)
        else:
            message = f"unexpected character {char!r}"
            raise ExpressionError(message + QUOTE, expression=text, position=start)
    yield _Token("end", "", len(text))


def _quoted(text: str, start: int) -> tuple[str, int]:
    """Return the name in the quotes that open at `start`, and the position after them."""
    parts, at = [], start + 1
    while (close := text.find('"', at)) >= 0:
        parts.append(text[at:close])
        at = close + 1
        if not text.startswith('"', at):
            return '"'.join(parts), at
        at += 1
    raise ExpressionError("this quote is not closed", expression=text, position=start)


class _Parser:
    """A recursive descent parser with one token of look-ahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.token = next(self.tokens)

    def advance(self) -> _Token:
        """Return the current token and advance to the next."""
        token = self.token
        if token.kind != "end":
            self.token = next(self.tokens)
        return token

    def fail(self, message: str, token: _Token) -> ExpressionError:
        return ExpressionError(message, expression=self.text, position=token.position)

    def unexpected(self, wanted: str) -> ExpressionError:
        found = "the end" if self.token.kind == "end" else repr(self.token.text)
        hint = QUOTE if self.token.kind in ("name", "quoted") else ""
        return self.fail(f"expected {wanted}, found {found}{hint}", self.token)

    def unclosed(self, opening: _Token) -> ExpressionError:
        return self.fail("this parenthesis is not closed", opening)

    def end(self) -> None:
        if self.token.kind != "end":
            raise self.unexpected("the end of the expression")

    def expression(self, depth: int) -> Expression:
        if self.token.kind not in ("name", "quoted"):
            empty = not self.text.strip()
            raise (
                self.fail("the expression is empty", self.token)
                if empty
                else self.unexpected("a column or a function")
            )
        name = self.advance()
        if name.kind == "quoted" or self.token.kind != "(":
            return Column(name.text)
        if depth > MAX_DEPTH:
            raise self.fail(f"more than {MAX_DEPTH} nested functions", name)
        return self.call(name, depth)

    def call(self, name: _Token, depth: int) -> Call:
        if name.text not in FUNCTIONS:
            hint = nearest(name.text, FUNCTIONS)
            known = ", ".join(sorted(FUNCTIONS))
            message = f"unknown function {name.text!r}{hint} (there are {known})"
            raise self.fail(message if hint else message + QUOTE, name)
        arguments = self.arguments(depth)
        wanted = FUNCTIONS[name.text].arity
        if len(arguments) != wanted:
            takes = f"takes {wanted or 'no'} argument{'' if wanted == 1 else 's'}"
            raise self.fail(f"{name.text} {takes}, not {len(arguments)}", name)
        return Call(name.text, arguments)

    def arguments(self, depth: int) -> tuple[Expression, ...]:
        opening = self.advance()
        if self.token.kind == ")":
            self.advance()
            return ()
        arguments = [self.argument(opening, depth)]
        while self.token.kind == ",":
            self.advance()
            arguments.append(self.argument(opening, depth))
        if self.token.kind != ")":
            end = self.token.kind == "end"
            raise self.unclosed(opening) if end else self.unexpected("',' or ')'")
        self.advance()
        return tuple(arguments)

    def argument(self, opening: _Token, depth: int) -> Expression:
        if self.token.kind == "end":
            raise self.unclosed(opening)
        return self.expression(depth + 1)
