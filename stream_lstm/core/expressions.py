"""Feature expressions as text, parsed into trees.

```
expression = NAME                                  a column
           | "QUOTED NAME"                         a column; `""` inside stands for one quote
           | FUNCTION ( [expression {, expression}] )
```

A name followed by `(` is a function, any other is a column, so a column may be called `spread`.
The text comes from a command line or a file of others: a tokenizer and a recursive descent
parser of our own, both bounded, are all that ever looks at it. The trees are plain frozen
values; equal trees are equal work, which `features` uses to compute what they share once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from ..config import nearest
from ..errors import ExpressionError
from .functions import FUNCTIONS

MAX_LENGTH = 1000
"""Characters of one expression; the longest sensible ones are under 200."""

MAX_DEPTH = 16
"""Functions inside functions: keeps the recursion small and the memory of earlier ticks short."""

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

    Raises ExpressionError pointing at the character that is wrong. Whether the columns exist is
    for whoever knows the columns to say.
    """
    if len(text) > MAX_LENGTH:
        message = f"the expression has {len(text)} characters, more than {MAX_LENGTH}"
        raise ExpressionError(message, expression=f"{text[:40]} ...", position=41)
    parser = _Parser(text)
    tree = parser.expression(depth=1)
    parser.end()
    return tree


def columns_of(expressions: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the columns that the expressions use, in order of first use.

    Raises ExpressionError as `parse` does.
    """
    return columns_in(parse(text) for text in expressions)


def columns_in(trees: Iterable[Expression]) -> tuple[str, ...]:
    """Return the names of the columns in the trees, in order of first use."""
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
    """Cut `text` into tokens, closed by one `end`."""
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
    """Return the name in the quotes that open at `start`, and the position behind them."""
    parts, at = [], start + 1
    while (close := text.find('"', at)) >= 0:
        parts.append(text[at:close])
        at = close + 1
        if not text.startswith('"', at):
            return '"'.join(parts), at
        at += 1
    raise ExpressionError("this quote is never closed", expression=text, position=start)


class _Parser:
    """Recursive descent with one token of look-ahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.token = next(self.tokens)

    def advance(self) -> _Token:
        """Take the current token and look at the next."""
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
        return self.fail("this parenthesis is never closed", opening)

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
            raise self.fail(f"more than {MAX_DEPTH} functions inside each other", name)
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
